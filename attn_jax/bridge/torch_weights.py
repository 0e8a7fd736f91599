"""Reads torch checkpoint files without running code from them; alone here in importing torch.

Files are memory-mapped and unpickled weights-only: tensors, numbers, strings and containers,
nothing else.

    checkpoint = read_torch_file("model.pth")
    tensors = as_arrays(checkpoint["model_state_dict"], where="model.pth")
"""

from __future__ import annotations

import importlib.util
import pathlib
import pickle
from collections.abc import Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from attn_jax.core import files
from attn_jax.core.errors import CheckpointError, ConfigError
from attn_jax.core.typing import NumpyArray, PathLike


def read_torch_file(path: PathLike) -> Any:
    """What `torch.save` wrote, tensors on the CPU and mapped from the file.

    Raises:
      ConfigError: torch is not installed.
      CheckpointError: no such file, not a torch file, damaged, or it holds objects other than
        weights.
    """
    if importlib.util.find_spec("torch") is None:
        raise ConfigError("reading a torch file needs torch", fix="Run `make setup-all`")
    import torch  # pyright: ignore[reportMissingImports]

    path = pathlib.Path(path)
    if not path.is_file():
        raise CheckpointError("no such file", where=path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"holds objects other than weights and plain values: {_first_line(error)}",
            where=path,
            fix="Save its state dict alone with torch.save(model.state_dict(), path)",
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise CheckpointError(
            f"not a readable torch file: {_first_line(error)}",
            where=path,
            fix="Copy the file again; files older than torch 1.6 must be saved anew",
        ) from error


def write_torch_file(path: PathLike, value: Any) -> None:
    """Writes nested dicts and lists with `torch.save`; NumPy arrays in them become tensors.

    The file can be read weights-only, and appears under its name only when it is complete.

    Raises:
      ConfigError: torch is not installed.
      DiskFullError: no space left.
    """
    if importlib.util.find_spec("torch") is None:
        raise ConfigError("writing a torch file needs torch", fix="Run `make setup-all`")
    import torch  # pyright: ignore[reportMissingImports]

    def tensors(node: Any) -> Any:
        if isinstance(node, np.ndarray):
            # A copy, since saving a view would write the whole array that it looks into.
            return torch.from_numpy(node.copy())
        if isinstance(node, Mapping):
            return {key: tensors(child) for key, child in node.items()}
        return [tensors(child) for child in node] if isinstance(node, list | tuple) else node

    converted = tensors(value)
    files.write_file(pathlib.Path(path), lambda file: torch.save(converted, file), what="tensors")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def as_arrays(state_dict: Any, where: PathLike) -> Mapping[str, NumpyArray]:
    """A state dict as a lazy mapping name -> NumPy array; bfloat16 stays bfloat16 (ml_dtypes).

    Raises:
      CheckpointError: an entry is not a tensor.
    """
    if not isinstance(state_dict, Mapping):
        raise CheckpointError(
            f"expected a state dict, got {type(state_dict).__name__}", where=where
        )
    for name, value in state_dict.items():
        if not hasattr(value, "detach"):
            raise CheckpointError(
                f"entry {name!r} of the state dict is a {type(value).__name__}, not a tensor",
                where=where,
            )
    return _Arrays(state_dict)


class _Arrays(Mapping[str, NumpyArray]):
    """Views of tensors, made when asked for, so that unread tensors stay on disk."""

    def __init__(self, tensors: Mapping[str, Any]):
        self._tensors = tensors

    def __getitem__(self, name: str) -> NumpyArray:
        import torch  # pyright: ignore[reportMissingImports]

        tensor = self._tensors[name].detach()
        if tensor.dtype == torch.bfloat16:
            return np.asarray(tensor.view(torch.int16).numpy()).view(ml_dtypes.bfloat16)
        return tensor.numpy()

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)
