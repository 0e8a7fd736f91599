"""The files of a DROID-style episode but its masks: prompt, frames, trajectory, keyframes.

    {root}/{success,failure}/{YYYY-MM-DD}/{episode}/
      instruction.txt                             the prompt
      trajectory.h5                               robot state and actions, T rows
      recordings/frames/{camera}/%05d.jpg         hand_camera, varied_camera_1 (left), _2 (right)
      white_list.json                             optional: numbers of the frames to look at
      calibration.json                            optional, kept as it is

Frames may outnumber the rows of the trajectory; the row of a late frame is the last one.

Axis names: t frames, T rows, H horizon.

    trajectory = read_trajectory(folder)
    trajectory.state([0, 8])                      # (2, 8) joint positions (rad), gripper
    trajectory.chunks([0, 8], horizon=15)         # (2, 15, 8) joint velocities (rad/s), gripper
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import h5py
import numpy as np

from attn_jax.core.errors import EpisodeError, SessionError
from attn_jax.core.typing import Float, NumpyArray, UInt8
from attn_jax.data.sessions import read_frame

INSTRUCTION, TRAJECTORY = "instruction.txt", "trajectory.h5"
WHITE_LIST, CALIBRATION = "white_list.json", "calibration.json"
FRAMES = pathlib.PurePosixPath("recordings/frames")
OUTCOMES = ("success", "failure")
#: Folder of a camera in the recordings -> what it shows.
CAMERAS = {"hand_camera": "wrist", "varied_camera_1": "left", "varied_camera_2": "right"}
JOINTS = 7

_FRAME_FILE = re.compile(r"(\d{5})\.jpg")
_RECORD_AGAIN = "Copy it from the recording again, or remove the episode"


STEP_START = "control/step_start"
#: Kinds of actions: what a policy may be compared with, besides the gripper -> dataset, width.
ACTIONS = {
    "joint_velocity": ("action/joint_velocity", JOINTS),
    "cartesian_position": ("action/cartesian_position", 6),
    "cartesian_velocity": ("action/cartesian_velocity", 6),
}
#: Groups whose datasets are kept by name.
GROUPS = {
    "intrinsics": "observation/camera_intrinsics",
    "extrinsics": "observation/camera_extrinsics",
    "timestamps": "observation/timestamp",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Trajectory:
    """Robot state and actions of an episode; what a recording lacks is None or empty.

    Attributes:
      joint_position: (T, 7) radians.
      gripper_position: (T,) 0 open to 1 closed.
      joint_velocity: (T, 7) commanded, radians per second.
      gripper_action: (T,) commanded gripper position.
      cartesian_position: (T, 6) commanded pose of the hand, metres and radians (Euler angles xyz).
      cartesian_velocity: (T, 6) commanded, metres and radians per second.
      intrinsics: camera -> (..., 3, 3) pixels, as recorded.
      extrinsics: camera -> pose as recorded, (T, 6) or (6,): metres and radians.
      timestamps: name -> (T,) numbers as recorded; DROID's are milliseconds.
    """

    joint_position: Float[NumpyArray, "T 7"]
    gripper_position: Float[NumpyArray, "T"]
    joint_velocity: Float[NumpyArray, "T 7"] | None = None
    gripper_action: Float[NumpyArray, "T"] | None = None
    cartesian_position: Float[NumpyArray, "T 6"] | None = None
    cartesian_velocity: Float[NumpyArray, "T 6"] | None = None
    intrinsics: Mapping[str, NumpyArray] = dataclasses.field(default_factory=dict)
    extrinsics: Mapping[str, NumpyArray] = dataclasses.field(default_factory=dict)
    timestamps: Mapping[str, NumpyArray] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.joint_position)

    def state(self, frames: Sequence[int]) -> NumpyArray:
        """(t, 8) float32 at frames: joint positions, then the gripper's."""
        rows = self._rows(np.asarray(frames))
        joined = [self.joint_position[rows], self.gripper_position[rows, None]]
        return np.concatenate(joined, axis=1).astype(np.float32)

    def chunks(
        self, frames: Sequence[int], horizon: int, kind: str = "joint_velocity"
    ) -> NumpyArray | None:
        """(t, H, 8 or 7) float32 from each frame on: one of ACTIONS, then the gripper's position.

        After the last row its action is repeated. None where the recording lacks these actions.
        """
        moves, grip = getattr(self, kind), self.gripper_action
        if moves is None or grip is None:
            return None
        rows = self._rows(np.asarray(frames)[:, None] + np.arange(horizon))
        return np.concatenate([moves[rows], grip[rows][..., None]], axis=-1).astype(np.float32)

    def rate_hz(self) -> float | None:
        """Rows per second by the middle distance of control steps; None where times are unknown."""
        times = self.timestamps.get(STEP_START)
        if times is None or len(times) < 2 or (middle := float(np.median(np.diff(times)))) <= 0:
            return None
        return round(1000.0 / middle, 3)

    def _rows(self, frames: NumpyArray) -> NumpyArray:
        return np.minimum(frames, len(self) - 1)


def read_prompt(folder: pathlib.Path) -> str:
    """The instruction without line ends; an empty or missing one is an error (EpisodeError)."""
    path = folder / INSTRUCTION
    try:
        text = " ".join(path.read_text(encoding="utf-8").split())
    except FileNotFoundError as error:
        raise EpisodeError(
            "the prompt is missing", where=path, fix="Write what the robot was told into it"
        ) from error
    except (OSError, ValueError) as error:
        raise EpisodeError(f"cannot be read: {error}", where=path, fix=_RECORD_AGAIN) from error
    if not text:
        raise EpisodeError(
            "the prompt is empty", where=path, fix="Write what the robot was told into it"
        )
    return text


#: Field of a Trajectory -> dataset, its width, whether every recording must have it.
DATASETS = {
    "joint_position": ("observation/robot_state/joint_positions", JOINTS, True),
    "gripper_position": ("observation/robot_state/gripper_position", 0, True),
    "gripper_action": ("action/gripper_position", 0, False),
    **{field: (name, width, False) for field, (name, width) in ACTIONS.items()},
}


def read_trajectory(folder: pathlib.Path) -> Trajectory:
    """Reads `trajectory.h5`.

    Raises:
      EpisodeError: missing, damaged, the state absent, or a dataset of another shape or not finite.
    """
    path = folder / TRAJECTORY
    found: dict[str, Any] = {}
    if not path.is_file():
        raise EpisodeError("the trajectory is missing", where=path, fix=_RECORD_AGAIN)
    try:
        with h5py.File(path, "r") as file:
            for field, (name, width, needed) in DATASETS.items():
                if isinstance(file.get(name), h5py.Dataset):
                    found[field] = _rows_of(np.asarray(file[name]), width, f"{path}, {name}")
                elif needed:
                    raise EpisodeError(f"has no dataset {name}", where=path, fix=_RECORD_AGAIN)
            groups = {field: _datasets(file.get(name)) for field, name in GROUPS.items()}
    except OSError as error:
        raise EpisodeError(
            f"is no readable HDF5: {error}", where=path, fix=_RECORD_AGAIN
        ) from error
    for field, arrays in groups.items():
        for name, values in arrays.items():
            where = f"{path}, {GROUPS[field]}/{name}"
            if field == "timestamps":
                values = _rows_of(values, 0, where)
                found[f"timestamps/{name}"] = values
            arrays[name] = _finite(values, where)
    lengths = {field: len(rows) for field, rows in found.items()}
    if len(set(lengths.values())) != 1:
        raise EpisodeError(f"datasets differ in length: {lengths}", where=path, fix=_RECORD_AGAIN)
    fields: dict[str, Any] = {f: rows for f, rows in found.items() if f in DATASETS}
    fields.update(groups)
    return Trajectory(**fields)


def _datasets(group: Any) -> dict[str, NumpyArray]:
    """Every dataset below a group by its path there; empty without the group."""
    found: dict[str, NumpyArray] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = np.asarray(item)

    if isinstance(group, h5py.Group):
        group.visititems(visit)
    return found


def _rows_of(rows: NumpyArray, width: int, where: str) -> NumpyArray:
    """(T, width) float64, or (T,) for width 0, where (T, 1) is accepted too."""
    if not width and rows.ndim == 2 and rows.shape[1] == 1:
        rows = rows[:, 0]
    shape = (len(rows) if rows.ndim else 0, *([width] if width else []))
    if rows.shape != shape or not len(rows) or rows.dtype.kind not in "fiu":
        wanted = f"(T, {width})" if width else "(T,)"
        raise EpisodeError(
            f"{rows.dtype} of shape {rows.shape}, expected numbers {wanted}",
            where=where,
            fix=_RECORD_AGAIN,
        )
    return _finite(rows, where)


def _finite(rows: NumpyArray, where: str) -> NumpyArray:
    """The numbers as float64."""
    if rows.dtype.kind not in "fiu":
        raise EpisodeError(f"{rows.dtype} is no number", where=where, fix=_RECORD_AGAIN)
    if not np.isfinite(rows).all():
        row = int(np.argwhere(~np.isfinite(np.atleast_1d(rows)))[0][0])
        raise EpisodeError(
            f"NaN or infinite in row {row}", where=where, fix="Leave the episode out"
        )
    return rows.astype(np.float64)


def count_frames(folder: pathlib.Path, cameras: Sequence[str]) -> int:
    """Number of frames that every camera has, from 0 without a gap.

    Raises:
      EpisodeError: a camera has no frames, one is missing, or cameras differ in length.
    """
    counts: dict[str, int] = {}
    for camera in cameras:
        path = folder / FRAMES / camera
        numbers = sorted(
            int(match[1])
            for file in (path.iterdir() if path.is_dir() else ())
            if (match := _FRAME_FILE.fullmatch(file.name))
        )
        if not numbers:
            there = sorted(f.name for f in (folder / FRAMES).glob("*") if f.is_dir())
            raise EpisodeError(
                "no frames of this camera",
                where=path,
                fix=f"Cameras of the recording: {', '.join(there) or 'none'}",
            )
        if numbers[-1] != len(numbers) - 1:
            gap = next(i for i, number in enumerate(numbers) if i != number)
            raise EpisodeError("frame is missing", where=path / frame_name(gap), fix=_RECORD_AGAIN)
        counts[camera] = len(numbers)
    if len(set(counts.values())) > 1:
        raise EpisodeError(
            f"cameras differ in their number of frames: {counts}",
            where=folder / FRAMES,
            fix="Remove what stands beyond the shortest, if the end is all that differs",
        )
    return next(iter(counts.values()))


def frame_name(frame: int) -> str:
    """File name of a frame."""
    return f"{frame:05d}.jpg"


def read_frames(
    folder: pathlib.Path, camera: str, frames: Sequence[int]
) -> UInt8[NumpyArray, "t h w 3"]:
    """Pictures of one camera at given frames.

    Raises:
      EpisodeError: a file is missing, cannot be decoded, or has another size than the first.
    """
    out: NumpyArray | None = None
    for place, frame in enumerate(frames):
        path = folder / FRAMES / camera / frame_name(frame)
        try:
            picture = read_frame(path)
        except SessionError as error:
            raise EpisodeError(error.what, where=path, fix=_RECORD_AGAIN) from error
        if out is None:
            out = np.empty((len(frames), *picture.shape), np.uint8)
        if picture.shape != out.shape[1:]:
            raise EpisodeError(
                f"is {picture.shape[:2]} pixels, frame {frames[0]} is {out.shape[1:3]}",
                where=path,
                fix=_RECORD_AGAIN,
            )
        out[place] = picture
    assert out is not None
    return out


def keyframes(folder: pathlib.Path, num_frames: int, step: int) -> tuple[int, ...]:
    """Frames to look at: those of `white_list.json`, else every `step`-th from 0.

    Raises:
      EpisodeError: the list is malformed, empty, or names a frame that does not exist.
    """
    path = folder / WHITE_LIST
    if not path.is_file():
        return tuple(range(0, num_frames, step))
    numbers = read_json(path)
    valid = isinstance(numbers, list) and all(type(number) is int for number in numbers)
    if not valid or not numbers:
        raise EpisodeError(
            "is no list of frame numbers", where=path, fix="Write [0, 8, 16], or remove the file"
        )
    wrong = [number for number in numbers if not 0 <= number < num_frames]
    if wrong:
        raise EpisodeError(
            f"names frames {wrong[:5]}, the recording has 0 to {num_frames - 1}",
            where=path,
            fix="Remove them from the list",
        )
    return tuple(sorted(set(numbers)))


def read_json(path: pathlib.Path) -> Any:
    """Content of a JSON file; raises `EpisodeError` when it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EpisodeError(f"is no JSON: {error}", where=path, fix=_RECORD_AGAIN) from error
