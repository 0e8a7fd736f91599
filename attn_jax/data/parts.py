"""A part of a session: a run of consecutive observations, kept as an index file instead of copies.

An index file is JSON: `format`, `name`, `session` (folder, relative to the file where possible),
`start` and `stop` (observations counted from 0, stop excluded).

    part = Part("dot_stage1_train_7", session="sessions/dot", start=0, stop=7)
    write_part(part, "splits/dot_stage1_train_7.json")
    resolve_part("splits/dot_stage1_train_7.json") == part
    stretch(part).shares_frames(stretch(other))
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib

from attn_jax.core import files
from attn_jax.core.errors import SessionError
from attn_jax.core.typing import PathLike
from attn_jax.data import sessions

FORMAT = "attn_jax.session_part/1"


@dataclasses.dataclass(frozen=True)
class Part:
    """Observations `start` to `stop` (excluded, None for the end) of a session folder."""

    name: str
    session: pathlib.Path
    start: int = 0
    stop: int | None = None

    def __post_init__(self):
        object.__setattr__(self, "session", pathlib.Path(self.session))
        if self.start < 0 or (self.stop is not None and self.stop <= self.start):
            raise SessionError(
                f"part {self.name} is empty: observations {self.start} to {self.stop}",
                where=self.session,
            )


@dataclasses.dataclass(frozen=True)
class Stretch:
    """Which steps of which recording a part holds, wherever its folder lies.

    Attributes:
      recording: name and start time of the recording.
      first, last: steps of the first and the last observation, both included.
    """

    recording: str
    first: int
    last: int

    def shares_frames(self, other: Stretch) -> bool:
        """Whether an observation can be in both."""
        same = self.recording == other.recording
        return same and self.first <= other.last and other.first <= self.last


def stretch(part: Part) -> Stretch:
    """The stretch of a part; an exported copy of a part has that of the part.

    Raises:
      SessionError: the session is damaged, or has none of the part's observations.
    """
    meta = sessions.read_meta(part.session)
    events = sessions.read_events(part.session)
    steps = [event.step for event in events if event.type == sessions.OBSERVATION]
    steps = steps[part.start : part.stop]
    if not steps:
        raise SessionError(f"holds no observation of part {part.name}", where=part.session)
    name = meta.get("split_from") or meta.get("session_name", part.session.name)
    offset = meta.get("split_step_offset", 0)
    return Stretch(
        f"{name} {meta.get('start_time', '')}".strip(), steps[0] + offset, steps[-1] + offset
    )


def write_part(part: Part, path: PathLike) -> pathlib.Path:
    """Writes the index file and returns its path.

    Raises:
      SessionError: the file exists.
      DiskFullError: no space left.
    """
    path = pathlib.Path(path)
    folder = os.path.relpath(part.session.absolute(), path.parent.absolute())
    content = {
        "format": FORMAT,
        "name": part.name,
        "session": pathlib.PurePath(folder).as_posix(),
        "start": part.start,
        "stop": part.stop,
    }
    if path.exists():
        raise SessionError("already exists", where=path, fix="Choose another folder")
    with files.disk_errors(path, what="a part"):
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(path, content)
    return path


def resolve_part(path: PathLike | Part) -> Part:
    """The part that a session folder (all of it) or an index file stands for; a part is itself.

    Raises:
      SessionError: neither, or the index file is damaged.
    """
    if isinstance(path, Part):
        return path
    path = pathlib.Path(path)
    if path.is_dir():
        return Part(path.name or path.absolute().name, path)
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SessionError(
            "no such session folder or part index", where=path, fix="Record one with launch.record"
        ) from error
    except ValueError as error:
        raise SessionError(
            f"not a session folder, and not valid JSON: {error}", where=path
        ) from error
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise SessionError(f"not an index file of format {FORMAT}", where=path)
    try:
        name, session, start, stop = raw["name"], raw["session"], raw["start"], raw["stop"]
    except KeyError as error:
        raise SessionError(f"index file lacks {error}", where=path) from error
    valid = isinstance(start, int) and (stop is None or isinstance(stop, int))
    if not valid or not isinstance(session, str) or not isinstance(name, str):
        raise SessionError("index file has fields of a wrong type", where=path)
    return Part(name, path.parent / session, start, stop)
