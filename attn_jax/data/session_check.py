"""Checks a session and names every step that is bad, instead of stopping at the first.

Nothing is changed on disk.

    report = validate_session("sessions/dot")
    report.ok, report.problems
"""

from __future__ import annotations

import collections
import dataclasses
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from attn_jax.core.errors import SessionError
from attn_jax.core.typing import PathLike
from attn_jax.data import sessions


@dataclasses.dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
      kind: `corrupt`, `missing_frame`, `unreadable_frame`, `frame_size`, `misaligned`, `gap` or
        `unknown_action`.
      step: step concerned, or None when it is the whole session.
      message: what is wrong.
    """

    kind: str
    step: int | None
    message: str


@dataclasses.dataclass(frozen=True)
class SessionReport:
    """What `validate_session` found.

    Attributes:
      session: the folder.
      observations: observation events.
      actions: action events.
      episodes: runs of frames that were recorded without a restart of the robot.
      frame_size: (height, width) of most frames, or None when no frame can be read.
      problems: everything that is wrong, by step.
    """

    session: pathlib.Path
    observations: int = 0
    actions: int = 0
    episodes: int = 0
    frame_size: tuple[int, int] | None = None
    problems: tuple[Problem, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def validate_session(path: PathLike) -> SessionReport:
    """Reads everything of a session, every picture included.

    A session that cannot be read at all (no metadata, a corrupt line) has the one problem
    `corrupt`; a path that is no folder is a SessionError.
    """
    session = pathlib.Path(path)
    if not session.is_dir():
        raise SessionError("no such session folder", where=session)
    try:
        meta = sessions.read_meta(session)
        events = sessions.read_events(session)
    except SessionError as error:
        return SessionReport(session, problems=(Problem("corrupt", None, str(error)),))
    sizes, problems = _check_frames(session, events)
    problems += [*_check_events(events, meta), *_check_gaps(events, sessions.episode_starts(meta))]
    observations = [event for event in events if event.type == sessions.OBSERVATION]
    starts = sessions.episode_starts(meta) - {observations[0].step if observations else 0}
    return SessionReport(
        session=session,
        observations=len(observations),
        actions=len(events) - len(observations),
        episodes=len(starts) + bool(observations),
        frame_size=_most_common(sizes),
        problems=tuple(sorted(problems, key=lambda p: (-1 if p.step is None else p.step, p.kind))),
    )


def _most_common(sizes: Mapping[int, tuple[int, int]]) -> tuple[int, int] | None:
    counted = collections.Counter(sizes.values()).most_common(1)
    return counted[0][0] if counted else None


def _check_frames(
    session: pathlib.Path, events: list[sessions.Event]
) -> tuple[dict[int, tuple[int, int]], list[Problem]]:
    sizes: dict[int, tuple[int, int]] = {}
    problems = []
    for event in events:
        if event.type != sessions.OBSERVATION:
            continue
        file = session / event.data["frame_path"]
        if not os.path.isfile(file):  # False, too, for a name that no file can have
            problems.append(Problem("missing_frame", event.step, f"{file} is missing"))
            continue
        try:
            height, width = sessions.read_frame(file).shape[:2]
        except SessionError as error:
            problems.append(Problem("unreadable_frame", event.step, str(error)))
            continue
        sizes[event.step] = (height, width)
    usual = _most_common(sizes)
    for step, size in sizes.items():
        if usual is not None and size != usual:
            message = f"frame is {size[0]}x{size[1]}, most are {usual[0]}x{usual[1]}"
            problems.append(Problem("frame_size", step, message))
    return sizes, problems


def _check_events(events: list[sessions.Event], meta: Mapping[str, Any]) -> Iterator[Problem]:
    if not events:
        yield Problem("corrupt", None, "holds no events")
    for event in events:
        if (event.step % 2 == 0) != (event.type == sessions.OBSERVATION):
            parity = "an even" if event.step % 2 == 0 else "an odd"
            yield Problem("misaligned", event.step, f"{event.type} at {parity} step")
        if event.type == sessions.ACTION:
            try:
                sessions.action_index(event.data, meta["action_space"])
            except SessionError as error:
                yield Problem("unknown_action", event.step, error.what)


def _check_gaps(events: list[sessions.Event], starts: frozenset[int]) -> Iterator[Problem]:
    """Runs of absent step numbers, except the unused one before an episode."""
    expected = 0
    for event in events:
        missing_until = event.step - (event.step in starts and event.step > 0)
        if missing_until > expected:
            last = missing_until - 1
            what = f"step {last} is" if last == expected else f"steps {expected} to {last} are"
            yield Problem("gap", expected, f"{what} missing")
        expected = event.step + 1
    if events and events[-1].type == sessions.ACTION:
        yield Problem("gap", expected, "ends with an action: the frame after it is missing")
