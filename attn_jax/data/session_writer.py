"""Writes a session so that a crash at any moment loses at most the event being written.

A picture goes to a temporary name, is renamed, and only then does its event line follow in one
write; metadata is replaced atomically. Nothing is buffered in the process. Axis names: h w of a
frame.

    with SessionWriter("sessions/dot", action_space=[{"action": 0}, {"action": 1}],
    robot_type="ToroidalDot") as writer:
        writer.observation(frame)
        writer.action({"action": 1})
        writer.observation(next_frame)
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import io
import json
import math
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from attn_jax.core.errors import ConfigError, DiskFullError, SessionError
from attn_jax.core.typing import PathLike, UInt8
from attn_jax.data import quota, sessions

GIGABYTE = 10**9
JPEG_QUALITY = 85

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def to_uint8(image: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    """A camera picture as uint8 RGB.

    (3, h, w) is turned to (h, w, 3). Floating point within [0, 1] is scaled by 255; other floating
    point is taken as [-1, 1]: (x + 1) * 127.5, clipped.

    Raises:
      SessionError: another shape or type, or values that are not finite.
    """
    image = np.asarray(image)
    if image.ndim == 3 and image.shape[-1] != 3 and image.shape[0] == 3:
        image = image.transpose(1, 2, 0)
    if image.ndim != 3 or image.shape[-1] != 3:
        raise SessionError(f"a frame must be (h, w, 3) or (3, h, w), got shape {image.shape}")
    if np.issubdtype(image.dtype, np.floating):
        if not np.isfinite(image).all():
            raise SessionError("a frame holds values that are not finite")
        unit = image.min() >= 0 and image.max() <= 1
        scaled = image * 255 if unit else (image + 1) * 127.5
        return np.clip(scaled, 0, 255).astype(np.uint8)
    if image.dtype != np.uint8:
        raise SessionError(f"a frame must be uint8 or floating point, got {image.dtype}")
    return image


class SessionWriter:
    """Appends observations and actions to a new session.

    Args:
      path: folder to make; it may exist, but not hold a session.
      action_space: the actions that may be recorded.
      robot_type: class name of the robot.
      session_name: default is the folder's name.
      shard_size: events per shard.
      max_disk_gb: limit for all sessions beside this one and itself, gigabytes of 10**9 bytes.
      image_format: `jpeg` (quality 85, lossy) or `png` (lossless).
      sync: also wait for the disk after every event, so that a power cut loses at most one event. A
        killed process does so without it.
      reclaim: what may be deleted at the limit; default nothing.
      clock: seconds since the epoch.
      extra_meta: further fields of `session_meta.json`; `robot` is what defines its world.

    Raises:
      SessionError: the folder holds a session, or a value cannot be recorded.
      DiskFullError: the disk or the limit is full. Everything recorded so far stays readable.
    """

    def __init__(
        self,
        path: PathLike,
        *,
        action_space: Sequence[Mapping[str, Any]],
        robot_type: str,
        session_name: str | None = None,
        shard_size: int = 1000,
        max_disk_gb: float = 10.0,
        image_format: str = "jpeg",
        sync: bool = True,
        reclaim: quota.Reclaim | None = None,
        clock: Callable[[], float] = time.time,
        extra_meta: Mapping[str, Any] | None = None,
    ):
        self.path = pathlib.Path(path)
        if image_format not in sessions.EXTENSIONS:
            raise ConfigError(
                f"unknown image format {image_format!r}",
                fix=f"Use {' or '.join(sessions.EXTENSIONS)}",
            )
        if shard_size < 1 or not 0 < max_disk_gb < math.inf:  # NaN neither
            raise ConfigError(
                "shard_size and max_disk_gb must be positive and finite, got "
                f"{shard_size} and {max_disk_gb}"
            )
        refuse_existing(self.path)
        self._image_format = image_format
        self._shard_size = shard_size
        self._limit_bytes = int(max_disk_gb * GIGABYTE)
        self._sync = sync
        self._reclaim = reclaim or quota.Reclaim()
        self._clock = clock
        self._next_step = 0
        self._num_events = 0
        self._shard: io.RawIOBase | None = None
        self._closed = False
        self._root_bytes = quota.root_bytes(self.path.parent)
        self._meta: dict[str, Any] = {
            "session_name": session_name or self.path.name,
            "start_time": self._iso_now(),
            "shard_size": shard_size,
            "max_disk_gb": max_disk_gb,
            "action_space": [dict(action) for action in action_space],
            "robot_type": robot_type,
            "image_format": image_format,
            **(extra_meta or {}),
        }
        with self._no_space("start the session"):
            (self.path / sessions.FRAMES_FOLDER).mkdir(parents=True, exist_ok=True)
        self._write_meta()

    def __enter__(self) -> SessionWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def num_events(self) -> int:
        """Events written so far."""
        return self._num_events

    def start_episode(self) -> None:
        """The next observation begins a new episode: no action joins it to the one before."""
        self._next_step += self._next_step % 2  # the action's step number stays unused
        self._meta.setdefault("episode_boundary", []).append(self._next_step)
        self._write_meta()

    def observation(self, image: np.ndarray, timestamp: float | None = None) -> int:
        """Writes a frame and returns its step; see `to_uint8` for what it accepts."""
        step = self._expect(0, sessions.OBSERVATION)
        picture = io.BytesIO()
        options = {"quality": JPEG_QUALITY} if self._image_format == "jpeg" else {}
        Image.fromarray(to_uint8(image)).save(picture, format=self._image_format, **options)
        name = sessions.frame_path(step, self._image_format)
        self._reserve(len(picture.getvalue()))
        self._replace_file(self.path / name, picture.getvalue())
        self._append(step, sessions.OBSERVATION, {"frame_path": name}, timestamp)
        return step

    def action(self, action: Mapping[str, Any], timestamp: float | None = None) -> int:
        """Writes an action of the action space and returns its step."""
        step = self._expect(1, sessions.ACTION)
        sessions.action_index(action, self._meta["action_space"])
        self._append(step, sessions.ACTION, dict(action), timestamp)
        return step

    def close(self) -> None:
        """Completes the metadata. Further events are refused."""
        if self._closed:
            return
        self._closed = True
        if self._shard is not None:
            self._shard.close()
        self._meta["total_shards"] = -(-self._num_events // self._shard_size)
        self._meta["end_time"] = self._iso_now()
        self._meta["total_steps"] = self._next_step
        self._write_meta()

    def _expect(self, parity: int, kind: str) -> int:
        if self._closed:
            raise SessionError("the session is closed", where=self.path)
        if self._next_step % 2 != parity:
            raise SessionError(
                f"step {self._next_step} cannot be an {kind}: observations and actions alternate",
                where=self.path,
                fix="Call start_episode() before a second observation in a row",
            )
        return self._next_step

    def _append(
        self, step: int, kind: str, data: Mapping[str, Any], timestamp: float | None
    ) -> None:
        stamp = self._clock() if timestamp is None else timestamp
        event = {"step": step, "type": kind, "data": data, "timestamp": stamp}
        line = (json.dumps(event, allow_nan=False) + "\n").encode()
        self._reserve(len(line))
        with self._no_space(f"write step {step}"):
            shard = self._open_shard()
            if shard.write(line) != len(line):  # a short write is how a full disk shows first
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if self._sync:
                os.fsync(shard.fileno())
        self._num_events += 1
        self._next_step = step + 1

    def _open_shard(self) -> io.RawIOBase:
        if self._num_events % self._shard_size == 0 or self._shard is None:
            if self._shard is not None:
                self._shard.close()
            name = sessions.shard_name(self._num_events // self._shard_size)
            self._shard = open(self.path / name, "ab", buffering=0)  # noqa: SIM115
        return self._shard

    def _write_meta(self) -> None:
        text = json.dumps(self._meta, indent=2, allow_nan=False) + "\n"
        self._replace_file(self.path / sessions.META_FILE, text.encode())

    def _replace_file(self, path: pathlib.Path, content: bytes) -> None:
        """Writes the whole file or nothing, so that a reader never meets half of one."""
        temporary = path.with_name(path.name + ".tmp")
        try:
            with self._no_space(f"write {path.name}"), open(temporary, "wb") as file:
                file.write(content)
                if self._sync:
                    file.flush()
                    os.fsync(file.fileno())
        except DiskFullError:
            temporary.unlink(missing_ok=True)
            raise
        temporary.replace(path)

    def _reserve(self, num_bytes: int) -> None:
        """Counts bytes against the limit before they are written."""
        excess = self._root_bytes + num_bytes - self._limit_bytes
        if excess > 0:
            self._make_room(excess)
        self._root_bytes += num_bytes

    def _make_room(self, needed_bytes: int) -> None:
        plan = ()
        if self._reclaim.enabled:
            protect = (*self._reclaim.protect, self.path.name)
            plan = quota.plan_reclaim(self.path.parent, needed_bytes, protect)
        if plan and not self._reclaim.dry_run:
            self._root_bytes -= quota.remove_sessions(plan)
            return
        names = ", ".join(candidate.path.name for candidate in plan)
        would = f" Reclaiming would delete: {names}." if names else ""
        raise DiskFullError(
            f"sessions in {self.path.parent} have reached max_disk_gb="
            f"{self._limit_bytes / GIGABYTE:g}; {self._num_events} events are recorded",
            where=self.path,
            fix=f"Delete old sessions, raise max_disk_gb, or allow reclaiming.{would}",
        )

    @contextlib.contextmanager
    def _no_space(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in _NO_SPACE:
                raise
            raise DiskFullError(
                f"the disk is full, could not {what}; {self._num_events} events are recorded",
                where=self.path,
                fix="Free space, then record a new session",
            ) from error

    def _iso_now(self) -> str:
        return datetime.datetime.fromtimestamp(self._clock()).isoformat()


def refuse_existing(path: pathlib.Path) -> None:
    """Raises SessionError when the folder already holds recorded events or frames, or is a file."""
    if path.exists() and not path.is_dir():
        raise SessionError("is a file", where=path, fix="Name a folder for the session")
    recorded = ("events_shard_*.jsonl", f"{sessions.FRAMES_FOLDER}/frame_*")
    if any(any(path.glob(pattern)) for pattern in recorded):
        raise SessionError("already holds a session", where=path, fix="Choose another folder")
