"""Checkpoints: atomic, verified on load, the last and the best ones kept.

A checkpoint is a folder `<folder>/<step>/` written by Orbax with four parts: `params`, `ema` (when
an average is kept), `optimizer` (everything else on the device) and `host` (the position of the
data iterator, progress, checksums; text). Tensors are stored under their path, for example
`params/encoder/norm/scale`. The metadata hold the configuration, its hash, model sizes and layout.

    with Checkpoints(workdir / "checkpoints", metadata={"config": {...}}) as checkpoints:
        checkpoints.save(step, state, host={...}, data=iterator.get_state(), metric=0.1)
        restored = checkpoints.restore(state)            # None when there is no checkpoint yet
    params = load_params(workdir, ema=True)              # for evaluation; reads no optimizer state
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import flax.traverse_util
import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from attn_jax.core.differences import config_differences, config_hash, tensor_differences
from attn_jax.core.errors import CheckpointError, ConfigError, DiskFullError
from attn_jax.core.typing import PathLike
from attn_jax.train.checkpoint_files import (
    FORMAT,
    check_steps,
    checksum,
    default_device,
    find_checkpoint,
    load_host,
    load_part,
    read_metadata,
    saved_tensors,
    step_folder,
    tensor_structs,
    verify,
)
from attn_jax.train.host_text import json_text
from attn_jax.train.sharding import gather_text, whole
from attn_jax.train.step import TrainState

_SPARE_BYTES = 16 << 20  # metadata, and room for the metrics log to grow


def _uncompressed() -> ocp.Context:
    """Trained floats hardly compress, and it took ten times as long and their size in memory."""
    context = ocp.Context()
    context.array.saving.use_compression = False
    return context


@dataclasses.dataclass(frozen=True)
class Restored:
    """What `Checkpoints.restore` returns.

    Attributes:
      step: step of the checkpoint.
      state: the device state.
      host: what was saved as `host`.
      data: state of this process's data iterator.
    """

    step: int
    state: TrainState
    host: dict[str, Any]
    data: Any


class Checkpoints:
    """The checkpoints of one run; the only writer of its folder.

    Args:
      folder: made when missing.
      metadata: JSON-able description of the run, at least `config`; stored in every checkpoint and
        compared on restore.
      keep_last: number of newest checkpoints that are kept, at least 1.
      keep_best: number of best checkpoints that are kept, by the `metric` given to `save`.
      best_mode: `min` or `max`.
      may_change: configuration fields (`train.steps`) that restore does not compare, with all below
        them.

    Raises:
      ConfigError: fewer are kept than a run needs.
      CheckpointError: the metadata or metrics of a checkpoint in the folder are damaged.
    """

    def __init__(
        self,
        folder: PathLike,
        *,
        metadata: Mapping[str, Any] | None = None,
        keep_last: int = 2,
        keep_best: int = 1,
        best_mode: str = "min",
        may_change: Sequence[str] = (),
    ):
        self.folder = pathlib.Path(folder).absolute()
        self.metadata = {"format": FORMAT, **(metadata or {})}
        self.metadata["config_hash"] = config_hash(self.metadata.get("config", {}))
        for name, count, least in (("keep_last", keep_last, 1), ("keep_best", keep_best, 0)):
            if count < least:
                raise ConfigError(f"{name} is {count}", fix=f"Keep at least {least}")
        policies = ocp.training.preservation_policies
        keep: Any = [policies.LatestN(keep_last)]
        if keep_best:
            keep.append(
                policies.BestN(
                    get_metric_fn=_rank(best_mode),
                    n=keep_best,
                    keep_checkpoints_without_metrics=False,
                )
            )
        self.keeps_best = keep_best > 0
        self._may_change = tuple(may_change)
        self._preserve: Any = policies.AnyPreservationPolicy(keep)
        self._checkpointer = self._open()

    def _open(self) -> ocp.training.Checkpointer:
        check_steps(self.folder)
        always: Any = ocp.training.save_decision_policies.FixedIntervalPolicy(1)
        return ocp.training.Checkpointer(
            os.fspath(self.folder),
            preservation_policy=self._preserve,
            save_decision_policy=always,
            cleanup_tmp_directories=True,  # what a killed process left behind
            context=_uncompressed(),
        )

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Releases the folder."""
        self._checkpointer.close()

    def steps(self) -> list[int]:
        """Steps of the finished checkpoints, ascending."""
        return [checkpoint.step for checkpoint in self._checkpointer.checkpoints]

    def save(
        self,
        step: int,
        state: TrainState,
        *,
        host: Mapping[str, Any] | None = None,
        data: Any = None,
        metric: float | None = None,
    ) -> None:
        """Writes a checkpoint; returns when it is complete and visible under its final name.

        Args:
          step: names the checkpoint; must be new.
          state: device state.
          host: JSON-able values, arrays and bytes allowed.
          data: state of this process's data iterator, as `host`.
          metric: value that ranks the checkpoint among the best, or None.

        Raises:
          DiskFullError: not enough space; checkpoints written earlier are intact.
        """
        parts = _split(state)
        self._check_space(parts)
        texts = {
            # A tensor beside the texts: Orbax warns about a part that has none.
            "format": np.asarray(FORMAT),
            "host": json_text(host or {}),
            "data": json.dumps(gather_text(json_text(data))),
            "checksums": json.dumps(_checksums(parts)),
        }
        try:
            self._checkpointer.save_checkpointables(
                step,
                {**parts, "host": texts},
                metrics=None if metric is None else {"best": float(metric), "step": step},
                custom_metadata=self.metadata,
                force=True,
            )
        except (OSError, ValueError) as error:
            full = self._disk_full(parts) if _is_disk_full(error) else None
            self._abandon(step)
            if full is not None:
                raise full from error
            raise

    def restore(self, like: TrainState, step: int | None = None) -> Restored | None:
        """Reads a checkpoint strictly.

        Args:
          like: state, or `ShapeDtypeStruct`s, whose structure, shapes, dtypes and shardings the
            result has.
          step: which checkpoint; None = the latest, and None is returned when there is none.

        Raises:
          CheckpointError: damaged, of another configuration (every differing field and tensor is
            named) or, with `step` given, missing.
        """
        steps = self.steps()
        if step is None:
            if not steps:
                return None
            step = steps[-1]
        folder = step_folder(self.folder, step)
        saved = read_metadata(folder)
        targets = _split(like)
        problems = config_differences(
            saved.get("config", {}), self.metadata.get("config", {}), ignore=self._may_change
        ) + tensor_differences(saved_tensors(folder), targets)
        if problems:
            raise CheckpointError(
                "the checkpoint belongs to another configuration:\n  " + "\n  ".join(problems),
                where=folder,
                fix="Use the configuration it was made with, or another --workdir",
            )
        kept = load_host(folder)
        flat: dict[str, Any] = {}
        for name, target in targets.items():
            loaded = load_part(folder, name, {k: _as_struct(v) for k, v in target.items()})
            verify(folder, name, loaded, kept["checksums"])
            flat.update(loaded)
        paths, treedef = jax.tree_util.tree_flatten_with_path(like)
        state = treedef.unflatten([flat[_name(path)] for path, _ in paths])
        data = kept["data"]
        if len(data) != jax.process_count():
            raise CheckpointError(
                f"it was written by {len(data)} processes, this run has {jax.process_count()}",
                where=folder,
                fix="Continue with as many processes",
            )
        return Restored(step, state, kept["host"], data[jax.process_index()])

    def _abandon(self, step: int) -> None:
        """Clears up after a save that failed, so that the folder can be used on."""
        with contextlib.suppress(OSError, ValueError):
            self._checkpointer.close()  # raises the error of the save once more
        if jax.process_index() == 0:
            for left in self.folder.glob(f"{step}.orbax-checkpoint-tmp*"):
                shutil.rmtree(left)
        self._checkpointer = self._open()

    def _check_space(self, parts: Mapping[str, Mapping[str, Any]]) -> None:
        if shutil.disk_usage(self.folder).free < _bytes_needed(parts):
            raise self._disk_full(parts)

    def _disk_full(self, parts: Mapping[str, Mapping[str, Any]]) -> DiskFullError:
        free_mb = shutil.disk_usage(self.folder).free / 1e6
        needed_mb = _bytes_needed(parts) / 1e6
        return DiskFullError(
            f"a checkpoint needs {needed_mb:.1f} MB and {free_mb:.1f} MB are free",
            where=self.folder,
            fix="Free some space and run the same command again; earlier checkpoints are intact",
        )


def load_params(path: PathLike, *, ema: bool = True, step: int | str = "latest") -> Any:
    """Parameters of a checkpoint for evaluation; the optimizer's state is not read.

    Args:
      path: a work directory or its `checkpoints` folder.
      ema: take the averaged parameters when the run kept them.
      step: a step, `latest` or `best`.

    Returns:
      Nested dict of arrays as the task's `init` makes it.

    Raises:
      CheckpointError: missing or damaged.
    """
    folder = find_checkpoint(path, step)
    part = "ema" if ema and (folder / "ema").is_dir() else "params"
    stored = tensor_structs(folder, part)
    device = default_device()
    target = {
        name: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=device) for name, s in stored.items()
    }
    loaded = load_part(folder, part, target)
    verify(folder, part, loaded, load_host(folder)["checksums"])
    names = {tuple(name.split("/")[1:]): value for name, value in loaded.items()}
    return flax.traverse_util.unflatten_dict(names)


def load_metadata(path: PathLike, *, step: int | str = "latest") -> dict[str, Any]:
    """Metadata of a checkpoint: `config`, `config_hash` and what the run added."""
    return read_metadata(find_checkpoint(path, step))


def parameter_differences(path: PathLike, params: Any) -> list[str]:
    """How the latest checkpoint's parameters differ from `params`, one line per tensor.

    Args:
      path: a work directory or its `checkpoints` folder.
      params: arrays or `ShapeDtypeStruct`s as the task's `init` makes them.

    Raises:
      CheckpointError: missing or damaged.
    """
    wanted = {
        f"params/{_name(path)}": leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    saved = tensor_structs(find_checkpoint(path), "params")
    return tensor_differences({"params": saved}, {"params": wanted})


def fingerprint(path: PathLike, *, ema: bool = True, step: int | str = "latest") -> tuple[int, str]:
    """Step of a checkpoint, and what tells its parameters from others: `sha256:...`.

    The hash is over the hash of the configuration, the step and the checksums of all tensors, as
    the checkpoint keeps them. Arguments as those of `load_params`.

    Raises:
      CheckpointError: missing or damaged.
    """
    folder = find_checkpoint(path, step)
    part = "ema" if ema and (folder / "ema").is_dir() else "params"
    checksums = load_host(folder)["checksums"]
    facts = [read_metadata(folder).get("config_hash"), int(folder.name), part, checksums]
    text = json.dumps(facts, sort_keys=True)
    return int(folder.name), f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _rank(best_mode: str) -> Any:
    """What Orbax sorts checkpoints by, the worst first; of equals, the earliest is the best.

    So is the one that `RunState.improves` marks, and it has to be among those that are kept.
    """
    sign = -1.0 if best_mode == "min" else 1.0
    # Checkpoints of earlier versions do not say their step; they are older.
    return lambda metrics: (sign * metrics["best"], -metrics.get("step", 0))


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _split(state: TrainState) -> dict[str, dict[str, Any]]:
    """Part -> tensor name -> leaf."""
    parts: dict[str, dict[str, Any]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        name = _name(path)
        top = name.split("/")[0]
        part = top if top in ("params", "ema") else "optimizer"
        parts.setdefault(part, {})[name] = leaf
    return parts


def _as_struct(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(leaf, "sharding", None) or default_device()
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _bytes_needed(parts: Mapping[str, Mapping[str, Any]]) -> int:
    leaves = [leaf for part in parts.values() for leaf in part.values()]
    return sum(int(np.prod(x.shape)) * np.dtype(x.dtype).itemsize for x in leaves) + _SPARE_BYTES


def _checksums(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """CRC-32 of every tensor; what is split over processes is gathered, one after the other."""
    return {name: checksum(whole(leaf)) for part in parts.values() for name, leaf in part.items()}


def _is_disk_full(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(text in str(error) for text in ("No space left on device", "Disk quota exceeded")):
            return True
        error = error.__cause__ or error.__context__
    return False
