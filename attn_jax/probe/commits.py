"""The commit log of an episode: which calls are whole on disk.

`commits.jsonl` has one line per call, appended and fsynced after every file of that call was
fsynced: `{"call": 0, "crc32": {"decoder/values": "89abcdef"}, "env_step": 10, "max_abs_error":
{"decoder": 1e-4}}`, and the token layouts of a call with another prompt than the first. Readers
trust committed calls only. A last line that a crash has torn is ignored and cut off on resume.

    with CommitLog(folder / NAME) as log:
        log.append(Commit(call=log.num_calls, env_step=10, crc32=sums, max_abs_error=errors))
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from attn_jax.core.errors import RecordError

NAME = "commits.jsonl"


@dataclasses.dataclass(frozen=True)
class Commit:
    """One call that is whole on disk.

    Attributes:
      call: number of the call in its episode, from 0.
      env_step: environment step of the observation that the call used.
      crc32: file of every array, relative to the episode and without its chunk name -> CRC-32 of
        its bytes, 8 hexadecimal digits.
      max_abs_error: record name -> largest absolute error of encoding it in this call.
      layouts: token layouts of this call, as JSON, that are not those of the first call.
      layout: record name -> which of `layouts` it has; a record that is not named has the layout of
        the first call.
    """

    call: int
    env_step: int
    crc32: Mapping[str, str]
    max_abs_error: Mapping[str, float]
    layouts: tuple[Mapping[str, Any], ...] = ()
    layout: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Committed:
    """What a commit log says.

    Attributes:
      commits: in order of the calls.
      num_bytes: length of the log up to the last whole line.
      torn: whether something stands after it.
    """

    commits: tuple[Commit, ...]
    num_bytes: int
    torn: bool


def read_commits(path: str | os.PathLike[str]) -> Committed:
    """Reads a commit log; a missing file is an empty one.

    Raises:
      RecordError: a line other than the last is damaged, or calls are not 0, 1, 2, ...
    """
    file = pathlib.Path(path)
    data = file.read_bytes() if file.exists() else b""
    commits: list[Commit] = []
    num_bytes = 0
    lines = data.splitlines(keepends=True)
    for number, line in enumerate(lines):
        commit = _parse(line)
        if commit is None and number == len(lines) - 1:
            break
        if commit is None or commit.call != number:
            raise RecordError(
                f"line {number + 1} of the commit log is damaged",
                where=file,
                fix=f"Cut the log before that line: {number} of its calls stay readable",
            )
        commits.append(commit)
        num_bytes += len(line)
    return Committed(tuple(commits), num_bytes, num_bytes < len(data))


def _parse(line: bytes) -> Commit | None:
    if not line.endswith(b"\n"):
        return None
    try:
        data: Any = json.loads(line)
        return Commit(
            call=int(data["call"]),
            env_step=int(data["env_step"]),
            crc32={str(k): str(v) for k, v in data["crc32"].items()},
            max_abs_error={str(k): float(v) for k, v in data["max_abs_error"].items()},
            layouts=tuple(data.get("layouts", ())),
            layout={str(k): int(v) for k, v in data.get("layout", {}).items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


class CommitLog:
    """An open commit log; holds a lock, so that one writer at a time adds to an episode."""

    def __init__(self, path: str | os.PathLike[str]):
        """Opens or makes the log and cuts off a torn line.

        Raises:
          RecordError: the log is damaged, or another process is writing to it.
        """
        self._path = pathlib.Path(path)
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RecordError("another process is writing this episode", where=path) from error
            found = read_commits(path)
            if found.torn:
                os.ftruncate(self._file, found.num_bytes)
                os.fsync(self._file)
        except BaseException:
            os.close(self._file)
            raise
        self.commits = list(found.commits)

    @property
    def num_calls(self) -> int:
        """Committed calls."""
        return len(self.commits)

    def append(self, commit: Commit) -> None:
        """Adds one line and waits until it is on disk."""
        fields = dataclasses.asdict(commit)
        if not commit.layouts:
            del fields["layouts"], fields["layout"]
        line = json.dumps(fields, sort_keys=True) + "\n"
        rest = memoryview(line.encode())
        while rest:
            rest = rest[os.write(self._file, rest) :]
        os.fsync(self._file)
        self.commits.append(commit)

    def close(self) -> None:
        """Gives up the lock; may be called twice."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> CommitLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
