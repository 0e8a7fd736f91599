"""Trains a task.

    python -m launch.train --config=configs/canvas.py:size=64 --workdir=RUN \
        --config.data.sessions=SESSION [--config.train.steps=N] [--json]

The same command again continues where the run stopped, killed or not, with the same numbers as if
it had never stopped. `touch RUN/stop`, SIGTERM and Ctrl-C end it after the current step with a
checkpoint.

RUN holds `config.json`, `run.json`, `metrics.jsonl`, `checkpoints/` and `result.json`. Exit code 0:
a limit of the configuration or the stop file ended the run; 128 + signal number: a signal did.

Several processes: every one gets the same command with its own `--config.distributed.process_id`
and a shared `--workdir`.
"""

from __future__ import annotations

import dataclasses
import pathlib
import signal
import sys
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
from absl import logging

from attn_jax.core.differences import config_differences
from attn_jax.core.errors import ConfigError, InputError
from attn_jax.train import config as config_lib
from attn_jax.train.checkpoint_files import alone
from attn_jax.train.checkpoints import Checkpoints, load_metadata, parameter_differences
from attn_jax.train.loop import FitResult, fit
from attn_jax.train.sharding import make_mesh
from attn_jax.train.step import init_state
from attn_jax.train.stopping import StopKind
from attn_jax.train.writers import JsonlWriter, TensorBoardWriter, WandbWriter, Writer, Writers
from launch import app, compile_cache, tasks
from launch.built import Built

CONFIG = app.define_config()
# Fields that decide which tensors a model has.
MODEL_FIELDS = ("model.", "lora.")
#: Fields that follow from the length of the run, see `config.resolve`.
SCHEDULE_FIELDS = ("train.optim.warmup_steps", "train.optim.decay_steps")


def main(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
    """Trains `config.task` in `workdir`; returns what --json prints."""
    compile_cache.enable()
    start_distributed(config)
    result = train(config, workdir, tasks.build)
    if result.reason.kind is StopKind.INTERRUPTED:
        print(f"stopped early: {result.reason.detail}; the same command continues", file=sys.stderr)
        sys.exit(128 + signal.Signals[result.reason.detail.split()[-1]].value)
    return summary(result)


def train(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    build: Callable[[ml_collections.ConfigDict], Built],
) -> FitResult:
    """Builds the task, continues or starts the run, writes `result.json`.

    Raises:
      ConfigError: the work directory holds a run of another configuration.
      InputError: see `build` and `fit`.
    """
    config_lib.resolve(config.train)
    check_same_config(config, workdir, build)
    optim = config_lib.optim_config(config.train)
    built = build(config)
    optim = dataclasses.replace(optim, frozen=built.frozen)
    loop = config_lib.loop_config(config.train, built.best)
    stop_file = workdir / "stop"
    until = config_lib.until(config.train, built.best, str(stop_file))
    if jax.process_index() == 0:
        app.prepare_workdir(workdir, config)
        stop_file.unlink(missing_ok=True)  # of an earlier call
        built.prepare(workdir)
    metadata = {"config": app.jsonable(config.to_dict()), **app.jsonable(built.metadata)}
    writer = Writers(make_writers(config, workdir) if jax.process_index() == 0 else [])
    checkpoints = Checkpoints(
        workdir / "checkpoints",
        metadata=metadata,
        may_change=config_lib.MAY_CHANGE,
        keep_last=config.train.keep_last,
        keep_best=config.train.keep_best,
        best_mode=built.best[1],
    )
    rules = config_lib.sharding_rules(config.train)
    # Rules are checked on one device too: they are for the same run on more.
    mesh = make_mesh(config.train.fsdp) if jax.device_count() > 1 or rules else None
    state = None
    if built.params is not None and not checkpoints.steps():
        state = init_state(built.task, optim, config.seed, params=built.params)
    try:
        result = fit(
            built.task,
            built.data,
            optim,
            state,
            until,
            seed=config.seed,
            loop=loop,
            checkpoints=checkpoints,
            writer=writer,
            mesh=mesh,
            rules=rules,
        )
    finally:
        if hasattr(built.data, "close"):
            built.data.close()
        writer.close()
        checkpoints.close()
    if jax.process_index() == 0:
        app.write_json(workdir / "result.json", summary(result))
        if result.reason.kind is not StopKind.INTERRUPTED:
            with alone():
                built.finish(workdir)
    return result


def check_same_config(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    build: Callable[[ml_collections.ConfigDict], Built],
) -> None:
    """Compares with the configuration of the run in `workdir`, before anything is built.

    Raises:
      ConfigError: they differ; names every field, and every tensor when the model is another.
    """
    folder = workdir / "checkpoints"
    if not folder.is_dir() or not any(path.name.isdigit() for path in folder.iterdir()):
        return
    saved = load_metadata(workdir)["config"]
    different = config_differences(
        saved, app.jsonable(config.to_dict()), ignore=config_lib.MAY_CHANGE
    )
    if different:
        text = "this folder holds a run of another configuration: " + "; ".join(different)
        if any(line.startswith(MODEL_FIELDS) for line in different):
            text = "\n  ".join([text, *_tensors(config, workdir, build)])
        fix = "Use the same configuration, or another --workdir"
        if all(line.startswith(SCHEDULE_FIELDS) for line in different):
            optim = saved["train"]["optim"]
            keep = " ".join(f"--config.{f}={optim[f.split('.')[-1]]}" for f in SCHEDULE_FIELDS)
            fix = f"To train on along the same schedule add {keep}"
        raise ConfigError(text, where=workdir, fix=fix)


def _tensors(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    build: Callable[[ml_collections.ConfigDict], Built],
) -> list[str]:
    """How the saved parameters differ from those of `config`, one line per tensor."""
    try:
        built = build(config)
    except InputError as error:
        return [f"the model of this configuration cannot be built: {error}"]
    if hasattr(built.data, "close"):
        built.data.close()
    return parameter_differences(workdir, jax.eval_shape(built.task.init, jax.random.key(0)))


def make_writers(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> list[Writer]:
    """The destinations of metrics that `config.train` asks for."""
    writers: list[Writer] = [JsonlWriter(workdir / "metrics.jsonl")]
    if config.train.tensorboard:
        writers.append(TensorBoardWriter(workdir / "tensorboard"))
    if config.train.wandb:
        writers.append(WandbWriter(config.train.wandb, workdir.name, workdir))
    return writers


def summary(result: FitResult) -> dict[str, Any]:
    """JSON-able outcome of a run."""
    return {
        "stop": {"kind": result.reason.kind.value, "detail": result.reason.detail},
        "step": result.step,
        "samples": result.samples,
        "best": result.best,
        "metrics": result.metrics,
        "timing": dataclasses.asdict(result.timing),
    }


def start_distributed(config: ml_collections.ConfigDict) -> None:
    """Connects the processes of a run; without a coordinator in `config.distributed` there is one.

    Raises:
      ConfigError: num_processes and process_id do not fit together.
    """
    distributed = config.get("distributed")
    if distributed is None or not distributed.coordinator:
        return
    if not 0 <= distributed.process_id < distributed.num_processes:
        raise ConfigError(
            f"distributed.process_id is {distributed.process_id} of "
            f"{distributed.num_processes} processes",
            fix="Number the processes 0, 1, ...",
        )
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        distributed.coordinator, distributed.num_processes, distributed.process_id
    )
    logging.info("process %d of %d", jax.process_index(), jax.process_count())


if __name__ == "__main__":
    app.run(main, config=CONFIG, field="task", needs_workdir=True)
