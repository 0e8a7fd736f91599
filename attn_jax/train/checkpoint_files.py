"""Checkpoints as files: finding, reading and verifying the parts of one; see `checkpoints`.

Usage:

    folder = find_checkpoint(workdir, "best")
    load_part(folder, "params", {"params/w": jax.ShapeDtypeStruct((3,), np.float32, sharding=...)})
"""

from __future__ import annotations

import contextlib
import json
import logging as logging_std
import os
import pathlib
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from absl import logging
from orbax.checkpoint import v1 as ocp

from attn_jax.core.differences import config_hash
from attn_jax.core.errors import CheckpointError
from attn_jax.core.typing import PathLike
from attn_jax.train.host_text import json_value


class _QuietOrbax(logging_std.Filter):
    """Drops what Orbax reports of its inner steps, and tracebacks of errors that it also raises."""

    def filter(self, record: logging_std.LogRecord) -> bool:
        if "orbax" not in record.pathname:
            return True
        return record.levelno >= logging_std.WARNING and not record.exc_info


logging.get_absl_logger().addFilter(_QuietOrbax())

FORMAT = 1
_METADATA = "_CHECKPOINT_METADATA"  # Orbax's name


def find_checkpoint(path: PathLike, step: int | str = "latest") -> pathlib.Path:
    """Folder of one finished checkpoint below a work directory or checkpoints folder.

    Raises:
      CheckpointError: there is none.
    """
    folder = pathlib.Path(path).absolute()
    if (folder / "checkpoints").is_dir():
        folder = folder / "checkpoints"
    found = (
        sorted((int(p.name), p) for p in folder.iterdir() if p.name.isdigit())
        if folder.is_dir()
        else []
    )
    if not found:
        raise CheckpointError(
            "no checkpoint here", where=folder, fix="Give the --workdir of a finished training run"
        )
    if step == "latest":
        return found[-1][1]
    if step == "best":
        return _best(folder, [number for number, _ in found])
    for number, path_ in found:
        if number == step:
            return path_
    raise CheckpointError(
        f"there is no step {step}", where=folder, fix=f"Steps: {[n for n, _ in found]}"
    )


def step_folder(folder: pathlib.Path, step: int) -> pathlib.Path:
    """Folder of a step.

    Raises:
      CheckpointError: it does not exist.
    """
    path = folder / str(step)
    if not path.is_dir():
        raise CheckpointError(f"there is no checkpoint of step {step}", where=folder)
    return path


def _best(folder: pathlib.Path, steps: list[int]) -> pathlib.Path:
    """The checkpoint that the run marked as its best so far."""
    best = load_host(folder / str(steps[-1]))["host"].get("best") or {}
    if best.get("step") not in steps:
        raise CheckpointError(
            "no best checkpoint is kept",
            where=folder,
            fix="Train with evaluations and keep_best of at least 1, or ask for the latest",
        )
    return folder / str(best["step"])


def default_device() -> jax.sharding.Sharding:
    """Where a tensor goes that has no sharding of its own, whatever device wrote it."""
    return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])


def checksum(leaf: Any) -> int:
    """CRC-32 of the bytes of an array that this process holds completely."""
    return zlib.crc32(np.ascontiguousarray(np.asarray(leaf)).view(np.uint8).reshape(-1).data)


def verify(
    folder: pathlib.Path, part: str, loaded: Mapping[str, Any], checksums: Mapping[str, int]
) -> None:
    """Compares loaded tensors with their checksums; raises CheckpointError naming a damaged one."""
    for name, leaf in loaded.items():
        here = leaf.is_fully_addressable or leaf.is_fully_replicated
        if here and name in checksums and checksum(leaf) != checksums[name]:
            raise CheckpointError(
                f"tensor {name} is damaged: its checksum does not match",
                where=folder / part,
                fix="Remove this step's folder to fall back to the checkpoint before it",
            )


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Within, this process reads checkpoints without waiting for the others of its run."""
    if jax.process_count() == 1:
        yield
        return
    context = ocp.Context()
    context.multiprocessing.primary_host = jax.process_index()
    context.multiprocessing.active_processes = {jax.process_index()}
    context.multiprocessing.barrier_sync_key_prefix = f"process_{jax.process_index()}"
    with context:
        yield


def load_part(folder: pathlib.Path, part: str, target: Any) -> Any:
    """One part of a checkpoint; raises CheckpointError when it cannot be read.

    `target` maps tensor names to `ShapeDtypeStruct`s; None reads everything as it is stored.
    """
    try:
        return ocp.load_checkpointables(os.fspath(folder), {part: target})[part]
    except (OSError, ValueError, KeyError, ocp.errors.InvalidLayoutError) as error:
        raise _damaged(folder / part, error) from error


def load_host(folder: pathlib.Path) -> dict[str, Any]:
    """What a checkpoint keeps beside its tensors.

    Returns:
      `host`, a dict; `data`, the state of the data iterator of every process; `checksums`, by
      tensor name.

    Raises:
      CheckpointError: missing or damaged.
    """
    texts = load_part(folder, "host", None)
    try:
        values = {name: json_value(texts[name]) for name in ("host", "data", "checksums")}
        values["data"] = [json_value(text) for text in values["data"]]
        if not all(isinstance(values[name], dict) for name in ("host", "checksums")):
            raise TypeError("it is not what was saved")
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(folder / "host", error) from error
    return values


def check_steps(folder: pathlib.Path) -> None:
    """Checks what Orbax reads of all steps in a checkpoints folder when it opens the folder.

    Raises:
      CheckpointError: metadata are no JSON, or a metric that ranks a checkpoint is no number.
    """
    for path in sorted(folder.glob(f"[0-9]*/{_METADATA}")):
        _read_json(path)
    for path in sorted(folder.glob("[0-9]*/metrics/metrics")):
        metrics = _read_json(path)  # those of earlier versions have no step
        numbers = (metrics.get("best"), metrics.get("step", 0))
        if not all(isinstance(number, (int, float)) for number in numbers):
            raise _damaged(path, TypeError("a metric is no number"))


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
        if not isinstance(value, dict):
            raise TypeError("it holds no JSON object")
    except (OSError, TypeError, ValueError) as error:
        raise _damaged(path, error) from error
    return value


def tensor_structs(folder: pathlib.Path, part: str) -> dict[str, Any]:
    """Tensor name -> something with `shape` and `dtype`, without reading the tensors."""
    try:
        metadata = ocp.checkpointables_metadata(os.fspath(folder)).metadata
        return dict(metadata[part])
    except (OSError, ValueError, KeyError, TypeError, ocp.errors.InvalidLayoutError) as error:
        raise _damaged(folder / part, error) from error


def saved_tensors(folder: pathlib.Path) -> dict[str, dict[str, Any]]:
    """`tensor_structs` of every part that holds device state."""
    parts = [name for name in ("params", "ema", "optimizer") if (folder / name).is_dir()]
    return {name: tensor_structs(folder, name) for name in parts}


def read_metadata(folder: pathlib.Path) -> dict[str, Any]:
    """Metadata of the checkpoint in `folder`.

    Raises:
      CheckpointError: missing or damaged, or its configuration was edited after it was written.
    """
    _read_json(folder / _METADATA)  # Orbax reads some damage as if nothing had been saved
    try:
        metadata = ocp.checkpointables_metadata(os.fspath(folder)).custom_metadata
    except (OSError, ValueError, KeyError, TypeError, ocp.errors.InvalidLayoutError) as error:
        raise _damaged(folder, error) from error
    if not isinstance(metadata, Mapping) or metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"not a checkpoint of format {FORMAT}", where=folder, fix="Train it again"
        )
    metadata = dict(metadata)
    if metadata.get("config_hash") != config_hash(metadata.get("config", {})):
        raise CheckpointError(
            "the configuration in this checkpoint is not the one that was saved with it: "
            f"its hash is {config_hash(metadata.get('config', {}))}, "
            f"the checkpoint says {metadata.get('config_hash')}",
            where=folder,
            fix="Undo the edit; to train with another configuration, use another --workdir",
        )
    return metadata


def _damaged(where: pathlib.Path, error: Exception) -> CheckpointError:
    said = str(error).partition("\n")[0][:200]
    return CheckpointError(
        f"the checkpoint is damaged ({type(error).__name__}: {said})",
        where=where,
        fix="Remove this step's folder to fall back to the checkpoint before it",
    )
