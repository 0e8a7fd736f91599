"""What launch.record writes beside a LeRobotDataset: notes on every episode, and masks of things.

FOLDER/episodes.jsonl                 one line per episode, with `episode_index`
FOLDER/masks/episode_000000.npz       camera -> (t, h, w) uint8 ids: 0 background, i + 1 for
                                      the note's objects[i], 255 the robot
FOLDER/views/episode_000000.npz       where asked for: `depth.<camera>` (t, h, w) float32, metres
                                      along the optical axis, 0 for nothing; `points.<camera>`
                                      (t, h, w, 3) float32, metres in the world; `pose.<camera>`
                                      (t, 4, 4), camera to world; `intrinsics.<camera>` (3, 3)

A camera's frame is OpenCV's: x right, y down, z forward; the centre of pixel (i, j) is at
(j + 0.5, i + 0.5). Axis names: t frames, o objects, h w pixels.

    note = read_note(root, 3)                     # {"episode_index": 3, "objects": [...], ...}
    read_masks(root, 3)["front"]                  # (t, h, w) uint8
    object_masks(read_masks(root, 3), note["objects"])["front"]           # (t, o, h, w) bool
"""

from __future__ import annotations

import functools
import json
import pathlib
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from attn_jax.core.errors import EpisodeError
from attn_jax.core.typing import Bool, NumpyArray, PathLike, UInt8

EPISODES_FILE = "episodes.jsonl"
MASK_FILE = "masks/episode_{:06d}.npz"
VIEW_FILE = "views/episode_{:06d}.npz"
ROBOT_ID = 255


def read_notes(root: PathLike) -> list[dict[str, Any]]:
    """Lines of `episodes.jsonl` in order.

    Raises:
      EpisodeError: there is no such file, or a line is damaged.
    """
    path = pathlib.Path(root) / EPISODES_FILE
    if not path.is_file():
        raise EpisodeError("is missing", where=path, fix="Name a folder written by launch.record")
    return list(_notes(path, path.stat().st_mtime_ns))


def read_note(root: PathLike, episode: int) -> dict[str, Any] | None:
    """The note on an episode; None for a dataset without notes.

    Raises:
      EpisodeError: the file lacks this episode, or a line is damaged.
    """
    path = pathlib.Path(root) / EPISODES_FILE
    if not path.is_file():
        return None
    for note in _notes(path, path.stat().st_mtime_ns):
        if note["episode_index"] == episode:
            return note
    raise EpisodeError(
        f"has no line of episode {episode}", where=path, fix="Record again, or remove the file"
    )


@functools.lru_cache(maxsize=4)  # episodes are read one by one, each from the same file
def _notes(path: pathlib.Path, _changed_ns: int) -> tuple[dict[str, Any], ...]:
    notes = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            note = json.loads(line)
            int(note["episode_index"])
        except (ValueError, KeyError, TypeError) as error:
            raise EpisodeError(
                f"line {number} is no note on an episode: {error!r}",
                where=path,
                fix="Continue the recording, or remove the line",
            ) from error
        notes.append(note)
    return tuple(notes)


def has_masks(root: PathLike, episode: int) -> bool:
    """Whether the dataset has masks of an episode."""
    return (pathlib.Path(root) / MASK_FILE.format(episode)).is_file()


def read_masks(root: PathLike, episode: int) -> dict[str, UInt8[NumpyArray, "t _ _"]]:
    """Masks of an episode: camera -> (t, h, w) ids of things.

    Raises:
      EpisodeError: the dataset has no masks of that episode, or the file is damaged.
    """
    path = pathlib.Path(root) / MASK_FILE.format(episode)
    return read_arrays(path, fix="Record with dataset.masks=true")


def read_views(root: PathLike, episode: int) -> dict[str, NumpyArray]:
    """Depth, points and geometry of an episode, by the names that the module lists.

    Raises:
      EpisodeError: the dataset has none of that episode, or the file is damaged.
    """
    path = pathlib.Path(root) / VIEW_FILE.format(episode)
    return read_arrays(path, fix="Record with dataset.views=depth,points")


def read_arrays(path: pathlib.Path, *, fix: str) -> dict[str, NumpyArray]:
    """Arrays of an npz file by name; EpisodeError with `fix` when it is missing or damaged."""
    if not path.exists():
        raise EpisodeError("is missing", where=path, fix=fix)
    try:
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise EpisodeError(f"is damaged: {error}", where=path, fix="Record again") from error


def object_masks(
    ids: Mapping[str, UInt8[NumpyArray, "t _ _"]], objects: Sequence[str]
) -> dict[str, Bool[NumpyArray, "t o _ _"]]:
    """Masks of objects: camera -> (t, o, h, w).

    Args:
      ids: camera -> (t, h, w) ids, as `read_masks` gives them.
      objects: names; the id of objects[i] is i + 1.

    Raises:
      EpisodeError: an id is neither an object's nor the robot's.
    """
    numbers = np.arange(1, len(objects) + 1)
    known = [0, *numbers.tolist(), ROBOT_ID]
    for camera, pictures in ids.items():
        if unknown := set(np.unique(pictures).tolist()) - set(known):
            raise EpisodeError(
                f"ids {sorted(unknown)} in the masks of {camera!r} belong to no object",
                fix=f"There are {len(objects)} objects: {', '.join(objects)}",
            )
    return {camera: pictures[:, None] == numbers[:, None, None] for camera, pictures in ids.items()}
