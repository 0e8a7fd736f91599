"""FrameStore: the frames of one or more sessions, held once, and which of them form a canvas.

Axis names: n frames, K frames of a canvas, c canvases, h w of a frame.

    store = load_frames("sessions/dot")
    store.frames.shape                      # (n, h, w, 3) uint8
    store.windows(history=3)                # (c, 3): rows of `frames`, oldest first
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from attn_jax.core.errors import SessionError
from attn_jax.core.typing import Int, PathLike, UInt8
from attn_jax.data import sessions
from attn_jax.data.canvas import to_frame
from attn_jax.data.parts import Part, resolve_part

NO_ACTION = -1


@dataclasses.dataclass(frozen=True)
class FrameStore:
    """Frames with the actions between them.

    Attributes:
      frames: (n, h, w, 3) uint8, sessions one after another, each in step order.
      steps: (n,) step of each frame in its session.
      session: (n,) index into `names`.
      action_after: (n,) index into `action_space` of the action that leads to the next row, or -1
        where the next row does not follow: end of a session or episode, or a gap in the recording.
      action_space: actions of the robot.
      names: session or part names.
    """

    frames: UInt8[np.ndarray, "n h w 3"]
    steps: Int[np.ndarray, " n"]
    session: Int[np.ndarray, " n"]
    action_after: Int[np.ndarray, " n"]
    action_space: tuple[Mapping[str, Any], ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def frame_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.frames.shape[1], self.frames.shape[2]

    def windows(self, history: int) -> Int[np.ndarray, "c K"]:
        """Rows of `frames` of every canvas: `history` frames in a row, joined by actions."""
        count = len(self) - history + 1
        if count < 1:
            return np.zeros((0, history), np.int64)
        rows = np.arange(count)[:, None] + np.arange(history)
        joined = (self.action_after[rows[:, :-1]] != NO_ACTION).all(axis=1)
        return rows[joined]


@dataclasses.dataclass(frozen=True)
class _Recording:
    """One session or part before its pictures are read."""

    part: Part
    meta: Mapping[str, Any]
    observations: tuple[sessions.Event, ...]
    action_after: tuple[int, ...]


def load_frames(
    paths: PathLike | Part | Sequence[PathLike | Part],
    *,
    frame_size: tuple[int, int] | None = None,
    skip_missing: bool = False,
) -> FrameStore:
    """Reads sessions and split parts into one store.

    Frames and actions are paired by step number. Where a step is absent the canvases around it are
    not built, and a warning counts them.

    Args:
      paths: session folders, index files of `attn_jax.data.parts` or parts, in the order wanted.
      frame_size: resize all frames to (height, width) with LANCZOS; default is to require one size.
      skip_missing: treat a missing or unreadable picture as a gap instead of an error.

    Raises:
      SessionError: corrupt, misaligned or empty session, unknown action, missing or unreadable
        picture, differing frame sizes or action spaces.
    """
    if isinstance(paths, (str, os.PathLike, Part)):
        paths = [paths]
    if not paths:
        raise SessionError("no session given")
    recordings = [_read_recording(resolve_part(path)) for path in paths]
    space = recordings[0].meta["action_space"]
    for recording in recordings[1:]:
        if recording.meta["action_space"] != space:
            raise SessionError(
                f"action space {recording.meta['action_space']} differs from {space}",
                where=recording.part.session,
                fix=f"Load only sessions of the robot in {recordings[0].part.session}",
            )
    files = [
        recording.part.session / event.data["frame_path"]
        for recording in recordings
        for event in recording.observations
    ]
    frames, readable = _read_frames(files, frame_size, skip_missing)
    return _assemble(recordings, frames, readable)


def _read_frames(
    files: Sequence[pathlib.Path], frame_size: tuple[int, int] | None, skip_missing: bool
) -> tuple[np.ndarray, np.ndarray]:
    """All pictures in one array, and which of them could be read."""
    frames = None
    readable = np.ones(len(files), bool)
    for row, file in enumerate(files):
        try:
            frame = sessions.read_frame(file)
        except SessionError as error:
            if not skip_missing:
                raise SessionError(
                    error.what,
                    where=file,
                    fix="Delete its line from the events: canvases across it are then left out",
                ) from error
            readable[row] = False
            continue
        if frames is None:  # one array from the start: a list would need the memory twice
            frames = np.zeros((len(files), *(frame_size or frame.shape[:2]), 3), np.uint8)
        size = (frames.shape[1], frames.shape[2])
        if frame_size is None and frame.shape[:2] != size:
            raise SessionError(
                f"frame is {frame.shape[0]}x{frame.shape[1]}, the ones before {size[0]}x{size[1]}",
                where=file,
                fix="All frames of a model have one size; launch.sessions validate names others",
            )
        frames[row] = to_frame(frame, size)
    if frames is None:
        raise SessionError("no frame can be read", where=files[0].parent)
    return frames, readable


def _read_recording(part: Part) -> _Recording:
    """Events of a part, paired by step number."""
    meta = sessions.read_meta(part.session)
    events = sessions.read_events(part.session)
    misaligned = [
        event.step
        for event in events
        if (event.step % 2 == 0) != (event.type == sessions.OBSERVATION)
    ]
    if misaligned:
        raise SessionError(
            f"misaligned events at steps {misaligned[:10]}: observations have even steps, "
            "actions odd ones",
            where=part.session,
            fix="Run launch.sessions validate for the whole list",
        )
    observations = [event for event in events if event.type == sessions.OBSERVATION]
    if (part.stop or part.start + 1) > len(observations):
        raise SessionError(
            f"holds {len(observations)} observations, part {part.name} takes {part.start} to "
            f"{part.stop}",
            where=part.session,
        )
    observations = observations[part.start : part.stop]
    actions = {
        event.step: sessions.action_index(event.data, meta["action_space"])
        for event in events
        if event.type == sessions.ACTION
    }
    boundaries = sessions.episode_starts(meta)
    after = []
    for this, following in itertools.pairwise(observations):
        joined = following.step == this.step + 2 and following.step not in boundaries
        after.append(actions.get(this.step + 1, NO_ACTION) if joined else NO_ACTION)
    after.append(NO_ACTION)
    gaps = sum(
        action == NO_ACTION and following.step not in boundaries
        for action, following in zip(after, observations[1:], strict=False)
    )
    if gaps:
        logging.warning("%s: %d gaps in the recording; no canvas crosses them", part.session, gaps)
    return _Recording(part, meta, tuple(observations), tuple(after))


def _assemble(
    recordings: Sequence[_Recording], frames: np.ndarray, readable: np.ndarray
) -> FrameStore:
    action_after = np.concatenate([np.array(r.action_after, np.int32) for r in recordings])
    # Neither the transition from an unreadable frame nor the one to it can be used.
    action_after[~readable] = NO_ACTION
    action_after[:-1][~readable[1:]] = NO_ACTION
    if not readable.all():
        logging.warning("%d unreadable frames: their canvases are left out", (~readable).sum())
    return FrameStore(
        frames=frames,
        steps=np.concatenate([[e.step for e in r.observations] for r in recordings]),
        session=np.repeat(np.arange(len(recordings)), [len(r.observations) for r in recordings]),
        action_after=action_after,
        action_space=tuple(recordings[0].meta["action_space"]),
        names=tuple(recording.part.name for recording in recordings),
    )
