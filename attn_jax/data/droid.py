"""DROID-style recordings as episodes; see `droid_files` and `droid_masks` for the files.

The cameras of an `Episode` are `wrist` (hand_camera), `left` and `right`; its calls are the
keyframes, its state joint positions and gripper, its actions what was commanded from each keyframe
on. The outcome is the folder that the episode lies in.

    for folder in droid_episodes("DATA"):
        episode = read_droid(folder, DroidOptions(cameras=("right", "wrist")))
"""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np

from attn_jax.core.errors import ConfigError, EpisodeError
from attn_jax.core.typing import PathLike
from attn_jax.data import droid_files, droid_masks
from attn_jax.data.episodes import Episode

RATE_HZ = 15  # of DROID's controller and recordings


@dataclasses.dataclass(frozen=True)
class DroidOptions:
    """What to read of a recording.

    Attributes:
      cameras: any of `wrist`, `left`, `right`, in the order wanted.
      keyframe_step: distance of keyframes where there is no white list; the published policy runs
        8 actions before it looks again.
      horizon: actions of a chunk.
      actions: what the chunks hold before the gripper's position, one of `droid_files.ACTIONS`;
        an episode whose recording lacks it has no actions.
      masks: `perception`, `dinox`, `auto` (the first of them that is there) or `none`.
    """

    cameras: tuple[str, ...] = ("left", "wrist")
    keyframe_step: int = 8
    horizon: int = 15
    actions: str = "joint_velocity"
    masks: str = "auto"

    def __post_init__(self):
        known = tuple(droid_files.CAMERAS.values())
        unknown = [camera for camera in self.cameras if camera not in known]
        if unknown or not self.cameras or len(set(self.cameras)) != len(self.cameras):
            raise ConfigError(f"cameras {self.cameras}", fix=f"Choose different ones of {known}")
        if self.keyframe_step < 1 or self.horizon < 1:
            raise ConfigError("keyframe_step and horizon must be at least 1")
        if self.actions not in droid_files.ACTIONS:
            raise ConfigError(
                f"unknown actions {self.actions!r}", fix=f"Use one of {(*droid_files.ACTIONS,)}"
            )


def is_droid_episode(path: PathLike) -> bool:
    """Whether a folder looks like one recorded episode."""
    folder = pathlib.Path(path)
    return (folder / droid_files.TRAJECTORY).is_file() or (folder / droid_files.FRAMES).is_dir()


def droid_episodes(root: PathLike) -> tuple[pathlib.Path, ...]:
    """Episode folders below a root in order, successes first; an episode folder is itself.

    Folders that lack files are listed too, so that reading them says what is wrong.

    Raises:
      EpisodeError: there is none.
    """
    root = pathlib.Path(root)
    if is_droid_episode(root):
        return (root,)
    found = [
        folder
        for outcome in droid_files.OUTCOMES
        for folder in sorted((root / outcome).glob("*/*"))
        if folder.is_dir()
    ]
    if not found:
        raise EpisodeError(
            "no recordings here",
            where=root,
            fix="Name a folder with {success,failure}/{date}/{episode}/",
        )
    return tuple(found)


def droid_name(folder: PathLike) -> str:
    """Name of an episode without its root: outcome/date/episode, as far as they are known."""
    parts = pathlib.Path(folder).absolute().parts
    return "/".join(parts[-3:] if _outcome(folder) is not None else parts[-1:])


def _outcome(folder: PathLike) -> bool | None:
    """Success by the folder two levels above; None when it says neither."""
    parts = pathlib.Path(folder).absolute().parts
    above = parts[-3] if len(parts) > 3 else ""
    return above == droid_files.OUTCOMES[0] if above in droid_files.OUTCOMES else None


def read_droid(folder: PathLike, options: DroidOptions | None = None) -> Episode:
    """Reads one recording at its keyframes.

    Returns:
      An episode whose `env_step` is the number of the frame, with images and masks as recorded
      (before any letterbox), `state` (c, 8) and `actions` (c, horizon, 8), or (c, horizon, 7) of
      cartesian ones, or None where they were not recorded.

    Raises:
      EpisodeError: a file is missing, damaged, or does not fit the others.
    """
    options = options or DroidOptions()
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise EpisodeError("no such recording", where=folder, fix="Name an episode folder")
    source = "none"
    if "wrist" in options.cameras:
        source = droid_masks.mask_source(folder, options.masks)
    prompt = droid_files.read_prompt(folder)
    trajectory = droid_files.read_trajectory(folder)
    folder_of = {name: raw for raw, name in droid_files.CAMERAS.items()}
    cameras = [folder_of[name] for name in options.cameras]
    num_frames = droid_files.count_frames(folder, cameras)
    frames = droid_files.keyframes(folder, num_frames, options.keyframe_step)
    images = {
        name: droid_files.read_frames(folder, folder_of[name], frames) for name in options.cameras
    }
    objects, masks = (), {}
    if source != "none":
        size = (images["wrist"].shape[1], images["wrist"].shape[2])
        objects, found = droid_masks.read_masks(folder, source, frames, size)
        masks = {"wrist": found}
    info = {
        "prompt": prompt,
        "task": prompt,
        "success": _outcome(folder),
        "source": f"droid:{droid_name(folder)}",
        "fps": trajectory.rate_hz() or RATE_HZ,
        "num_frames": num_frames,
        "num_rows": len(trajectory),
        "masks": source,
        "geometry": {
            name: {"model_rot180": False, "video_rot180": False} for name in options.cameras
        },
    }
    calibration = folder / droid_files.CALIBRATION
    if calibration.is_file():
        info["calibration"] = droid_files.read_json(calibration)
    try:
        return Episode(
            info=info,
            env_step=np.asarray(frames, np.int64),
            images=images,
            objects=objects,
            roles=droid_masks.read_roles(folder, objects, prompt),
            masks=masks,
            state=trajectory.state(frames),
            actions=trajectory.chunks(frames, options.horizon, options.actions),
        )
    except EpisodeError as error:
        raise (
            error if error.where else EpisodeError(error.what, where=folder, fix=error.fix)
        ) from None
