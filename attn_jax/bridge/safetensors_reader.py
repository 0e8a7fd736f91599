"""Reads and writes safetensors files one tensor at a time, without torch.

A file is an 8-byte little-endian length, a JSON header of that length (name -> dtype, shape, byte
range) and the bytes of the tensors. Reading maps one tensor at a time and unmaps it when its array
is gone; writing takes tensors from functions, one after the other. bfloat16 is that of ml_dtypes.

    tensors = open_safetensors("model.safetensors")       # a lazy mapping name -> array
    write_safetensors(path, {"w": Entry((2, 3), np.float32, lambda: w)})
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import mmap
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from attn_jax.core import files
from attn_jax.core.errors import CheckpointError
from attn_jax.core.typing import NumpyArray, PathLike

_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_MAX_HEADER_BYTES = 100_000_000
_SAMPLED_BYTES = 256  # of every tensor, for the fingerprint


@dataclasses.dataclass(frozen=True)
class _Place:
    dtype: np.dtype
    shape: tuple[int, ...]
    start: int  # byte in the file


class SafetensorsFile(Mapping[str, NumpyArray]):
    """A lazy mapping name -> read-only array that is mapped from the file.

    Attributes:
      path: the file.
      metadata: strings of the header's `__metadata__`.
    """

    def __init__(self, path: pathlib.Path, places: dict[str, _Place], metadata: dict[str, str]):
        self.path = path
        self.metadata = metadata
        self._places = places

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, from the header alone."""
        return self._places[name].shape

    def dtype(self, name: str) -> np.dtype:
        """Dtype of a tensor, from the header alone."""
        return self._places[name].dtype

    def extents(self) -> list[tuple[int, int]]:
        """(first byte, number of bytes) of every tensor, in the order of the file."""
        return sorted(
            (place.start, math.prod(place.shape) * place.dtype.itemsize)
            for place in self._places.values()
        )

    def __getitem__(self, name: str) -> NumpyArray:
        place = self._places[name]
        count = math.prod(place.shape)
        if not count:
            return np.zeros(place.shape, place.dtype)
        skip = place.start % mmap.ALLOCATIONGRANULARITY
        with open(self.path, "rb") as file:
            mapped = mmap.mmap(
                file.fileno(),
                skip + count * place.dtype.itemsize,
                access=mmap.ACCESS_READ,
                offset=place.start - skip,
            )
        return np.frombuffer(mapped, place.dtype, count, skip).reshape(place.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def open_safetensors(path: PathLike) -> SafetensorsFile:
    """Reads the header of a file.

    Raises:
      CheckpointError: no such file, or one that is truncated or no safetensors file.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise CheckpointError("no such file", where=path)
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
            raise _damaged(path, f"a header of {length} bytes in a file of {size}")
        try:
            header = json.loads(file.read(length))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise _damaged(path, "its header is no JSON") from error
    if not isinstance(header, dict):
        raise _damaged(path, "its header is no JSON object")
    metadata = header.pop("__metadata__", {})
    places = {name: _place(path, name, item, 8 + length, size) for name, item in header.items()}
    return SafetensorsFile(path, places, metadata)


def fingerprint(path: PathLike) -> str:
    """What tells one file from another, without reading it: `sha256:...`.

    The hash is over the size, the header and the first bytes of every tensor, so that another
    training of the same model gives another one.

    Raises:
      CheckpointError: as `open_safetensors`.
    """
    starts = open_safetensors(path).extents()
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        digest = hashlib.sha256(b"%d " % pathlib.Path(path).stat().st_size + file.read(length))
        for start, num_bytes in starts:
            file.seek(start)
            digest.update(file.read(min(num_bytes, _SAMPLED_BYTES)))
    return f"sha256:{digest.hexdigest()}"


def _place(path: pathlib.Path, name: str, item: Any, base: int, size: int) -> _Place:
    try:
        dtype = _DTYPES[item["dtype"]]
        shape = tuple(int(length) for length in item["shape"])
        start, stop = (int(offset) for offset in item["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, f"its header describes {name!r} as {item!r}") from error
    if min(shape, default=0) < 0 or not 0 <= start <= stop <= size - base:
        raise _damaged(path, f"tensor {name!r} lies outside the file of {size} bytes")
    if stop - start != math.prod(shape) * dtype.itemsize:
        raise _damaged(path, f"tensor {name!r} has {stop - start} bytes for shape {shape}")
    return _Place(dtype, shape, base + start)


def _damaged(path: pathlib.Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"not a readable safetensors file: {what}", where=path, fix="Copy the file again"
    )


@dataclasses.dataclass(frozen=True)
class Entry:
    """A tensor to be written.

    Attributes:
      shape, dtype: what the header says.
      make: called once, when it is this tensor's turn; gives the array.
    """

    shape: tuple[int, ...]
    dtype: Any
    make: Callable[[], NumpyArray]


def write_safetensors(
    path: PathLike, entries: Mapping[str, Entry], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes a file; it appears under its name only when it is complete.

    Raises:
      ValueError: an array that is not as its entry says, or a dtype that the format does not have.
    """
    path = pathlib.Path(path)
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, entry in entries.items():
        dtype = np.dtype(entry.dtype)
        if dtype not in _NAMES:
            raise ValueError(f"{name}: safetensors has no dtype {dtype}")
        stop = offset + math.prod(entry.shape) * dtype.itemsize
        header[name] = {
            "dtype": _NAMES[dtype],
            "shape": list(entry.shape),
            "data_offsets": [offset, stop],
        }
        offset = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of 8

    def write(file: BinaryIO) -> None:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name, entry in entries.items():
            array = np.asarray(entry.make(), order="C")
            if array.shape != tuple(entry.shape) or array.dtype != np.dtype(entry.dtype):
                raise ValueError(f"{name}: got {array.dtype}{array.shape}, announced {entry}")
            # A view of bytes, because the buffer protocol does not know bfloat16.
            file.write(array.reshape(-1).view(np.uint8).data)

    with files.disk_errors(path, what="tensors"):
        files.replace_file(path, write)
