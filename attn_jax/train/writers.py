"""Where metrics go: always `metrics.jsonl`, and TensorBoard or Weights & Biases when asked for.

One line of JSON per write: `step`, `samples`, `train_s`, `wall_s` and the values. A run that
continues from a checkpoint first drops the lines after it, so no step is there twice.

    with JsonlWriter(workdir / "metrics.jsonl") as writer:
        writer.truncate(restored_step)
        writer.write({"step": 10, "samples": 80, "loss": 0.5})
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from attn_jax.core import files
from attn_jax.core.errors import ConfigError, InputError
from attn_jax.core.typing import PathLike

_POSITION = ("step", "samples", "train_s", "wall_s")


@runtime_checkable
class Writer(Protocol):
    """A destination of metrics."""

    def truncate(self, step: int) -> None:
        """Forgets everything after `step`."""
        ...

    def write(self, line: Mapping[str, Any]) -> None:
        """Takes `step`, and scalars and texts by name."""
        ...

    def close(self) -> None:
        """Flushes and releases."""
        ...


class JsonlWriter:
    """Appends lines to a file; every line is flushed, so a kill loses none that was written.

    Args:
      path: the file; made when missing.

    Raises:
      DiskFullError: no space left, here and in all methods. Lines written before stay.
    """

    def __init__(self, path: PathLike):
        self._path = pathlib.Path(path)
        with self._disk_errors():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a", encoding="utf-8")

    def __enter__(self) -> JsonlWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def truncate(self, step: int) -> None:
        """Drops lines after `step` and a last line that a kill cut off.

        Raises:
          InputError: a line in the middle of the file is not JSON.
        """
        kept = [json.dumps(line) + "\n" for line in read_jsonl(self._path) if line["step"] <= step]
        self.close()
        with self._disk_errors():
            files.replace_file(self._path, lambda file: file.write("".join(kept).encode()))
            self._file = self._path.open("a", encoding="utf-8")

    def write(self, line: Mapping[str, Any]) -> None:
        """Appends one line; NaN and infinities become null."""
        plain = {name: _plain(value) for name, value in line.items()}
        with self._disk_errors():
            self._file.write(json.dumps(plain, allow_nan=False) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        with self._disk_errors():
            self._file.close()

    def _disk_errors(self) -> contextlib.AbstractContextManager[None]:
        return files.disk_errors(
            self._path,
            what="metrics",
            fix="Free some space and start the same command again: it goes on from its checkpoint",
        )


def read_jsonl(path: PathLike) -> list[dict[str, Any]]:
    """Lines of a metrics file; a last line without its end is left out.

    Raises:
      InputError: any other line is not JSON; the message gives its number.
    """
    text = pathlib.Path(path).read_text(encoding="utf-8")
    lines = []
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise InputError(
                "not a line of JSON", where=f"{path}:{number}", fix="Remove this line"
            ) from error
    return lines


class TensorBoardWriter:
    """Scalars as TensorBoard events (package tensorboardX).

    Args:
      folder: where the event files go.

    Raises:
      ConfigError: the package is not installed.
    """

    def __init__(self, folder: PathLike):
        self._folder = os.fspath(folder)
        self._package = _import("tensorboardX", "tensorboard")
        self._writer = self._package.SummaryWriter(self._folder, flush_secs=10)

    def truncate(self, step: int) -> None:
        """Tells TensorBoard to hide what comes after `step`."""
        self._writer.close()
        self._writer = self._package.SummaryWriter(self._folder, flush_secs=10, purge_step=step + 1)

    def write(self, line: Mapping[str, Any]) -> None:
        """Writes every scalar of the line."""
        for name, value in line.items():
            if name not in _POSITION and value is not None and not isinstance(value, str):
                self._writer.add_scalar(name, value, line["step"])

    def close(self) -> None:
        """Flushes and closes."""
        self._writer.close()


class WandbWriter:
    """Scalars to Weights & Biases (package wandb); x axis `samples`.

    Args:
      project: project name.
      run_id: stable name of the run, so that a restart continues it.
      folder: local files of the package.

    Raises:
      ConfigError: the package is not installed.
    """

    def __init__(self, project: str, run_id: str, folder: PathLike):
        package = _import("wandb", "wandb")
        self._run = package.init(project=project, id=run_id, resume="allow", dir=os.fspath(folder))
        self._run.define_metric("samples")
        self._run.define_metric("*", step_metric="samples")

    def truncate(self, step: int) -> None:
        """Nothing to do: the service ignores steps that it already has."""

    def write(self, line: Mapping[str, Any]) -> None:
        """Logs the line."""
        self._run.log(dict(line), step=line["step"])

    def close(self) -> None:
        """Ends the run."""
        self._run.finish()


class Writers:
    """Passes every call to all of `writers`."""

    def __init__(self, writers: Sequence[Writer]):
        self._writers = tuple(writers)

    def truncate(self, step: int) -> None:
        """Forgets everything after `step`."""
        for writer in self._writers:
            writer.truncate(step)

    def write(self, line: Mapping[str, Any]) -> None:
        """Takes `step` and scalars by name."""
        for writer in self._writers:
            writer.write(line)

    def close(self) -> None:
        """Flushes and releases."""
        for writer in self._writers:
            writer.close()


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _import(package: str, extra: str) -> Any:
    if importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"package {package} is not installed", fix=f"pip install 'attn-jax[{extra}]'"
        )
    return importlib.import_module(package)
