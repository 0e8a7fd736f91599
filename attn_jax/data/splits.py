"""Splits of a session into growing stages of training and validation, and a fixed test part.

Parts are runs of consecutive observations (`attn_jax.data.parts`), so two parts share no frame and
no canvas crosses from one to the other. The test part is the end of the session: no stage ever
contains it.

    plan = plan_stages("sessions/dot", total=1000, test_observations=100)
    plan.stages[0].train                      # Part dot_stage1_train_7: observations 0 to 7
    for part in plan.parts():
        write_part(part, f"splits/{part.name}.json")
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import pathlib
import shutil

import numpy as np

from attn_jax.core import files
from attn_jax.core.errors import ConfigError, SessionError
from attn_jax.core.typing import Int, PathLike
from attn_jax.data import sessions
from attn_jax.data.parts import Part
from attn_jax.data.pipeline import CanvasSource

FIRST_SIZE = 10
TRAIN_FRACTION = 0.7


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage: train on the first observations, validate on the ones after them."""

    number: int
    train: Part
    validate: Part


@dataclasses.dataclass(frozen=True)
class StagePlan:
    """All stages of a session, and the test part (or None) that no stage contains."""

    stages: tuple[Stage, ...]
    test: Part | None

    def parts(self) -> tuple[Part, ...]:
        """Every part, stage by stage, the test part last."""
        staged = [part for stage in self.stages for part in (stage.train, stage.validate)]
        return (*staged, *(() if self.test is None else (self.test,)))


def stage_sizes(total: int, num_stages: int | None = None) -> tuple[int, ...]:
    """Observations of each stage, the last one `total`.

    Args:
      total: observations to divide.
      num_stages: even increments; default is 10, 20, 40, ... and then the whole.

    Raises:
      ConfigError: fewer than two observations for a stage.
    """
    if num_stages is None:
        if total < 2:
            raise ConfigError(f"{total} observations cannot be divided into stages")
        sizes = []
        size = FIRST_SIZE
        while size < total:
            sizes.append(size)
            size *= 2
        return (*sizes, total)
    if num_stages < 1 or total // num_stages < 2:
        raise ConfigError(
            f"{total} observations cannot be divided into {num_stages} stages",
            fix="Each stage needs at least 2 more observations",
        )
    return tuple(total * number // num_stages for number in range(1, num_stages + 1))


def plan_stages(
    session: PathLike,
    total: int,
    *,
    num_stages: int | None = None,
    train_fraction: float = TRAIN_FRACTION,
    test_observations: int = 0,
) -> StagePlan:
    """Divides a session of `total` observations; writes nothing.

    Args:
      session: the session folder; its name begins the names of all parts.
      total: observations in the session.
      num_stages: see `stage_sizes`.
      train_fraction: share of a stage, rounded up, that is trained on.
      test_observations: observations at the end that no stage may use.

    Raises:
      ConfigError: a part would be empty.
    """
    session = pathlib.Path(session)
    name = session.name or session.absolute().name
    if not 0 < train_fraction < 1 or not 0 <= test_observations < total:
        raise ConfigError(
            "train_fraction must lie in (0, 1) and the test part must leave observations, got "
            f"{train_fraction} and {test_observations} of {total}"
        )
    usable = total - test_observations
    stages = []
    for number, size in enumerate(stage_sizes(usable, num_stages), start=1):
        # Rounded first, because 0.7 * 10 must not become 8 by a floating-point hair.
        train = math.ceil(round(size * train_fraction, 9))
        held_out = size - train
        if held_out < 1:
            raise ConfigError(f"stage {number} of {size} observations has none to validate on")
        prefix = f"{name}_stage{number}"
        stages.append(
            Stage(
                number,
                Part(f"{prefix}_train_{train}", session, 0, train),
                Part(f"{prefix}_validate_{held_out}", session, train, size),
            )
        )
    test = None
    if test_observations:
        test = Part(f"{name}_test_{test_observations}", session, usable, total)
    return StagePlan(tuple(stages), test)


def halve(session: PathLike, total: int, at: int | None = None) -> tuple[Part, Part]:
    """The first `at` observations (default half of them, rounded down) and the rest.

    Raises:
      ConfigError: one of the two would be empty.
    """
    session = pathlib.Path(session)
    name = session.name or session.absolute().name
    at = total // 2 if at is None else at
    if not 0 < at < total:
        raise ConfigError(f"cannot halve {total} observations after {at}")
    return (
        Part(f"{name}_part1_{at}", session, 0, at),
        Part(f"{name}_part2_{total - at}", session, at, total),
    )


def count_observations(session: PathLike) -> int:
    """Observations of a session; raises SessionError for a missing or corrupt one."""
    sessions.read_meta(session)
    events = sessions.read_events(session)
    return sum(event.type == sessions.OBSERVATION for event in events)


def export_part(part: Part, folder: PathLike) -> pathlib.Path:
    """Copies a part into `folder / part.name` as a session of its own, with steps counted from 0.

    Pictures are copied byte by byte. Metadata gains `split_from` and `split_step_offset`.

    Raises:
      SessionError: the target exists, or the session is damaged.
      DiskFullError: no space left; what was copied is no session yet.
    """
    target = pathlib.Path(folder) / part.name
    if target.exists():
        raise SessionError("already exists", where=target, fix="Choose another folder")
    meta = sessions.read_meta(part.session)
    events = sessions.read_events(part.session)
    observed = [event.step for event in events if event.type == sessions.OBSERVATION]
    chosen = observed[part.start : part.stop]
    if not chosen or (part.stop or 0) > len(observed):
        raise SessionError(
            f"holds {len(observed)} observations, part {part.name} takes {part.start} to "
            f"{part.stop}",
            where=part.session,
        )
    first, last = chosen[0], chosen[-1]
    with files.disk_errors(target, what="a session"):
        lines = []
        (target / sessions.FRAMES_FOLDER).mkdir(parents=True)
        for event in events:
            if not first <= event.step <= last:
                continue
            data = dict(event.data)
            if event.type == sessions.OBSERVATION:
                source = part.session / data["frame_path"]
                image_format = "png" if source.suffix == ".png" else "jpeg"
                data["frame_path"] = sessions.frame_path(event.step - first, image_format)
                _copy_frame(source, target / data["frame_path"])
            step = event.step - first
            lines.append({**dataclasses.asdict(event), "step": step, "data": data})
        shard_size = int(meta.get("shard_size", 1000))
        for number, start in enumerate(range(0, len(lines), shard_size)):
            text = "".join(json.dumps(line) + "\n" for line in lines[start : start + shard_size])
            (target / sessions.shard_name(number)).write_text(text, encoding="utf-8")
        meta |= {
            "session_name": part.name,
            "total_shards": -(-len(lines) // shard_size),
            "total_steps": last - first + 1,
            "split_from": str(meta.get("session_name", part.session.name)),
            "split_step_offset": first,
        }
        if starts := sessions.episode_starts(meta):
            inside = {step - first for step in starts if first < step <= last}
            meta["episode_boundary"] = sorted({0, *inside})
        text = json.dumps(meta, indent=2) + "\n"
        # Metadata last: a folder without it is not taken for a session.
        (target / sessions.META_FILE).write_text(text, encoding="utf-8")
    return target


def _copy_frame(source: pathlib.Path, target: pathlib.Path) -> None:
    try:
        shutil.copyfile(source, target)
    except FileNotFoundError as error:
        raise SessionError(
            "frame is missing", where=source, fix="Run launch.sessions validate"
        ) from error


def drop_seen(validation: CanvasSource, training: CanvasSource) -> Int[np.ndarray, " c"]:
    """Numbers of the validation canvases whose last transition is not in training.

    A transition is the frame before the last action (by MD5 of its pixels) with that action. Pass
    the result as `keep` to a new CanvasSource.

    Raises:
      SessionError: the two have different action spaces.
    """
    if validation.store.action_space != training.store.action_space:
        raise SessionError(
            "validation and training have different action spaces",
            where=", ".join(validation.store.names),
        )
    seen = set(_transitions(training))
    unseen = [number for number, key in enumerate(_transitions(validation)) if key not in seen]
    return np.array(unseen, np.int64)


def _transitions(source: CanvasSource) -> list[tuple[str, int]]:
    digests = {}
    for row in np.unique(source.rows[:, -2]):
        frame = np.ascontiguousarray(source.store.frames[row])
        digests[row] = hashlib.md5(frame.tobytes(), usedforsecurity=False).hexdigest()
    return [
        (digests[row], int(action))
        for row, action in zip(source.rows[:, -2], source.actions[:, -1], strict=True)
    ]
