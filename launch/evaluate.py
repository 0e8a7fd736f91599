"""Metrics of a checkpoint, and what it looks at.

    python -m launch.evaluate --checkpoint=RUN --data=SESSION [--workdir=EVAL] [--capture=SELECTION]
    [--json]

RUN is the --workdir of launch.train. SESSION is a session folder or a split index file; several are
separated by commas. With --json the last line is the result: for a canvas model `plain_mse`,
`copy_last_mse`, `hit_rate_3px`, `median_dot_error_px`, `canvases` and the rest of the skill, with
`per_action`, `counterfactual` and `rollout` beside them; a number that does not exist (the dot was
not found, the world is unknown) is null. `trained_on` names the data that the checkpoint was
trained on, in part or whole; null when it does not say.

With --workdir the folder receives `evaluation.json`, `pictures.npz` and, with --capture, the
attention record `attention/` (or --record). SELECTION is `all` or for example
`streams=decoder;layers=last:2;reduce=full`.

    python -m launch.evaluate --checkpoint=DIR --episodes=ROOT --workdir=RUN --capture=SELECTION

runs a policy over recorded episodes instead; see `launch.episode_evaluation`.

A policy (Pi0.5) is evaluated by rollouts instead:

    python -m launch.evaluate --checkpoint=CHECKPOINT --workdir=RUN
    --config=configs/rollout.py:libero|tabletop [--config.field=value] [--capture=SELECTION]
    [--json]

`--env=libero` is short for `--config=configs/rollout.py:libero`, so that `--config.episodes=5` goes
with it. RUN receives `episodes/` (see
docs/rollouts.md), `videos/` and `eval_info.json`, whose `overall` --json prints. What was
interrupted goes on when the same command is given again.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags, logging

from attn_jax.core import files
from attn_jax.core.errors import ConfigError
from attn_jax.data.parts import Part, Stretch, resolve_part, stretch
from attn_jax.data.pipeline import CanvasSource, load_frames
from attn_jax.models.canvas.model import CanvasConfig, CanvasModel, layouts
from attn_jax.models.canvas.predict import as_float, recordable
from attn_jax.probe.capture import capture, discover, to_records
from attn_jax.probe.codecs import encode
from attn_jax.probe.schema import start_run
from attn_jax.probe.select import Plan, Selection, resolve
from attn_jax.probe.store import RecordWriter
from attn_jax.train.checkpoints import load_metadata, load_params
from configs import rollout
from launch import (
    app,
    canvas_evaluation,
    compile_cache,
    episode_evaluation,
    rollout_evaluation,
    tasks,
)

CHECKPOINT = app.define_checkpoint()
STEP = flags.DEFINE_string("step", "latest", "Checkpoint to take: latest, best or a step number.")
DATA = flags.DEFINE_string("data", None, "Sessions or split index files, comma-separated.")
EMA = flags.DEFINE_bool("ema", True, "Take the averaged parameters where the run kept them.")
CAPTURE = app.define_capture()
RECORD = flags.DEFINE_string(
    "record", None, "Where the attention goes instead of WORKDIR/attention."
)
EPISODES = app.define_episodes()
TOKENIZER = app.define_tokenizer()
SEED = app.define_seed()
CALLS = flags.DEFINE_integer("calls", 4, "Canvases whose attention is recorded.", lower_bound=1)
COUNTERFACTUALS = flags.DEFINE_integer(
    "counterfactuals", 64, "Observations on which every action is tried.", lower_bound=1
)
ROLLOUTS = flags.DEFINE_integer("rollouts", 32, "Rollouts; 0 skips them.", lower_bound=0)
CONFIG = app.define_config()
ENV = app.define_env()  # `expanded` makes a --config of it
HORIZON = flags.DEFINE_integer("horizon", 8, "Steps of a rollout.", lower_bound=1)


def main() -> dict[str, Any]:
    """Evaluates and returns what --json prints."""
    if EPISODES.value:
        if not CHECKPOINT.value:
            raise ConfigError("--checkpoint is required")
        return episode_evaluation.from_flags(
            EPISODES.value, CHECKPOINT.value, TOKENIZER.value, SEED.value
        )
    if CONFIG.value is not None:
        return _rollouts()
    for flag in (CHECKPOINT, DATA):
        if not flag.value:
            raise ConfigError(f"--{flag.name} is required")
    compile_cache.enable()
    step = int(STEP.value) if STEP.value.isdecimal() else STEP.value
    if isinstance(step, str) and step not in ("latest", "best"):
        raise ConfigError(f"--step takes latest, best or a number, got {step!r}")
    selection = Selection.parse(CAPTURE.value) if CAPTURE.value else None
    if selection and not app.WORKDIR.value:
        raise ConfigError("--capture needs --workdir", fix="Name a folder for the record")
    record = _record_folder() if selection else None
    metadata = load_metadata(CHECKPOINT.value, step=step)
    if metadata.get("family") != "canvas":
        raise ConfigError(
            f"cannot evaluate a checkpoint of family {metadata.get('family')!r}",
            where=CHECKPOINT.value,
            fix="Known families: canvas",
        )
    config = CanvasConfig.from_json(metadata["model"])
    parts = [resolve_part(path) for path in tasks.paths_of(DATA.value, "data")]
    source = CanvasSource(load_frames(parts), config.geometry)
    world = canvas_evaluation.world_of([part.session for part in parts], config.geometry)
    params = load_params(CHECKPOINT.value, ema=EMA.value, step=step)
    # What cannot be captured or written ends here, not after the evaluation.
    if selection:
        capture_plan(config, params, source, selection)
    folder = app.make_workdir(app.WORKDIR.value) if app.WORKDIR.value else None
    settings = canvas_evaluation.EvaluationConfig(
        counterfactuals=COUNTERFACTUALS.value, rollouts=ROLLOUTS.value, horizon=HORIZON.value
    )
    result = canvas_evaluation.evaluate(config, params, source, world, settings)
    numbers = result.numbers | {
        "decode": config.decode,
        "geometry": dataclasses.asdict(config.geometry),
        "checkpoint": {
            "config_hash": metadata["config_hash"],
            "step": step,
            "train_canvases": metadata.get("train_canvases"),
        },
        "data": [part.name for part in parts],
        "trained_on": trained_on(parts, metadata),
    }
    if folder is not None:
        pictures = result.pictures
        if selection is not None and record is not None:
            pictures = pictures | record_attention(
                config, params, source, selection, record, metadata
            )
        app.write_json(folder / "evaluation.json", numbers)
        app.write_json(folder / "run.json", app.provenance(metadata["config"].get("seed")))
        write_pictures(folder / "pictures.npz", pictures)
        logging.info("wrote %s", folder)
    logging.info(
        "plain mse %.5f, copy-last %.5f",
        numbers["skill"]["plain_mse"],
        numbers["skill"]["copy_last_mse"],
    )
    return {**numbers["skill"], **{k: v for k, v in numbers.items() if k != "skill"}}


def trained_on(parts: Sequence[Part], metadata: Mapping[str, Any]) -> list[str] | None:
    """Names of the parts that share frames with those that a checkpoint was trained on.

    None when the checkpoint does not say, as an imported one.
    """
    if "stretches" not in metadata:
        return None
    known = [Stretch(**fields) for fields in metadata["stretches"]]
    names = [part.name for part in parts if any(map(stretch(part).shares_frames, known))]
    if names:
        logging.warning("the checkpoint was trained on frames of %s", ", ".join(names))
    return names


def write_pictures(path: pathlib.Path, pictures: dict[str, np.ndarray]) -> None:
    """Writes pictures of an evaluation, name -> uint8 array; raises DiskFullError."""
    files.write_file(path, lambda file: np.savez_compressed(file, **pictures), what="pictures")


def expanded(argv: Sequence[str]) -> list[str]:
    """The command line with the `--config` that `--env` is short for.

    Raises:
      ConfigError: both are given, or one of them twice.
    """
    out, shorts, configs = [], 0, 0
    words = iter(argv)
    for word in words:
        flag, equals, value = word.partition("=")
        name = flag.lstrip("-") if flag.startswith("-") else ""
        if name == ENV.name:
            shorts += 1
            value = value if equals else next(words, "")
            word = f"--{CONFIG.name}={rollout.__file__}:{value}"
        configs += name in (ENV.name, CONFIG.name)
        out.append(word)
    if shorts and configs > 1:
        raise ConfigError("give --env or --config, not both", fix="Set fields by --config.x=...")
    return out


def _rollouts() -> dict[str, Any]:
    for name, value in (("checkpoint", CHECKPOINT.value), ("workdir", app.WORKDIR.value)):
        if not value:
            raise ConfigError(f"--{name} is required")
    compile_cache.enable()
    info = rollout_evaluation.evaluate(
        app.value_of(CONFIG, "n_envs", "configs/rollout.py:tabletop"),
        checkpoint=CHECKPOINT.value,
        run=app.WORKDIR.value,
        selection=Selection.parse(CAPTURE.value) if CAPTURE.value else None,
        tokenizer=TOKENIZER.value,
    )
    return info["overall"]


def _record_folder() -> pathlib.Path:
    """Where the record goes; raises ConfigError when something is there, before any work."""
    folder = pathlib.Path(RECORD.value or pathlib.Path(app.WORKDIR.value or ".") / "attention")
    if folder.exists() and not folder.is_dir():
        raise ConfigError("is a file", where=folder, fix="Name a folder for the record")
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(
            "holds an attention record already", where=folder, fix="Remove it or name another one"
        )
    return folder


def capture_plan(
    config: CanvasConfig, params: Any, source: CanvasSource, selection: Selection
) -> tuple[Callable[..., tuple[Any, Any]], Plan]:
    """The model of `recordable(config)` with its attention, and what of it `selection` keeps.

    Raises:
      InputError: the model has no such stream, layer, head or token group.
    """
    recorded = recordable(config)
    model = CanvasModel(recorded)

    def apply(params: Any, canvas: jax.Array) -> tuple[Any, Any]:
        return model.apply({"params": params}, as_float(canvas), mutable=["attn"])

    one = source.gather(np.zeros(1, np.int64))["canvas"]
    return apply, resolve(selection, discover(apply, layouts(recorded), params, one))


def record_attention(
    config: CanvasConfig,
    params: Any,
    source: CanvasSource,
    selection: Selection,
    folder: pathlib.Path,
    metadata: dict[str, Any],
) -> dict[str, np.ndarray]:
    """Records the attention of `--calls` predictions, all from one compiled program.

    Returns:
      `attention_canvas` (calls, H, W, 3) uint8, the canvas of every recorded call.
    """
    apply, plan = capture_plan(config, params, source, selection)
    chosen = canvas_evaluation.evenly(len(source), CALLS.value)
    batch = source.gather(chosen)
    captured = capture(apply, plan, stack=False)

    @jax.jit
    def program(params: Any, canvas: jax.Array) -> Any:
        frames, maps = captured(params, canvas)
        return frames, encode(maps, plan)

    start_run(
        folder,
        selection=selection,
        provenance={
            "family": "canvas",
            "model": recordable(config).to_json(),
            "config_hash": metadata["config_hash"],
            **app.provenance(metadata["config"].get("seed")),
        },
    )
    actions = [canvas_evaluation.action_name(a) for a in source.store.action_space]
    info = {
        "canvases": chosen.tolist(),
        "last_action": [actions[i] for i in batch["last_action"]],
    }
    with RecordWriter(folder, info=info) as writer:
        for call, canvas in enumerate(batch["canvas"]):
            if selection.wants(call):
                _, maps = program(params, canvas[None])
                writer.append(to_records(maps, plan)[0], env_step=int(chosen[call]))
    kept = [call for call in range(len(chosen)) if selection.wants(call)]
    return {"attention_canvas": batch["canvas"][kept]}


if __name__ == "__main__":
    app.run(main, expand=expanded)
