"""Evaluation of a canvas model on recorded canvases: skill, counterfactuals, rollouts, pictures.

Axis names: b batch, a actions, t rollout steps, h w pixels of a frame, H W of a canvas.

    result = evaluate(config, params, source, world, EvaluationConfig())
    result.numbers["skill"]["hit_rate_3px"]
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from absl import logging

from attn_jax.core.canvas import CanvasGeometry
from attn_jax.core.errors import ConfigError, SessionError
from attn_jax.core.typing import Params, PathLike
from attn_jax.data import sessions
from attn_jax.data.canvas import stripe_colour
from attn_jax.data.pipeline import CanvasSource, full_pass
from attn_jax.models.canvas import predict as predicting
from attn_jax.models.canvas.model import CanvasConfig
from attn_jax.models.canvas.skill import SkillMeter, constant_likeness
from robots import toroidal_dot

HIT_PX = 3.0
# A dot that is less than a quarter as bright as a real one does not count as found.
FOUND_BRIGHTNESS = 0.25


class World(Protocol):
    """What the evaluation may know of the recorded world beyond its frames."""

    def error_px(self, prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Distance (b,) between where things are in two sets of frames; infinite when not found."""
        ...

    def outcomes(self, frames: np.ndarray, actions: list[Mapping[str, Any]]) -> np.ndarray:
        """True next frames (b, a, h, w, 3) uint8 of every action."""
        ...


@dataclasses.dataclass(frozen=True)
class DotWorld:
    """The toroidal dot, whose true outcome of every action is known."""

    config: toroidal_dot.DotConfig

    def error_px(self, prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Distance on the torus between the dots, pixels."""
        found = toroidal_dot.locate_dot(prediction, self.config.radius)
        true = toroidal_dot.locate_dot(target, self.config.radius)
        error = toroidal_dot.toroidal_distance(found.x, found.y, true.x, true.y, self.config.size)
        return np.where(found.brightness >= FOUND_BRIGHTNESS, error, np.inf)

    def outcomes(self, frames: np.ndarray, actions: list[Mapping[str, Any]]) -> np.ndarray:
        """Renders the dot where each action takes it."""
        fit = toroidal_dot.locate_dot(frames, self.config.radius)
        return np.stack(
            [
                np.stack(
                    [
                        toroidal_dot.render(
                            toroidal_dot.step(int(x), a, self.config), int(y), self.config
                        )
                        for a in actions
                    ]
                )
                for x, y in zip(fit.x, fit.y, strict=True)
            ]
        )


def world_of(recordings: Sequence[PathLike], geometry: CanvasGeometry) -> World | None:
    """The world that sessions were recorded in; None when nothing more than frames is known.

    Sessions of other recorders do not say what their dot was like; the standard world of their
    frame size is taken for it, if there is one.

    Args:
      recordings: session folders; those of different worlds have no world in common.
      geometry: its frame size is that of the sessions.

    Raises:
      SessionError: metadata are damaged or do not fit the frames.
    """
    first, *others = {_recorded_world(path, geometry) for path in recordings}
    if others:
        logging.warning("the sessions come from different worlds: measures of the dot are left out")
        return None
    return first


def _recorded_world(session: PathLike, geometry: CanvasGeometry) -> DotWorld | None:
    meta = sessions.read_meta(session)
    if not meta.get("robot_type", "").startswith("ToroidalDot"):
        return None
    size = geometry.frame_size[0]
    if "robot" not in meta:
        if size in toroidal_dot.STANDARD_MOVES:
            return DotWorld(toroidal_dot.DotConfig.of_size(size))
        logging.warning("%s does not say how its dot moves: measures of it are left out", session)
        return None
    where = pathlib.Path(session) / sessions.META_FILE
    try:
        config = toroidal_dot.DotConfig.from_meta(meta["robot"])
    except ConfigError as error:
        raise SessionError(f"`robot`: {error.what}", where=where, fix=error.fix) from error
    if (config.size, config.size) != geometry.frame_size:
        raise SessionError(
            f"`robot` has frames of {config.size} pixels, the canvas of {geometry.frame_size}",
            where=where,
            fix="Restore the file",
        )
    return DotWorld(config)


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """How much to evaluate.

    Attributes:
      batch_size: canvases per compiled call.
      counterfactuals: observations on which every action is tried.
      rollouts: number of rollouts; 0 skips them.
      horizon: steps of a rollout, fewer when no recording is that long.
      pictures: examples kept as pictures.
    """

    batch_size: int = 16
    counterfactuals: int = 64
    rollouts: int = 32
    horizon: int = 8
    pictures: int = 6

    def __post_init__(self):
        counts = (self.counterfactuals, self.rollouts, self.pictures)
        if self.batch_size < 1 or self.horizon < 1 or min(counts) < 0:
            raise ConfigError(f"evaluation sizes must be positive, got {self}")


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """Numbers for `evaluation.json` and uint8 arrays for `pictures.npz`."""

    numbers: dict[str, Any]
    pictures: dict[str, np.ndarray]


def evaluate(
    config: CanvasConfig,
    params: Params,
    source: CanvasSource,
    world: World | None,
    settings: EvaluationConfig,
) -> Evaluated:
    """Everything at once; see `skill`, `counterfactuals` and `rollouts`."""
    space = source.store.action_space
    numbers: dict[str, Any] = {
        "action_names": [action_name(action) for action in space],
        "action_colours": [list(stripe_colour(action)) for action in space],
    }
    pictures: dict[str, np.ndarray] = {}
    for part in (skill, counterfactuals, rollouts):
        found = part(config, params, source, world, settings)
        numbers |= found.numbers
        pictures |= found.pictures
    numbers["skill"] |= constant_skill(
        config.geometry, source, settings, numbers["skill"]["best_constant"]
    )
    return Evaluated(numbers, pictures)


def constant_skill(
    geometry: CanvasGeometry, source: CanvasSource, settings: EvaluationConfig, grey: float
) -> dict[str, float]:
    """Likeness of two answers that need no model: the best grey, and black.

    A pass of its own, because the grey is known after a pass only, and frames are not kept.
    """
    numbers = {}
    for name, value in (("best_constant", grey), ("black", 0.0)):
        targets = (
            predicting.crop_target(batch["canvas"][batch["valid"]], geometry) / np.float32(255)
            for batch in full_pass(source, settings.batch_size)
        )
        found = constant_likeness(targets, value)
        numbers |= {f"{name}_{key}": number for key, number in found.items()}
    return numbers


def action_name(action: Mapping[str, Any]) -> str:
    """A short name, for example `action=1` or `motor_right=0.12`."""
    shown = {k: v for k, v in action.items() if k not in ("duration", "motor_left")}
    return ", ".join(f"{key}={value}" for key, value in shown.items())


def to_uint8(frames: np.ndarray) -> np.ndarray:
    """Frames in [0, 1] as uint8, clamped and rounded."""
    return np.rint(np.clip(frames, 0, 1) * 255).astype(np.uint8)


def evenly(total: int, wanted: int) -> np.ndarray:
    """At most `wanted` indices spread evenly over range(total)."""
    return np.unique(np.linspace(0, total - 1, min(wanted, total)).astype(np.int64))


def skill(
    config: CanvasConfig,
    params: Params,
    source: CanvasSource,
    world: World | None,
    settings: EvaluationConfig,
) -> Evaluated:
    """Skill on every canvas, deterministic, against marks that need no model.

    `hit_rate_3px`, `median_dot_error_px` and their kin are None where the world is unknown.
    """
    geometry = config.geometry
    predict = predicting.make_predict(config)
    meter = SkillMeter()
    errors, copied, actions = [], [], []
    shown = set(evenly(len(source), settings.pictures).tolist())
    pictures: dict[str, list[np.ndarray]] = {"canvas": [], "prediction": [], "target": []}
    for batch in full_pass(source, settings.batch_size):
        keep = batch["valid"]
        canvas = batch["canvas"][keep]
        frames = np.asarray(predict(params, batch["canvas"]))[keep]
        target = predicting.crop_target(canvas, geometry).astype(np.float32) / 255
        last = predicting.crop_last_visible(canvas, geometry).astype(np.float32) / 255
        meter.update(frames, target, last)
        actions.append(batch["last_action"][keep])
        if world is not None:
            errors.append(world.error_px(frames, target))
            copied.append(world.error_px(last, target))
        for row, index in enumerate(batch["index"][keep]):
            if int(index) in shown:
                pictures["canvas"].append(canvas[row])
                pictures["prediction"].append(to_uint8(frames[row]))
                pictures["target"].append(to_uint8(target[row]))
    numbers = meter.compute() | _error_numbers("", errors) | _error_numbers("copy_last_", copied)
    action = np.concatenate(actions)
    frame_mse = meter.per_frame_mse()
    per_action = {}
    for number, name in enumerate(map(action_name, source.store.action_space)):
        mine = action == number
        if mine.any():
            error = [np.concatenate(errors)[mine]] if errors else []
            per_action[name] = {
                "canvases": int(mine.sum()),
                "plain_mse": float(frame_mse[mine].mean()),
                **_error_numbers("", error),
            }
    stacked = {name: np.stack(images) for name, images in pictures.items() if images}
    return Evaluated({"skill": numbers, "per_action": per_action}, stacked)


def _error_numbers(prefix: str, errors: list[np.ndarray]) -> dict[str, float | None]:
    names = ("hit_rate_3px", "median_dot_error_px", "p95_dot_error_px")
    if not errors:
        return {prefix + name: None for name in names}
    error = np.concatenate(errors)
    # Order statistics without interpolation, so that a dot that was not found stays infinite.
    middle, high = np.quantile(error, [0.5, 0.95], method="higher")
    return {
        prefix + names[0]: float(np.mean(error <= HIT_PX)),
        prefix + names[1]: float(middle),
        prefix + names[2]: float(high),
    }


def counterfactuals(
    config: CanvasConfig,
    params: Params,
    source: CanvasSource,
    world: World | None,
    settings: EvaluationConfig,
) -> Evaluated:
    """Every action tried on the same history, against what would truly have happened.

    `correct_rate`: share of predictions that are nearer (mean squared error) to the true outcome of
    their own action than to that of any other action. `hit_rate_3px`: dot within 3 pixels of the
    true outcome. `divergence`: mean pairwise difference between the predictions of different
    actions, in grey levels 0 to 255; alone it is no skill. The first two are None where the world
    is unknown.
    """
    geometry, space = config.geometry, source.store.action_space
    chosen = evenly(len(source), settings.counterfactuals)
    canvas = source.gather(chosen)["canvas"]
    program = predicting.make_counterfactual(config)
    colours = np.array([stripe_colour(a) for a in space], np.uint8)
    frames = np.concatenate(
        [
            np.asarray(program(params, canvas[rows], colours))[: len(np.unique(rows))]
            for rows in _rows(len(canvas), settings.batch_size)
        ]
    )
    pairs = [
        np.abs(frames[:, i] - frames[:, j]).mean() * 255
        for i in range(len(space))
        for j in range(i)
    ]
    numbers: dict[str, Any] = {
        "observations": len(chosen),
        "divergence": float(np.mean(pairs)) if pairs else 0.0,
        "correct_rate": None,
        "hit_rate_3px": None,
        "per_action": {},
    }
    shown = evenly(len(chosen), min(settings.pictures, 3))
    pictures = {
        "counterfactual/context": canvas[shown],
        "counterfactual/prediction": to_uint8(frames[shown]),
    }
    if world is not None:
        truth = world.outcomes(predicting.crop_last_visible(canvas, geometry), list(space))
        true = truth.astype(np.float32) / 255
        distance = np.square(frames[:, :, None] - true[:, None]).mean(axis=(3, 4, 5))
        right = distance.argmin(axis=2) == np.arange(len(space))
        hit = np.stack(
            [world.error_px(frames[:, a], true[:, a]) <= HIT_PX for a in range(len(space))], axis=1
        )
        numbers |= {"correct_rate": float(right.mean()), "hit_rate_3px": float(hit.mean())}
        numbers["per_action"] = {
            action_name(action): {
                "correct_rate": float(right[:, a].mean()),
                "hit_rate_3px": float(hit[:, a].mean()),
            }
            for a, action in enumerate(space)
        }
        pictures["counterfactual/truth"] = truth[shown]
    return Evaluated({"counterfactual": numbers}, pictures)


def _rows(total: int, batch_size: int) -> list[np.ndarray]:
    """Row numbers of batches of one size; the last one repeats its last row."""
    return [
        np.minimum(np.arange(start, start + batch_size), total - 1)
        for start in range(0, total, batch_size)
    ]


def rollouts(
    config: CanvasConfig,
    params: Params,
    source: CanvasSource,
    world: World | None,
    settings: EvaluationConfig,
) -> Evaluated:
    """Predictions that feed on themselves along recorded actions: error against horizon.

    Starts are spread evenly over the recording. `copy_last` repeats the last frame that was seen
    before the rollout began.
    """
    geometry, store = config.geometry, source.store
    seen = geometry.history - 1
    horizon = settings.horizon
    windows = store.windows(seen + horizon)
    while not len(windows) and horizon > 1:
        horizon -= 1
        windows = store.windows(seen + horizon)
    if not len(windows) or not settings.rollouts:
        return Evaluated({"rollout": None}, {})
    windows = windows[evenly(len(windows), settings.rollouts)]
    actions = store.action_after[windows[:, :-1]]
    colours = np.array([stripe_colour(a) for a in store.action_space], np.uint8)[actions]
    canvas = np.zeros((len(windows), *geometry.canvas_size, 3), np.uint8)
    for slot in range(seen):
        start, stop = geometry.frame_columns(slot)
        canvas[:, :, start:stop] = store.frames[windows[:, slot]]
        start, stop = geometry.separator_columns(slot)
        canvas[:, :, start:stop] = colours[:, slot, None, None, :]
    program = predicting.make_rollout(config)
    frames = np.concatenate(
        [
            np.asarray(program(params, canvas[rows], colours[rows][:, seen - 1 :]))[
                : len(np.unique(rows))
            ]
            for rows in _rows(len(canvas), settings.batch_size)
        ]
    )
    true = store.frames[windows[:, seen:]].astype(np.float32) / 255
    last = store.frames[windows[:, seen - 1]].astype(np.float32) / 255
    numbers: dict[str, Any] = {
        "rollouts": len(windows),
        "horizon": list(range(1, horizon + 1)),
        "plain_mse": np.square(frames - true).mean(axis=(0, 2, 3, 4)).tolist(),
        "copy_last_mse": np.square(last[:, None] - true).mean(axis=(0, 2, 3, 4)).tolist(),
    }
    for name in ("hit_rate_3px", "median_dot_error_px"):
        numbers[name] = [
            None
            if world is None
            else _error_numbers("", [world.error_px(frames[:, t], true[:, t])])[name]
            for t in range(horizon)
        ]
    shown = evenly(len(windows), min(settings.pictures, 3))
    pictures = {
        "rollout/prediction": to_uint8(frames[shown]),
        "rollout/truth": to_uint8(true[shown]),
    }
    return Evaluated({"rollout": numbers}, pictures)
