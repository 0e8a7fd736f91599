"""Sessions on disk: the directory format and its reader.

A session is a folder with `session_meta.json`, events as JSON lines in `events_shard_000.jsonl`,
`events_shard_001.jsonl`, ... (`shard_size` events each) and pictures in `frames/`. Even steps are
observations, odd steps are actions, so an action stands between the two frames it connects. The
writer is `attn_jax.data.session_writer`, the checker `attn_jax.data.session_check`.

    reader = SessionReader("sessions/dot")
    frame = reader.get_next_observation()       # (h, w, 3) uint8
    action = reader.get_next_action()           # {"action": 1}
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from attn_jax.core.errors import SessionError
from attn_jax.core.typing import PathLike, UInt8

META_FILE = "session_meta.json"
FRAMES_FOLDER = "frames"
EXTENSIONS = {"jpeg": "jpg", "png": "png"}
OBSERVATION = "observation"
ACTION = "action"

_SHARD = re.compile(r"events_shard_(\d+)\.jsonl")


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


_TEXT = ("a string", _is_text)
_COUNT = ("a whole number from 0", _is_count)
#: Field of `session_meta.json` -> what it must be, where it is present.
_META: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "session_name": _TEXT,
    "start_time": _TEXT,
    "end_time": ("a string or null", lambda value: value is None or _is_text(value)),
    "robot_type": _TEXT,
    "robot": ("an object", _is_object),
    "action_space": (
        "a list of objects",
        lambda value: isinstance(value, list) and all(map(_is_object, value)),
    ),
    "shard_size": ("a whole number from 1", lambda value: _is_count(value) and value > 0),
    "total_shards": _COUNT,
    "total_steps": _COUNT,
    "max_disk_gb": ("a number", _is_number),
    "image_format": (
        " or ".join(EXTENSIONS),
        lambda value: isinstance(value, str) and value in EXTENSIONS,
    ),
    "episode_boundary": (
        "a list of whole numbers from 0",
        lambda value: isinstance(value, list) and all(map(_is_count, value)),
    ),
    "split_from": _TEXT,
    "split_step_offset": _COUNT,
}


@dataclasses.dataclass(frozen=True)
class Event:
    """One line of a session.

    Attributes:
      step: position in the session; even for observations, odd for actions.
      type: `observation` or `action`.
      data: `{"frame_path": ...}` of an observation, the action itself of an action.
      timestamp: seconds since the epoch.
    """

    step: int
    type: str
    data: Mapping[str, Any]
    timestamp: float


def shard_name(number: int) -> str:
    """File name of shard `number`."""
    return f"events_shard_{number:03d}.jsonl"


def frame_path(step: int, image_format: str) -> str:
    """Path of the picture of `step` relative to the session, with forward slashes."""
    return f"{FRAMES_FOLDER}/frame_{step:06d}.{EXTENSIONS[image_format]}"


def is_session(path: PathLike) -> bool:
    """Whether the folder holds a session."""
    return (pathlib.Path(path) / META_FILE).is_file()


def read_meta(session: PathLike) -> dict[str, Any]:
    """Contents of `session_meta.json`.

    Raises:
      SessionError: the folder is no session, or its metadata are not a JSON object with an
        `action_space`, or a field that is known has another type than docs/file-formats.md says.
    """
    path = pathlib.Path(session) / META_FILE
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SessionError(
            f"not a session: {META_FILE} is missing",
            where=session,
            fix="Record one with launch.record",
        ) from error
    except OSError as error:
        raise SessionError(f"cannot be read: {error.strerror}", where=path) from error
    except (ValueError, RecursionError) as error:  # not JSON, or not text
        raise SessionError(f"not valid JSON: {error}", where=path) from error
    if not isinstance(meta, dict) or "action_space" not in meta:
        raise SessionError("holds no `action_space`", where=path)
    for name in meta.keys() & _META.keys():
        wanted, fits = _META[name]
        if not fits(meta[name]):
            raise SessionError(
                f"`{name}` must be {wanted}, got {reprlib.repr(meta[name])}",
                where=path,
                fix="Restore the file",
            )
    return meta


def episode_starts(meta: Mapping[str, Any]) -> frozenset[int]:
    """Steps of the first observation of every episode that follows another one."""
    return frozenset(int(step) for step in meta.get("episode_boundary", ()))


def read_events(session: PathLike) -> list[Event]:
    """All events of all shards, ordered by step.

    A last line of the last shard without its line end is what a killed recorder leaves behind: it
    is ignored unless it is complete.

    Raises:
      SessionError: no shard, a missing shard, a corrupt line (named by file and line) or a step
        that occurs twice.
    """
    session = pathlib.Path(session)
    shards = sorted(
        (int(match[1]), path)
        for path in session.glob("events_shard_*.jsonl")
        if (match := _SHARD.fullmatch(path.name))
    )
    if not shards:
        raise SessionError("holds no events_shard_*.jsonl", where=session)
    for expected, (number, _) in enumerate(shards):
        if number != expected:
            raise SessionError(f"shard {shard_name(expected)} is missing", where=session)
    events = {}
    for number, path in shards:
        for event in _read_shard(path, torn_end=number == len(shards) - 1):
            if event.step in events:
                raise SessionError(f"step {event.step} occurs twice", where=path)
            events[event.step] = event
    return [events[step] for step in sorted(events)]


def _read_shard(path: pathlib.Path, torn_end: bool) -> list[Event]:
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise SessionError(f"cannot be read: {error.strerror}", where=path) from error
    events = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            events.append(_parse_event(line))
        except (ValueError, RecursionError) as error:  # brackets without end are nested too deep
            if torn_end and number == len(lines):
                continue
            raise SessionError(
                f"line {number} is corrupt: {error}",
                where=path,
                fix="Restore the file, or delete the line: canvases across it are then left out",
            ) from error
    return events


def _parse_event(line: bytes) -> Event:
    """Event of one line; raises ValueError (JSONDecodeError and UnicodeDecodeError are some)."""
    raw = json.loads(line)
    if not isinstance(raw, dict):
        raise ValueError("an event must be a JSON object")
    missing = [key for key in ("step", "type", "data", "timestamp") if key not in raw]
    if missing:
        raise ValueError(f"an event needs {', '.join(missing)}")
    step, kind, data, timestamp = raw["step"], raw["type"], raw["data"], raw["timestamp"]
    if not isinstance(step, int) or isinstance(step, bool) or step < 0:
        raise ValueError(f"`step` must be an integer from 0, got {step!r}")
    if kind not in (OBSERVATION, ACTION):
        raise ValueError(f"`type` must be {OBSERVATION} or {ACTION}, got {kind!r}")
    if not isinstance(data, dict):
        raise ValueError("`data` must be an object")
    if kind == OBSERVATION:
        name = pathlib.PurePosixPath(str(data.get("frame_path", "")))
        if not name.name or name.is_absolute() or ".." in name.parts:
            raise ValueError(f"`frame_path` must lie inside the session, got {str(name)!r}")
    if not isinstance(timestamp, (int, float)):
        raise ValueError(f"`timestamp` must be a number, got {timestamp!r}")
    return Event(step, kind, data, float(timestamp))


def read_frame(path: PathLike) -> UInt8[np.ndarray, "h w 3"]:
    """Picture file as uint8 RGB.

    Raises:
      SessionError: the file is missing or cannot be decoded.
    """
    try:
        with Image.open(path) as picture:
            return np.array(picture.convert("RGB"))
    except FileNotFoundError as error:
        raise SessionError("frame is missing", where=path) from error
    except (  # Pillow on damaged files, which may also say that they are enormous
        UnidentifiedImageError,
        Image.DecompressionBombError,
        OSError,
        SyntaxError,
        ValueError,
    ) as error:
        raise SessionError(f"frame cannot be decoded: {error}", where=path) from error


def action_index(action: Mapping[str, Any], action_space: Sequence[Mapping[str, Any]]) -> int:
    """Position of `action` in `action_space`; `duration` is not compared.

    Raises:
      SessionError: the action is not in the space.
    """

    def core(value: Mapping[str, Any]) -> dict[str, Any]:
        return {key: item for key, item in value.items() if key != "duration"}

    for index, known in enumerate(action_space):
        if core(known) == core(action):
            return index
    raise SessionError(
        f"unknown action {dict(action)}",
        fix=f"The action space is {[dict(a) for a in action_space]}",
    )


class SessionReader:
    """Reads a session event by event, in step order.

    Attributes:
      path: the session folder.
      meta: contents of `session_meta.json`.
      events: all events.

    Raises:
      SessionError: the session is missing or corrupt.
    """

    def __init__(self, path: PathLike):
        self.path = pathlib.Path(path)
        self.meta = read_meta(self.path)
        self.events = tuple(read_events(self.path))
        self._cursor = 0

    @property
    def action_space(self) -> list[dict[str, Any]]:
        """Actions of the robot that was recorded."""
        return list(self.meta["action_space"])

    def peek(self) -> Event | None:
        """The next event without advancing, or None at the end."""
        return self.events[self._cursor] if self._cursor < len(self.events) else None

    def get_next_observation(self) -> UInt8[np.ndarray, "h w 3"] | None:
        """The next frame; None without advancing when the next event is an action, or at the end.

        Raises:
          SessionError: the picture is missing or damaged.
        """
        event = self._take(OBSERVATION)
        return None if event is None else read_frame(self.path / event.data["frame_path"])

    def get_next_action(self) -> dict[str, Any] | None:
        """The next action; None without advancing when the next event is a frame, or at the end."""
        event = self._take(ACTION)
        return None if event is None else dict(event.data)

    def _take(self, kind: str) -> Event | None:
        event = self.peek()
        if event is None or event.type != kind:
            return None
        self._cursor += 1
        return event

    def seek(self, step: int) -> None:
        """Makes the first event at or after `step` the next one."""
        self._cursor = sum(event.step < step for event in self.events)

    def reset(self) -> None:
        """Starts again at the first event."""
        self._cursor = 0

    def progress(self) -> tuple[int, int]:
        """(events read, events in all)."""
        return self._cursor, len(self.events)
