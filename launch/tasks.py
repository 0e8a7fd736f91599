"""Task families by name: from a configuration to a task, its training data and what describes it.

A new family adds one entry to `build`.

    built = build(config)
    built.task, built.data, built.metadata
"""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import ml_collections

from attn_jax.core.canvas import CanvasGeometry
from attn_jax.core.errors import ConfigError
from attn_jax.data.parts import Part, Stretch, resolve_part, stretch
from attn_jax.data.pipeline import CanvasSource, load_frames, make_iterator
from attn_jax.data.sessions import read_events
from attn_jax.models.canvas.losses import LossConfig
from attn_jax.models.canvas.model import CanvasConfig, layouts
from attn_jax.models.canvas.task import CanvasTask
from attn_jax.train.sharding import process_rows
from launch import canvas_evaluation, pi05_training
from launch.built import Built


def build(config: ml_collections.ConfigDict) -> Built:
    """The task of `config.task`.

    Raises:
      ConfigError: unknown family.
      InputError: whatever else is wrong with the configuration or its data.
    """
    families: dict[str, Callable[[ml_collections.ConfigDict], Built]] = {
        "canvas": _canvas,
        "pi05": pi05_training.build,
    }
    if config.get("task") not in families:
        raise ConfigError(
            f"unknown task {config.get('task')!r}", fix=f"Known tasks: {', '.join(families)}"
        )
    return families[config.task](config)


def paths_of(text: str, field: str) -> list[pathlib.Path]:
    """Comma-separated paths of a configuration field; raises ConfigError when there is none."""
    paths = [pathlib.Path(item.strip()) for item in text.split(",") if item.strip()]
    if not paths:
        raise ConfigError(f"{field} is empty", fix=f"Give --config.{field}=FOLDER[,FOLDER...]")
    return paths


def hold_out(part: Part, share: float) -> tuple[Part, Part]:
    """Cuts a part in two: the first observations train, the last `share` of them validate.

    The cut is contiguous and no canvas crosses it, so no frame is in both.

    Raises:
      ConfigError: `share` is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise ConfigError(f"data.validation_share must be between 0 and 1, got {share}")
    events = read_events(part.session)
    total = sum(event.type == "observation" for event in events)
    stop = total if part.stop is None else part.stop
    cut = stop - max(1, round((stop - part.start) * share))
    return (
        Part(f"{part.name}_train", part.session, part.start, cut),
        Part(f"{part.name}_validate", part.session, cut, stop),
    )


def _stretches_apart(train: Sequence[Part], held_out: Sequence[Part]) -> list[Stretch]:
    """Stretches of the parts to train on.

    Raises:
      ConfigError: a part to validate on shares frames with one of them, or two of them do.
    """
    stretches = [stretch(part) for part in train]
    for part in held_out:
        for other, trained in zip(train, stretches, strict=True):
            if trained.shares_frames(stretch(part)):
                raise ConfigError(
                    f"validation part {part.name} shares frames with training part {other.name}",
                    fix="Divide the session with launch.split, or record another one",
                )
    for one, other in itertools.combinations(range(len(train)), 2):
        if stretches[one].shares_frames(stretches[other]):
            raise ConfigError(
                f"training parts {train[one].name} and {train[other].name} share frames, which"
                " would be trained on twice",
                where="data.sessions",
                fix="Name every frame once",
            )
    return stretches


def canvas_config(model: ml_collections.ConfigDict, frame_size: tuple[int, int]) -> CanvasConfig:
    """The model configuration for frames of a size."""
    fields = dict(model)
    geometry = CanvasGeometry(
        frame_size, *(fields.pop(name) for name in ("history", "separator", "patch"))
    )
    return CanvasConfig(geometry, **fields)


def _canvas(config: ml_collections.ConfigDict) -> Built:
    parts = [resolve_part(path) for path in paths_of(config.data.sessions, "data.sessions")]
    if config.data.validation:
        held_out = [
            resolve_part(path) for path in paths_of(config.data.validation, "data.validation")
        ]
    else:
        pairs = [hold_out(part, config.data.validation_share) for part in parts]
        parts, held_out = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    stretches = _stretches_apart(parts, held_out)
    frames = load_frames(parts)
    model = canvas_config(config.model, frames.frame_size)
    train_source = CanvasSource(frames, model.geometry)
    validation = CanvasSource(load_frames(held_out), model.geometry)
    world = canvas_evaluation.world_of([part.session for part in held_out], model.geometry)
    settings = canvas_evaluation.EvaluationConfig(pictures=0)

    def validate(params: Any) -> dict[str, Any]:
        found = canvas_evaluation.skill(model, params, validation, world, settings)
        return {k: v for k, v in found.numbers["skill"].items() if v is not None}

    loss = config.loss
    extra = None
    if loss.perceptual:
        from attn_jax.models.canvas.perceptual import load_perceptual_loss

        extra = load_perceptual_loss(loss.vgg_weights, model.geometry)
    task = CanvasTask(
        model,
        LossConfig(loss.alpha, loss.beta, loss.weighting, loss.foreground),
        (loss.mask_ratio_min, loss.mask_ratio_max),
        extra,
        loss.perceptual,
        jnp.dtype(config.train.optim.precision),
        {"validation": validate},
    )
    data = make_iterator(
        train_source,
        config.train.batch_size,
        config.seed,
        config.data.sampling,
        temperature=config.data.temperature,
        refresh_every=config.data.refresh_every,
        augment=config.data.augment or None,
        rows=process_rows(config.train.batch_size),
    )
    metadata = {
        "family": "canvas",
        "model": model.to_json(),
        "layouts": {name: layout.to_json() for name, layout in layouts(model).items()},
        "train_canvases": len(train_source),
        "validation_canvases": len(validation),
        "sessions": [part.name for part in parts],
        "stretches": [dataclasses.asdict(each) for each in stretches],
    }
    return Built(task, data, metadata, ("validation/plain_mse", "min"))
