"""Files that are whole or absent: durable replacement, JSON, and a full disk as a clear error.

replace_file(path, lambda file: file.write(content))
write_file(path, lambda file: np.savez(file, **arrays), what="pictures")
write_json(folder / "meta.json", {"complete": True})
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from attn_jax.core.errors import DiskFullError, InputError

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def disk_errors(
    where: str | os.PathLike[str] | None,
    *,
    what: str = "files",
    fix: str = "Free some space and start again",
) -> Iterator[None]:
    """Turns a full disk, an exhausted quota or a file-size limit into `DiskFullError`.

    Args:
      where: file or folder that the error names; None leaves it to the system's error.
      what: what was being written.
      fix: what the user can do.
    """
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError) as error:
        code = error.errno if isinstance(error, OSError) else None
        found = re.search(r"os_error_code='(\d+)'", str(error))  # TensorStore raises ValueError
        code = int(found[1]) if found else code
        if code not in FULL_DISK:
            raise
        if where is None and isinstance(error, OSError):
            where = error.filename
        raise DiskFullError(
            f"{os.strerror(code).lower()} while writing {what}", where=where, fix=fix
        ) from error


def replace_file(path: pathlib.Path, write: Callable[[BinaryIO], Any]) -> None:
    """Writes a file so that a crash leaves the old or the new one, never a part; durable.

    Args:
      path: the file; its folder exists.
      write: writes the content to an open binary file.

    Raises:
      OSError: as the file system says, for example of a full disk; see `disk_errors`.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_file(path: pathlib.Path, write: Callable[[io.BytesIO], Any], *, what: str) -> None:
    """As `replace_file`, but `write` fills memory first.

    For libraries that go past Python when they are given a file: on a full disk NumPy's `save` cuts
    small arrays off without a word, torch tells no reason, and HDF5 takes the process down.

    Args:
      path: the file; its folder exists.
      write: writes the content to a binary stream.
      what: what is written, for the error.

    Raises:
      DiskFullError: no space left; what was there before stays.
    """
    content = io.BytesIO()
    write(content)
    with disk_errors(path, what=what):
        replace_file(path, lambda file: file.write(content.getbuffer()))


def write_json(path: pathlib.Path, data: Any) -> None:
    """Replaces a file by JSON with sorted keys; NaN is refused (ValueError)."""
    text = json.dumps(data, indent=1, sort_keys=True, allow_nan=False) + "\n"
    replace_file(path, lambda file: file.write(text.encode()))


def sync_folder(folder: pathlib.Path) -> None:
    """Makes the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
