"""Arrays of a record on disk: zarr 3, a shard per call, an inner chunk per (denoise, layer) map.

Axes of `values`: (call, denoise, layer, head, query, key); of `scale` (`u8row` only): the same
without key. A shard is one file `c.<call>.0.0.0.0.0`; inside it every (denoise, layer) map is
compressed alone (bytes, blosc zstd level 3 with bitshuffle), so that reading one map reads one
inner chunk. Every other zarr 3 reader can open these arrays; TensorStore writes and reads them
here.

    array = create(folder / "values", "float16", (10, 2, 8, 50, 706))
    write_call(array, 3, codes)
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorstore as ts

from attn_jax.core import files
from attn_jax.core.errors import RecordError
from attn_jax.core.files import sync_folder
from attn_jax.core.record import AXES
from attn_jax.probe.codecs import decode, scatter_keys

METADATA = "zarr.json"
INITIAL_CALLS = 64  # extent of the call axis while an episode is open; doubles, trimmed at the end

_FILL: dict[str, Any] = {
    "uint8": 0
}  # all others NaN, so that an unwritten call cannot pass for data
_LOST = "launch.attention verify names all that is lost; record the episode again"
# Durability is done here, file by file; no cache, so that a slice costs what it reads.
_CONTEXT = {"file_io_sync": False, "cache_pool": {"total_bytes_limit": 0}}


disk_errors = functools.partial(
    files.disk_errors,
    what="attention",
    fix="Free some space and start again; every committed call stays readable",
)


def create(
    folder: pathlib.Path,
    dtype: str,
    call_shape: Sequence[int],
    attributes: Mapping[str, Any] | None = None,
) -> ts.TensorStore:
    """Makes an array of `INITIAL_CALLS` unwritten calls.

    Args:
      folder: where; must not exist.
      dtype: float16, float32 or uint8.
      call_shape: (denoise, layer, head, query[, key]).
      attributes: JSON-compatible attributes.
    """
    size = np.dtype(dtype).itemsize
    endian = {"configuration": {"endian": "little"}} if size > 1 else {}
    blosc = {
        "cname": "zstd",
        "clevel": 3,
        "shuffle": "bitshuffle",
        "typesize": size,
        "blocksize": 0,
    }
    sharding = {
        "chunk_shape": [1, 1, 1, *call_shape[2:]],
        "codecs": [{"name": "bytes", **endian}, {"name": "blosc", "configuration": blosc}],
        "index_codecs": [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "crc32c"},
        ],
    }
    shape = [INITIAL_CALLS, *call_shape]
    metadata = {
        "shape": shape,
        "data_type": dtype,
        "fill_value": _FILL.get(dtype, "NaN"),
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": [1, *call_shape]},
        },
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "dimension_names": list(AXES[: len(shape)]),
        "attributes": dict(attributes or {}),
    }
    with disk_errors(folder):
        return ts.open(_spec(folder) | {"metadata": metadata}, create=True).result()


def create_vector(folder: pathlib.Path, values: np.ndarray, dimension: str) -> None:
    """Writes a small one-axis int64 array."""
    metadata = {
        "shape": [len(values)],
        "data_type": "int64",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [len(values)]}},
        "dimension_names": [dimension],
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
    }
    with disk_errors(folder):
        array = ts.open(_spec(folder) | {"metadata": metadata}, create=True).result()
        array.write(np.asarray(values, np.int64)).result()


def open_array(folder: pathlib.Path, *, write: bool = False) -> ts.TensorStore:
    """Opens an array; raises `RecordError` when it is missing or damaged."""
    try:
        return ts.open(_spec(folder), open=True, read=True, write=write).result()
    except ValueError as error:
        raise RecordError(f"array cannot be opened: {_brief(error)}", where=folder) from error


def read_vector(folder: pathlib.Path) -> np.ndarray:
    """What `create_vector` wrote; raises `RecordError` when it is missing or damaged."""
    try:
        return open_array(folder).read().result()
    except ValueError as error:
        if isinstance(error, RecordError):
            raise
        raise RecordError(f"array cannot be read: {_brief(error)}", where=folder) from error


def _brief(error: ValueError) -> str:
    """What TensorStore says, without the specification and the places in its code."""
    return str(error).partition(" [")[0]


def _spec(folder: pathlib.Path) -> dict[str, Any]:
    return {
        "driver": "zarr3",
        # TensorStore takes no path with `..` in it.
        "kvstore": {"driver": "file", "path": f"{folder.resolve()}/"},
        "context": _CONTEXT,
        # An all-zero map must not look like a missing one.
        "store_data_equal_to_fill_value": True,
    }


def write_call(
    folder: pathlib.Path, array: ts.TensorStore, call: int, data: np.ndarray
) -> tuple[ts.TensorStore, str]:
    """Writes one call, whole and durably.

    Returns:
      The array, which may have grown, and the CRC-32 of the call's file.
    """
    if call >= array.shape[0]:
        array = resize(folder, array, 2 * array.shape[0])
    array[call].write(data).result()
    crc = checksum(shard_path(folder, call, array.ndim), sync=True)
    sync_folder(folder)
    return array, crc


def resize(folder: pathlib.Path, array: ts.TensorStore, num_calls: int) -> ts.TensorStore:
    """Sets the extent of the call axis, durably."""
    bounds = [num_calls] + [None] * (array.ndim - 1)
    array = array.resize(exclusive_max=bounds, resize_metadata_only=True).result()
    sync_tree(folder / METADATA)
    sync_folder(folder)
    return array


def shard_path(folder: pathlib.Path, call: int, ndim: int) -> pathlib.Path:
    """File of one call."""
    return folder / f"c.{call}{'.0' * (ndim - 1)}"


def checksum(path: pathlib.Path, *, sync: bool = False) -> str:
    """CRC-32 of a file, 8 hexadecimal digits; with `sync`, once it is durable."""
    crc = 0
    with path.open("rb") as file:
        if sync:
            os.fsync(file.fileno())
        while block := file.read(1 << 20):
            crc = zlib.crc32(block, crc)
    return f"{crc:08x}"


def sync_tree(path: pathlib.Path) -> None:
    """Makes a file, or everything under a folder, durable."""
    if path.is_dir():
        for child in path.iterdir():
            sync_tree(child)
        sync_folder(path)
        return
    with path.open("rb") as file:
        os.fsync(file.fileno())


def discard_from(folder: pathlib.Path, call: int) -> None:
    """Removes what was written for calls that were never committed, and half-written files."""
    for file in folder.iterdir():
        number = re.match(r"c\.(\d+)\.", file.name)
        if number and (int(number[1]) >= call or file.name.endswith("__lock")):
            file.unlink()


def write_json(path: pathlib.Path, data: Any) -> None:
    """Writes JSON so that a crash leaves the old or the new file, never a part."""
    with disk_errors(path):
        files.write_json(path, data)


def read_json(path: pathlib.Path) -> Any:
    """Reads a JSON object; raises `RecordError` when it is missing or malformed."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecordError("file is missing", where=path) from error
    except (ValueError, IsADirectoryError) as error:
        raise RecordError(f"file is no JSON: {error}", where=path) from error
    if not isinstance(data, dict):
        raise RecordError("file holds no JSON object", where=path)
    return data


class LazyValues:
    """Values on disk that are read and decoded when they are sliced.

    Slices like NumPy with whole numbers, slices and `...`; gives float32. Only the inner chunks of
    the (call, denoise, layer) maps that a slice touches are read. Raises `RecordError` when the
    file of a call is missing or damaged.
    """

    def __init__(
        self,
        values: ts.TensorStore,
        scale: ts.TensorStore | None,
        *,
        codec: str,
        key_index: np.ndarray | None,
        num_keys: int,
        num_calls: int,
    ):
        """Wraps open arrays; only the first `num_calls` calls are shown."""
        self._values, self._scale = values, scale
        self.codec = codec
        self.key_index = key_index
        self.shape = (num_calls, *values.shape[1:-1], num_keys)
        self.ndim = len(self.shape)
        self.dtype = np.dtype(np.float32)

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[...], dtype or np.float32)

    def codes(self, call: int) -> tuple[np.ndarray, np.ndarray | None]:
        """What is stored for one call: codes and row scales (None without), call axis kept."""
        part = (slice(call, call + 1),)
        return _read(self._values, part), None if self._scale is None else _read(self._scale, part)

    def __getitem__(self, index: Any) -> np.ndarray | np.floating:
        wanted = _expanded(index, self.shape)
        boxes, local = zip(
            *(_box(item, size) for item, size in zip(wanted, self.shape, strict=True)), strict=True
        )
        codes = _read(self._values, boxes[:-1])
        scale = None if self._scale is None else _read(self._scale, boxes[:-1])
        values = scatter_keys(decode(codes, scale, self.codec), self.key_index, self.shape[-1])
        # The key axis was read whole: it is inside an inner chunk, and rows decode as a whole.
        return values[(*local[:-1], wanted[-1])]


def _read(array: ts.TensorStore, boxes: tuple[slice, ...]) -> np.ndarray:
    """Reads a box; raises `RecordError` when the file of one of its calls is missing or damaged."""
    kvstore = array.kvstore
    assert kvstore is not None  # the driver stores files
    folder = pathlib.Path(kvstore.path)
    for call in range(boxes[0].start, boxes[0].stop):
        # TensorStore answers with fill values, which would be analysed as if nothing was seen.
        if not shard_path(folder, call, array.ndim).is_file():
            raise RecordError(f"file of call {call} is missing", where=folder, fix=_LOST)
    try:
        return array[boxes].read().result()
    except ValueError as error:
        raise RecordError(
            f"calls {boxes[0].start} to {boxes[0].stop - 1} cannot be read: {_brief(error)}",
            where=folder,
            fix=_LOST,
        ) from error


def _expanded(index: Any, shape: tuple[int, ...]) -> tuple[int | slice, ...]:
    """One whole number or slice per axis."""
    items = list(index) if isinstance(index, tuple) else [index]
    for item in items:
        if not (item is Ellipsis or isinstance(item, (int, np.integer, slice))) or item is True:
            raise IndexError(
                f"a stored record is sliced with numbers, slices and ..., not {item!r}; "
                "read it first: numpy.asarray(record.values)"
            )
    if items.count(Ellipsis) > 1 or len(items) - items.count(Ellipsis) > len(shape):
        raise IndexError(f"too many indices for {len(shape)} axes: {index!r}")
    if Ellipsis not in items:
        items.append(Ellipsis)
    place = items.index(Ellipsis)
    missing = len(shape) - (len(items) - 1)
    return tuple(items[:place] + [slice(None)] * missing + items[place + 1 :])


def _box(item: int | slice, size: int) -> tuple[slice, int | slice]:
    """What to read of an axis, ascending, and how to index what was read."""
    if not isinstance(item, slice):
        number = int(item) + size if item < 0 else int(item)
        if not 0 <= number < size:
            raise IndexError(f"index {item} is outside an axis of length {size}")
        return slice(number, number + 1), 0
    places = range(*item.indices(size))
    if not places:
        return slice(0, 0), slice(None)
    low, high = min(places[0], places[-1]), max(places[0], places[-1])
    return slice(low, high + 1), slice(None, None, places.step)
