"""Writes demonstrations as DROID-style recordings; `attn_jax.data.droid` reads them.

ROOT/{success,failure}/2025-01-01/scene_000007_0/    see attn_jax/data/droid_files.py; the last
                                                     number tells episodes of a scene apart
ROOT/recording.json                                  whose recordings these are, and how many

The camera `front` is the left exterior camera, `side` the right one. What the layout calls joints
is the pose of the floating hand: its position (metres), its turn from pointing straight down (a
rotation vector, radians) and a zero; their velocities are what the actions ask for. Poses and
extrinsics (camera to world) are positions and Euler angles xyz, times are milliseconds.

Axis names: t frames.

    with DroidRecorder("out/droid", settings={"seed": 0}, layout="dinox") as recorder:
        recorder.add(demo, {"seed": 0, "place": 0})
"""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from attn_jax.core import files
from attn_jax.core.differences import config_differences
from attn_jax.core.errors import ConfigError, SessionError
from attn_jax.core.typing import PathLike
from attn_jax.data import droid_files
from attn_jax.data.droid_files import Trajectory
from attn_jax.data.droid_writer import LAYOUTS, droid_folder, write_droid
from attn_jax.data.lerobot_beside import object_masks
from robots.dataset import Demonstration
from robots.tabletop.env import FPS, MOVE_M, TURN_RAD
from robots.tabletop.scene import MAX_OPENING_M

#: Camera of the tabletop -> camera of a DROID-style recording.
CAMERAS = {"front": "left", "wrist": "wrist", "side": "right"}
DATE = "2025-01-01"  # the layout wants one; recordings do not depend on the day they are made
PROGRESS = "recording.json"
_PART = ".part"  # an episode that is not whole


class DroidRecorder:
    """Writes episodes one after the other, each whole or not at all; use it as a context manager.

    Args:
      root: of the recordings; nothing is written before the first episode.
      settings: JSON values that decide what the episodes are; only a recorder with equal ones may
        continue.
      layout: of the masks of the wrist camera, "dinox" or "perception"; "none" writes none.

    Attributes:
      episodes, frames: numbers of them so far.
      state: of the last episode, see `add`; None where there is none.

    Raises:
      ConfigError: an unknown layout.
      SessionError: the root holds finished recordings, or unfinished ones of other settings.
    """

    def __init__(self, root: PathLike, *, settings: Mapping[str, Any], layout: str):
        if layout not in (*LAYOUTS, "none"):
            raise ConfigError(
                f"unknown layout {layout!r}", where="layout", fix=f"Use {', '.join(LAYOUTS)}"
            )
        self._root = pathlib.Path(root)
        self._layout = layout
        self._settings = settings
        self._closed = False
        self.episodes = self.frames = 0
        self.state: Any = None
        path = self._root / PROGRESS
        outcomes = [name for name in droid_files.OUTCOMES if (self._root / name).exists()]
        if not path.exists() and not outcomes:
            return
        progress = droid_files.read_json(path) if path.exists() else {"finished": True}
        if progress["finished"]:
            raise SessionError(
                "already holds recordings", where=root, fix="Name another folder, or delete it"
            )
        if different := config_differences(progress["settings"], settings):
            raise SessionError(
                f"holds unfinished recordings of other settings: {'; '.join(different)}",
                where=root,
                fix="Continue them with their own settings, name another folder, or delete it",
            )
        self.episodes, self.frames = progress["episodes"], progress["frames"]
        self.state = progress["state"]

    def __enter__(self) -> DroidRecorder:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.close(finished=kind is None)

    def add(self, demo: Demonstration, state: Mapping[str, Any]) -> None:
        """Writes an episode.

        Args:
          demo: what to write.
          state: JSON values that the caller needs in order to go on after this episode; `seed` and
            `place` name its folder.
        """
        if not self.episodes:
            self._root.mkdir(parents=True, exist_ok=True)
            self._write_progress(finished=False)  # whose the folder is, before anything is in it
        name = f"scene_{state['seed']:06d}_{state['place']}"
        folder = droid_folder(self._root, success=demo.success, date=DATE, name=name)
        part = self._root / _PART
        shutil.rmtree(part, ignore_errors=True)
        prefix = "observation.images."
        roles = {name: role for name, role in demo.info["roles"].items() if role != "other"}
        masks = None
        if self._layout != "none":
            objects = demo.info["objects"]
            found = object_masks({"wrist": demo.masks["wrist"]}, objects)["wrist"]
            masks = {name: found[:, number] for number, name in enumerate(objects)}
        write_droid(
            part,
            prompt=demo.info["prompt"],
            frames={
                CAMERAS[key.removeprefix(prefix)]: pictures
                for key, pictures in demo.frames.items()
                if key.startswith(prefix)
            },
            trajectory=trajectory(demo),
            masks=masks,
            roles=roles,
            layout=LAYOUTS[0] if masks is None else self._layout,
        )
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)  # of a crash right after this line
        part.replace(folder)
        self.episodes += 1
        self.frames += demo.info["length"]
        self.state = dict(state)
        self._write_progress(finished=False)

    def close(self, *, finished: bool = True) -> None:
        """Says whether all is there; may be called twice."""
        if self._closed or not self.episodes:
            return
        self._closed = True
        shutil.rmtree(self._root / _PART, ignore_errors=True)
        if finished:
            self._write_progress(finished=True)

    def _write_progress(self, *, finished: bool) -> None:
        progress = {
            "settings": self._settings,
            "episodes": self.episodes,
            "frames": self.frames,
            "state": self.state,
            "finished": finished,
        }
        files.write_json(self._root / PROGRESS, progress)


def check_cameras(names: tuple[str, ...]) -> None:
    """Raises ConfigError for cameras that the layout has no folder for."""
    if not set(names) <= set(CAMERAS) or "wrist" not in names:
        raise ConfigError(
            f"DROID-style recordings of the cameras {list(names)}",
            where="cameras",
            fix=f"Use wrist, and any of {', '.join(CAMERAS)}",
        )


def trajectory(demo: Demonstration) -> Trajectory:
    """State, actions, cameras and times of a demonstration; see the module."""
    state = demo.frames["observation.state"].astype(np.float64)
    action = demo.frames["action"].astype(np.float64)
    zero = np.zeros((len(state), 1))
    step = np.concatenate([MOVE_M * action[:, :3], TURN_RAD * action[:, 3:6]], axis=1)
    turn = Rotation.from_rotvec(step[:, 3:]) * Rotation.from_rotvec(state[:, 3:6])
    raw = {name: folder for folder, name in droid_files.CAMERAS.items()}
    folders = {name: raw[CAMERAS[name]] for name in demo.poses}
    return Trajectory(
        joint_position=np.concatenate([state[:, :6], zero], axis=1),
        gripper_position=np.clip(1 - state[:, 6] / MAX_OPENING_M, 0.0, 1.0),
        joint_velocity=np.concatenate([step * FPS, zero], axis=1),
        gripper_action=(1 + action[:, 6]) / 2,
        cartesian_position=np.concatenate([state[:, :3] + step[:, :3], turn.as_euler("xyz")], 1),
        cartesian_velocity=step * FPS,
        intrinsics={folders[name]: matrix for name, matrix in demo.intrinsics.items()},
        extrinsics={
            folders[name]: np.concatenate(
                [pose[:, :3, 3], Rotation.from_matrix(pose[:, :3, :3]).as_euler("xyz")], axis=1
            )
            for name, pose in demo.poses.items()
        },
        timestamps={droid_files.STEP_START: np.arange(len(state)) * 1000.0 / FPS},
    )
