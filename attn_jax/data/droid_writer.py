"""Writes recordings in the layout of DROID-style episodes, for tests, tutorials and other tools.

Frames, masks and trajectories are plain arrays, from a simulator or made up. `droid.read_droid`
reads back what was written, up to the JPEG coding of the pictures.

Axis names: t frames, T rows, h w pixels.

    folder = droid_folder(root, success=True, date="2025-12-10", name="2025-12-10_12-34-56")
    write_droid(
        folder, prompt="find the duck and pick it up", frames={"wrist": frames, "left": others},
        trajectory=trajectory, masks={"duck": masks}, layout="dinox",
    )
"""

from __future__ import annotations

import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import h5py
import numpy as np
import yaml
from PIL import Image

from attn_jax.core import files
from attn_jax.core.errors import EpisodeError
from attn_jax.core.typing import Bool, NumpyArray, PathLike, UInt8
from attn_jax.data import droid_files, droid_masks
from attn_jax.data.droid_files import Trajectory

LAYOUTS = ("dinox", "perception")
_ROLE_WORDS = {role: word for word, role in droid_masks.MATCHED.items()}


def droid_folder(root: PathLike, *, success: bool, date: str, name: str) -> pathlib.Path:
    """Folder of an episode below a root."""
    return pathlib.Path(root) / droid_files.OUTCOMES[not success] / date / name


def write_droid(
    folder: PathLike,
    *,
    prompt: str,
    frames: Mapping[str, UInt8[NumpyArray, "_ _ _ 3"]],
    trajectory: Trajectory,
    masks: Mapping[str, Bool[NumpyArray, "_ _ _"]] | None = None,
    roles: Mapping[str, str] | None = None,
    layout: str = "dinox",
    keyframe_step: int = 8,
    white_list: Sequence[int] | None = None,
    calibration: Mapping[str, Any] | None = None,
    quality: int = 95,
) -> None:
    """Writes one recording.

    Args:
      folder: of the episode; must not exist, see `droid_folder`.
      prompt: what the robot was told.
      frames: any of `wrist`, `left`, `right` -> (t, h, w, 3), all with the same t.
      trajectory: rows of state and action; may be shorter than the frames.
      masks: object -> (t, h, w) bool of the wrist camera; None writes no detections.
      roles: object -> `target`, `place` or `distractor`; None writes no matching file.
      layout: of the masks, `dinox` or `perception`.
      keyframe_step: masks are written for every such frame when there is no white list.
      white_list: frames to look at, written as `white_list.json`.
      calibration: written as `calibration.json`.
      quality: of the JPEG files, 1 to 100; colours are not subsampled.

    Raises:
      EpisodeError: the folder exists, or arrays do not fit each other.
      DiskFullError: no space left.
    """
    folder = pathlib.Path(folder)
    if folder.exists():
        raise EpisodeError("exists already", where=folder, fix="Choose another folder")
    _check(folder, frames, masks, roles, layout)
    count = len(next(iter(frames.values())))
    raw = {name: camera for camera, name in droid_files.CAMERAS.items()}
    with files.disk_errors(folder, what="a recording"):
        for name, pictures in frames.items():
            place = folder / droid_files.FRAMES / raw[name]
            place.mkdir(parents=True)
            for number, picture in enumerate(pictures):
                image = Image.fromarray(picture)
                path = place / droid_files.frame_name(number)
                image.save(path, quality=quality, subsampling=0)
        if white_list is not None:
            files.write_json(folder / droid_files.WHITE_LIST, [int(n) for n in white_list])
        if calibration is not None:
            files.write_json(folder / droid_files.CALIBRATION, dict(calibration))
        if masks is not None:
            chosen = (
                range(0, count, keyframe_step) if white_list is None else sorted(set(white_list))
            )
            if layout == "dinox":
                _write_dinox(folder, masks, chosen)
            else:
                _write_perception(folder, masks, chosen, frames["wrist"])
        if roles is not None:
            _write_roles(folder, roles)
        (folder / droid_files.INSTRUCTION).write_text(prompt + "\n", encoding="utf-8")
        _write_trajectory(folder / droid_files.TRAJECTORY, trajectory)


def _check(
    folder: pathlib.Path,
    frames: Mapping[str, NumpyArray],
    masks: Mapping[str, NumpyArray] | None,
    roles: Mapping[str, str] | None,
    layout: str,
) -> None:
    known = tuple(droid_files.CAMERAS.values())
    if not frames or not set(frames) <= set(known):
        raise EpisodeError(f"cameras {sorted(frames)}", where=folder, fix=f"Use some of {known}")
    if len({len(pictures) for pictures in frames.values()}) != 1:
        raise EpisodeError("cameras differ in their number of frames", where=folder)
    if layout not in LAYOUTS:
        raise EpisodeError(f"unknown layout {layout!r}", where=folder, fix=f"Use one of {LAYOUTS}")
    if masks is not None and "wrist" not in frames:
        raise EpisodeError("masks belong to the wrist camera, which has no frames", where=folder)
    for name, mask in (masks or {}).items():
        if mask.shape != frames["wrist"].shape[:3]:
            raise EpisodeError(
                f"masks of {name!r} are {mask.shape}, frames are {frames['wrist'].shape[:3]}",
                where=folder,
            )
    for name, role in (roles or {}).items():
        if role not in _ROLE_WORDS:
            raise EpisodeError(f"{name!r} has role {role!r}", fix=f"Use one of {(*_ROLE_WORDS,)}")


def _write_trajectory(path: pathlib.Path, trajectory: Trajectory) -> None:
    content = io.BytesIO()  # HDF5 takes the process down when it meets a full disk itself
    with h5py.File(content, "w") as file:
        for field, (name, _, _) in droid_files.DATASETS.items():
            if (rows := getattr(trajectory, field)) is not None:
                file.create_dataset(name, data=rows)
        for field, group in droid_files.GROUPS.items():
            for name, values in getattr(trajectory, field).items():
                file.create_dataset(f"{group}/{name}", data=values)
    path.write_bytes(content.getbuffer())


def _write_dinox(
    folder: pathlib.Path, masks: Mapping[str, NumpyArray], frames: Sequence[int]
) -> None:
    (folder / droid_masks.MASKS).mkdir()
    detections: dict[str, list[dict[str, Any]]] = {}
    for frame in frames:
        entries = detections[str(frame)] = []
        for number, (name, mask) in enumerate(masks.items()):
            if not mask[frame].any():
                continue
            file = f"{frame:05d}_{name.replace(' ', '_')}_{number}.npy"
            content = io.BytesIO()  # NumPy does not notice a full disk when it writes itself
            np.save(content, mask[frame], allow_pickle=False)
            (folder / droid_masks.MASKS / file).write_bytes(content.getbuffer())
            entry = {"bbox": _box(mask[frame]), "category": name, "score": 1.0}
            entries.append(entry | {"mask_file": f"{droid_masks.MASKS}/{file}"})
    files.write_json(folder / droid_masks.DINOX, detections)


def _write_perception(
    folder: pathlib.Path,
    masks: Mapping[str, NumpyArray],
    frames: Sequence[int],
    pictures: NumpyArray,
) -> None:
    for frame in frames:
        path = droid_masks.perception_file(folder, frame)
        path.parent.mkdir(parents=True)
        seen = [name for name, mask in masks.items() if mask[frame].any()]
        stack = np.zeros((len(seen), *pictures.shape[1:3]), np.bool_)
        for place, name in enumerate(seen):
            stack[place] = masks[name][frame]
        boxes = np.array([_box(stack[place]) for place in range(len(seen))], np.float32).reshape(
            -1, 4
        )
        with h5py.File(path, "w") as file:
            file.create_dataset("wrist/masks", data=stack, compression="gzip")
            file.create_dataset("wrist/image", data=pictures[frame], compression="gzip")
            file.create_dataset("wrist/bboxes/box_2d", data=boxes)
            file.create_dataset("wrist/bboxes/labels", data=seen, dtype=h5py.string_dtype())


def _box(mask: NumpyArray) -> list[int]:
    """[x1, y1, x2, y2] pixels, the last ones included."""
    rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    return [int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])]


def _write_roles(folder: pathlib.Path, roles: Mapping[str, str]) -> None:
    content: dict[str, list[str]] = {}
    for name, role in roles.items():
        content.setdefault(_ROLE_WORDS[role], []).append(name)
    (folder / droid_masks.MATCHING).write_text(yaml.safe_dump(content), encoding="utf-8")
