"""One mesh for every run: where parameters and batches live.

The mesh has two axes. `data` splits the batch and repeats the parameters; `fsdp` splits the batch
and also the parameters, each gathered when it is used. Rules give a parameter its place by a
pattern on its path; the first match wins. Optimizer moments and averages follow their parameter,
because their paths end the same way.

    mesh = make_mesh(fsdp=2)                                    # 4 devices: data=2, fsdp=2
    shardings = state_shardings(abstract_state(task, optim), mesh)
    batch = place_batch(next(data), mesh)                       # every process passes its own rows
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from attn_jax.core.errors import ConfigError

AXES = ("data", "fsdp")
# (pattern searched in the path, one mesh axis name or None per array dimension)
Rule = tuple[str, tuple[str | None, ...]]
# Smaller parameters are repeated: gathering them costs more than keeping them.
_MIN_FSDP_SIZE = 2**14


def make_mesh(fsdp: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """Mesh over all devices of all processes: data = number of devices / fsdp.

    Raises:
      ConfigError: the devices do not divide by `fsdp`.
    """
    found = np.asarray(jax.devices() if devices is None else devices)
    if fsdp < 1 or found.size % fsdp:
        raise ConfigError(
            f"fsdp={fsdp} does not divide {found.size} devices",
            fix="Set config.train.fsdp to a divisor of the number of devices",
        )
    return Mesh(found.reshape(-1, fsdp), AXES)


def state_shardings(state: Any, mesh: Mesh, rules: Sequence[Rule] = ()) -> Any:
    """`NamedSharding` for every leaf of `state` (arrays or `ShapeDtypeStruct`s).

    A leaf that no rule matches is split over `fsdp` along its largest dimension that divides; small
    ones are repeated.

    Raises:
      ConfigError: a rule asks to split a dimension that does not divide, names an unknown axis or
        matches nothing.
    """
    unused = dict.fromkeys((pattern, tuple(axes)) for pattern, axes in rules)

    def place(path: Any, leaf: Any) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        for pattern, axes in rules:
            if re.search(pattern, name) and len(axes) == len(leaf.shape):
                unused.pop((pattern, tuple(axes)), None)
                _check_rule(name, pattern, axes, leaf.shape, mesh)
                return NamedSharding(mesh, PartitionSpec(*axes))
        return NamedSharding(mesh, _default_spec(leaf.shape, mesh.shape["fsdp"]))

    placed = jax.tree_util.tree_map_with_path(place, state)
    if unused:
        pattern, axes = next(iter(unused))
        raise ConfigError(
            f"rule {pattern!r} places no array of {len(axes)} dimensions: none has such a path, or "
            "an earlier rule took it",
            where="train.sharding",
            fix="Paths are as in a checkpoint, for example params/encoder/norm/scale",
        )
    return placed


def _default_spec(shape: tuple[int, ...], fsdp: int) -> PartitionSpec:
    if fsdp == 1 or int(np.prod(shape)) < _MIN_FSDP_SIZE:
        return PartitionSpec()
    for axis in sorted(range(len(shape)), key=lambda i: -shape[i]):
        if shape[axis] % fsdp == 0:
            return PartitionSpec(*(None,) * axis, "fsdp")
    return PartitionSpec()


def _check_rule(
    name: str, pattern: str, axes: tuple[str | None, ...], shape: tuple[int, ...], mesh: Mesh
) -> None:
    for axis, size in zip(axes, shape, strict=True):
        if axis is not None and axis not in mesh.shape:
            raise ConfigError(f"rule {pattern!r} names axis {axis!r}", fix=f"Axes are {AXES}")
        if axis is not None and size % mesh.shape[axis]:
            raise ConfigError(
                f"rule {pattern!r} splits {name} of shape {shape} over {mesh.shape[axis]} devices",
                fix="Choose a dimension that divides",
            )


def place_batch(batch: Mapping[str, Any], mesh: Mesh | None) -> dict[str, Any]:
    """Puts a batch on the devices, its leading axis split over all of them.

    Args:
      batch: name -> (rows of this process, ...) arrays; several processes together form the batch.
      mesh: None leaves the arrays where they are.

    Raises:
      ConfigError: the rows do not divide by this process's devices.
    """
    if mesh is None:
        return dict(batch)
    sharding = NamedSharding(mesh, PartitionSpec(AXES))
    devices = len(mesh.local_devices)
    placed = {}
    for name, value in batch.items():
        rows = np.shape(value)[0] if np.ndim(value) else 0
        if not rows or rows % devices:
            raise ConfigError(
                f"batch entry {name!r} has {rows} rows for {devices} devices of this process",
                fix="Choose batch_size as a multiple of the number of devices",
            )
        placed[name] = jax.make_array_from_process_local_data(sharding, np.asarray(value))
    return placed


def process_rows(batch_size: int) -> slice:
    """The rows of every batch that this process makes: `place_batch` joins them in this order.

    Raises:
      ConfigError: the batch does not divide into equal shares.
    """
    share, rest = divmod(batch_size, jax.process_count())
    if rest:
        raise ConfigError(
            f"a batch of {batch_size} does not divide among {jax.process_count()} processes",
            where="train.batch_size",
            fix="Choose a multiple of distributed.num_processes",
        )
    return slice(jax.process_index() * share, (jax.process_index() + 1) * share)


def whole(array: Any) -> np.ndarray:
    """An array on the host, the parts that other processes hold included.

    All processes must call this together.
    """
    if jax.process_count() == 1 or array.is_fully_replicated:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def gather_text(text: str) -> list[str]:
    """The text of every process, in process order, on every process."""
    if jax.process_count() == 1:
        return [text]
    raw = np.frombuffer(text.encode(), np.uint8)
    lengths = np.asarray(multihost_utils.process_allgather(jnp.asarray(raw.size))).reshape(-1)
    padded = np.zeros(int(lengths.max()), np.uint8)
    padded[: raw.size] = raw
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [bytes(row[:n]).decode() for row, n in zip(rows, lengths, strict=True)]
