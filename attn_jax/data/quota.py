"""Disk space of recorded sessions: how much they take and which ones may go.

The unit is bytes; one gigabyte is 10**9 bytes. The root of sessions is the folder that holds
session folders side by side; nothing else in it is counted or touched.

    plan = plan_reclaim("saved/sessions/toroidal_dot", needed_bytes=10**9, protect=("good_run",))
    remove_sessions(plan)
"""

from __future__ import annotations

import dataclasses
import fnmatch
import pathlib
import shutil
from collections.abc import Sequence

from absl import logging

from attn_jax.core.errors import SessionError
from attn_jax.core.typing import PathLike
from attn_jax.data import sessions


@dataclasses.dataclass(frozen=True)
class Reclaim:
    """What a recorder may delete when its limit is reached.

    Attributes:
      enabled: delete the oldest finished sessions of the same root; False deletes nothing.
      dry_run: only name what would be deleted, then stop with DiskFullError.
      protect: names of sessions, or patterns with `*` and `?`, that are never deleted.
    """

    enabled: bool = False
    dry_run: bool = True
    protect: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A session that may be deleted: its folder, bytes and start time (ISO)."""

    path: pathlib.Path
    num_bytes: int
    start_time: str


def folder_bytes(folder: PathLike) -> int:
    """Bytes of all regular files below `folder`; links are not followed."""
    return sum(
        path.lstat().st_size
        for path in pathlib.Path(folder).rglob("*")
        if path.is_file() and not path.is_symlink()
    )


def root_bytes(root: PathLike) -> int:
    """Bytes of all sessions directly inside `root`."""
    return sum(folder_bytes(path) for path in _sessions_of(root))


def _sessions_of(root: PathLike) -> list[pathlib.Path]:
    root = pathlib.Path(root)
    if not root.is_dir():
        return []
    return [path for path in sorted(root.iterdir()) if sessions.is_session(path)]


def plan_reclaim(
    root: PathLike, needed_bytes: int, protect: Sequence[str] = ()
) -> tuple[Candidate, ...]:
    """Oldest sessions whose removal frees at least `needed_bytes`; empty when they cannot.

    Links, protected sessions, damaged ones and those without `end_time` (still being recorded, or
    cut off) are never chosen. Deletes nothing.
    """
    found = []
    for path in _sessions_of(root):
        if path.is_symlink() or any(fnmatch.fnmatchcase(path.name, name) for name in protect):
            continue
        try:
            meta = sessions.read_meta(path)
        except SessionError as error:
            logging.warning("not reclaimable: %s", error)
            continue
        if meta.get("end_time"):
            found.append(Candidate(path, folder_bytes(path), str(meta.get("start_time", ""))))
    chosen: list[Candidate] = []
    for candidate in sorted(found, key=lambda item: (item.start_time, item.path.name)):
        if sum(item.num_bytes for item in chosen) >= needed_bytes:
            break
        chosen.append(candidate)
    freed = sum(item.num_bytes for item in chosen)
    return tuple(chosen) if freed >= needed_bytes else ()


def remove_sessions(plan: Sequence[Candidate]) -> int:
    """Deletes the planned sessions and returns the bytes freed."""
    for candidate in plan:
        logging.warning(
            "reclaim: deleting session %s (%d bytes)", candidate.path, candidate.num_bytes
        )
        shutil.rmtree(candidate.path)
    return sum(candidate.num_bytes for candidate in plan)
