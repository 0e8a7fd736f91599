"""Demonstrations of any environment, and a LeRobotDataset of them with what lies beside it.

FOLDER/meta, data, videos             see attn_jax/data/lerobot_writer.py; rows of meta/episodes
                                      also hold `seed` and `success`
FOLDER/episodes.jsonl                 one line per episode: Demonstration.info, episode_index
FOLDER/masks/episode_000000.npz       camera -> (t, h, w) uint8 ids of things; both are read by
                                      attn_jax/data/lerobot_beside.py
FOLDER/views/episode_000000.npz       only when recorded: `depth.<camera>`, `points.<camera>`,
                                      `pose.<camera>`, `intrinsics.<camera>`

Axis names: t frames, h w pixels, n cells.

    with DemonstrationDataset(folder, fps=10, features=features, robot_type="tabletop",
                              settings={"seed": 0}) as dataset:
        dataset.add(demo, state={"seed": 0})
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import IO, Any

import numpy as np

from attn_jax.core import files
from attn_jax.core.geometry import letterbox
from attn_jax.core.typing import Float, NumpyArray, PathLike, UInt8
from attn_jax.data.lerobot_beside import EPISODES_FILE, MASK_FILE, VIEW_FILE
from attn_jax.data.lerobot_writer import LeRobotWriter, vector_feature

#: Feature for supervised attention: share of each cell of a grid that the target covers, raster.
LOOK_AT = "look_at.{}"
LOOK_GRID = 8


@dataclasses.dataclass(frozen=True, eq=False)
class Demonstration:
    """One episode of an expert.

    Attributes:
      frames: keys of a LeRobotDataset -> (t, ...): `observation.images.<camera>` uint8,
        `observation.state` and `action` float32.
      views: "depth" or "points" -> camera -> (t, h, w) or (t, h, w, 3) float32, metres.
      poses: camera -> (t, 4, 4) float64, camera to world.
      intrinsics: camera -> (3, 3) float64, pixels; edges of pixels are counted from 0.
      masks: camera -> (t, h, w) ids of things: 0 background, i + 1 for info["objects"][i], 255 the
        gripper.
      info: JSON values: seed, task (its name), prompt, other_prompts (those that mean another
        thing of the scene), success, length, objects, roles, and what the environment adds.
    """

    frames: Mapping[str, NumpyArray]
    masks: Mapping[str, UInt8[NumpyArray, "t h w"]]
    views: Mapping[str, Mapping[str, NumpyArray]]
    poses: Mapping[str, Float[NumpyArray, "t 4 4"]]
    intrinsics: Mapping[str, Float[NumpyArray, "3 3"]]
    info: Mapping[str, Any]

    @property
    def success(self) -> bool:
        """Whether the task was fulfilled."""
        return self.info["success"]


class DemonstrationDataset:
    """Writes demonstrations one after the other; use it as a context manager.

    Args:
      folder, fps, features, robot_type, settings, commit_every: as of `LeRobotWriter`.
      masks: write object masks.
      look_at: write the features of `look_at_features`, which `features` has.

    Attributes:
      episodes, frames, state: as of `LeRobotWriter`.

    Raises:
      SessionError: as `LeRobotWriter`.
    """

    def __init__(
        self,
        folder: PathLike,
        *,
        fps: int,
        features: Mapping[str, Mapping],
        robot_type: str,
        settings: Mapping[str, Any],
        commit_every: int = 50,
        masks: bool = True,
        look_at: bool = False,
    ):
        self._folder, self._masks, self._look_at = pathlib.Path(folder), masks, look_at
        self._writer = LeRobotWriter(
            folder,
            fps=fps,
            features=features,
            robot_type=robot_type,
            settings=settings,
            commit_every=commit_every,
        )
        self._log: IO[str] | None = None

    @property
    def episodes(self) -> int:
        """Number so far, with those of the recording that is continued."""
        return self._writer.episodes

    @property
    def frames(self) -> int:
        """Number so far, of all episodes."""
        return self._writer.frames

    @property
    def state(self) -> Any:
        """What was given with the last episode; None where there is none."""
        return self._writer.state

    def __enter__(self) -> DemonstrationDataset:
        self._writer.__enter__()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._log = _open_log(self._folder, self.episodes)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._log is not None:
            self._log.close()
        self._writer.__exit__(*exception)

    def close(self, *, finished: bool) -> None:
        """As of `LeRobotWriter`."""
        self._writer.close(finished=finished)

    def add(self, demo: Demonstration, state: Mapping[str, Any]) -> None:
        """Masks and line come before the episode, so that whatever is committed has them.

        Raises:
          DiskFullError: no space left; what is committed is kept.
        """
        assert self._log is not None
        if self._masks:
            _save(self._folder / MASK_FILE.format(self.episodes), demo.masks)
        if demo.views:
            _save(self._folder / VIEW_FILE.format(self.episodes), _view_arrays(demo))
        with files.disk_errors(self._folder, what="a dataset"):
            self._log.write(json.dumps({"episode_index": self.episodes, **demo.info}) + "\n")
            self._log.flush()
        columns = {**demo.frames, **(target_shares(demo) if self._look_at else {})}
        note = {"seed": demo.info["seed"], "success": demo.success}
        self._writer.add_episode(columns, demo.info["prompt"], note, state)


def _save(path: pathlib.Path, arrays: Mapping[str, NumpyArray]) -> None:
    named = dict(arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_file(path, lambda file: np.savez_compressed(file, **named), what="a dataset")


def _view_arrays(demo: Demonstration) -> dict[str, NumpyArray]:
    """Depth and points as asked for, and the geometry that ties them together."""
    kinds = {**demo.views, "pose": demo.poses, "intrinsics": demo.intrinsics}
    return {
        f"{kind}.{camera}": values
        for kind, cameras in kinds.items()
        for camera, values in cameras.items()
    }


def _open_log(folder: pathlib.Path, episodes: int) -> IO[str]:
    """`episodes.jsonl` with the lines of the first episodes only, to append to."""
    path = folder / EPISODES_FILE
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if episodes else []
    log = path.open("w", encoding="utf-8")
    log.writelines(lines[:episodes])
    log.flush()
    return log


def look_at_features(cameras: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Feature `look_at.<camera>` of every camera: shares of an 8 x 8 grid, in raster order."""
    side = range(LOOK_GRID)
    cells = tuple(f"{row}_{column}" for row in side for column in side)
    return {LOOK_AT.format(camera): vector_feature(cells) for camera in cameras}


def target_shares(demo: Demonstration) -> dict[str, Float[NumpyArray, "t n"]]:
    """`look_at.<camera>` of every frame: shares in [0, 1] of the cells, in raster order."""
    target = next(name for name, role in demo.info["roles"].items() if role == "target")
    number = demo.info["objects"].index(target) + 1
    out = {}
    for camera, ids in demo.masks.items():
        fit = letterbox(ids.shape[1:], ids.shape[1:])
        shares = fit.coverage(ids == number, (LOOK_GRID, LOOK_GRID))
        out[LOOK_AT.format(camera)] = shares.reshape(len(ids), -1).astype(np.float32)
    return out
