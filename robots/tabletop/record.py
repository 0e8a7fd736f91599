"""Writes demonstrations as a LeRobotDataset v3 with what lies beside it, or DROID-style.

FOLDER/meta, data, videos             see attn_jax/data/lerobot_writer.py; rows of meta/episodes
                                      also hold `seed` and `success`
FOLDER/episodes.jsonl                 one line per episode: Demonstration.info, episode_index
FOLDER/masks/episode_000000.npz       camera -> (t, h, w) uint8 ids of things; both are read by
                                      attn_jax/data/lerobot_beside.py
FOLDER/views/episode_000000.npz       only when asked for: `depth.<camera>`, `points.<camera>`,
                                      `pose.<camera>`, `intrinsics.<camera>`

DROID-style recordings are those of `droid.py`.

summary = record(Recording(TabletopConfig(), seed=0, episodes=200), "out/demos", jobs=2)
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import IO, Any

import numpy as np
from absl import logging

from attn_jax.core.errors import ConfigError
from attn_jax.core.geometry import letterbox
from attn_jax.core.interrupts import Interrupts
from attn_jax.core.typing import Float, NumpyArray, PathLike
from attn_jax.data.droid_writer import LAYOUTS
from attn_jax.data.lerobot_beside import EPISODES_FILE, MASK_FILE, VIEW_FILE
from attn_jax.data.lerobot_writer import (
    LeRobotWriter,
    image_feature,
    vector_feature,
)
from robots.tabletop.demonstrations import Demonstration, TabletopConfig, demonstrations
from robots.tabletop.droid import DroidRecorder, check_cameras
from robots.tabletop.env import ACTION_NAMES, FPS, STATE_NAMES

#: Feature for supervised attention: share of each cell of a grid that the target covers, raster.
LOOK_AT = "look_at.{}"
LOOK_GRID = 8
FORMATS = ("lerobot", "droid")
_SAY_EVERY = 50


@dataclasses.dataclass(frozen=True)
class Recording:
    """What a dataset of demonstrations holds; scene i has the environment's seed `seed + i`.

    Attributes:
      config: what is demonstrated.
      seed: of the first scene; starts come first.
      episodes: number of whole scenes; as many attempts but under `config.every_target`.
      storage: "image" (PNG, lossless) or "video" (H.264).
      masks: write object masks.
      look_at: write for every camera which cells of an 8 x 8 grid the target covers, the feature
        `look_at.<camera>`, which supervised attention learns from.
      keep_failures: keep episodes without success, flagged; else leave them out.
      starts: number of further scenes, of which only the first steps are recorded: those in which
        only the prompt says where to go. They count as failures in the dataset, and are kept.
      start_steps: number of these steps.
      format: "lerobot" or "droid"; DROID-style recordings know no storage, look_at or views.
      layout: of masks in DROID-style recordings, "dinox" or "perception".

    Raises:
      ConfigError: a number or name that cannot be.
    """

    config: TabletopConfig
    seed: int = 0
    episodes: int = 1
    storage: str = "image"
    masks: bool = True
    look_at: bool = False
    keep_failures: bool = True
    starts: int = 0
    start_steps: int = 8
    format: str = "lerobot"
    layout: str = "dinox"

    def __post_init__(self):
        if self.episodes < 1 or self.seed < 0:
            raise ConfigError(
                f"{self.episodes} episodes from seed {self.seed}",
                fix="Use at least one episode, and no negative seed",
            )
        if self.starts < 0 or self.start_steps < 1:
            raise ConfigError(
                f"{self.starts} starts of {self.start_steps} steps",
                where="starts",
                fix="Use no negative number of starts, and at least one step",
            )
        self.features()
        if self.format not in FORMATS:
            raise ConfigError(
                f"unknown format {self.format!r}", where="format", fix=f"Use {' or '.join(FORMATS)}"
            )
        if self.layout not in LAYOUTS:
            raise ConfigError(
                f"unknown layout {self.layout!r}", where="layout", fix=f"Use {' or '.join(LAYOUTS)}"
            )
        if self.format == "droid":
            check_cameras(self.config.cameras)
            if self.look_at or self.config.views or self.storage != "image":
                raise ConfigError(
                    "DROID-style recordings have no look_at, views or storage",
                    where="dataset",
                    fix="Leave them out, or use the format lerobot",
                )

    def features(self) -> dict[str, dict[str, Any]]:
        """Features of the dataset."""
        cameras = self.config.make_env().cameras
        features = {
            f"observation.images.{camera.name}": image_feature(
                camera.height, camera.width, self.storage
            )
            for camera in cameras
        }
        features |= {
            "observation.state": vector_feature(STATE_NAMES),
            "action": vector_feature(ACTION_NAMES),
        }
        if self.look_at:
            side = range(LOOK_GRID)
            cells = tuple(f"{row}_{column}" for row in side for column in side)
            features |= {LOOK_AT.format(camera.name): vector_feature(cells) for camera in cameras}
        return features

    def open(self, folder: PathLike, commit_every: int = 50) -> _Dataset | DroidRecorder:
        """The writer of this recording; nothing is written yet.

        Raises:
          SessionError: the folder holds a finished recording, or an unfinished one of others.
        """
        if self.format == "lerobot":
            return _Dataset(self, pathlib.Path(folder), commit_every)
        layout = self.layout if self.masks else "none"
        return DroidRecorder(folder, settings=self.settings(), layout=layout)

    def settings(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    def demonstrations(self, jobs: int, after: _State | None) -> Iterator[Demonstration]:
        """All of them in order, those that are only starts first; from the one after a state on."""
        first = self.seed if after is None else after.seed
        whole = self.seed + self.starts
        cut = dataclasses.replace(self.config, max_steps=self.start_steps)
        seen = 0  # of the first scene
        for demo in itertools.chain(
            demonstrations(cut, range(first, whole), jobs),
            demonstrations(self.config, range(max(first, whole), whole + self.episodes), jobs),
        ):
            if after is not None and demo.info["seed"] == first and seen <= after.place:
                seen += 1
            else:
                yield demo


@dataclasses.dataclass
class _State:
    """How far a recording is: the last episode that was kept, and counts up to there.

    Attributes:
      seed: of the scene, or -1 before the first.
      place: of the episode among those of the scene.
      attempts, successes, starts: as in RecordSummary.
    """

    seed: int = -1
    place: int = 0
    attempts: int = 0
    successes: int = 0
    starts: int = 0


@dataclasses.dataclass(frozen=True)
class RecordSummary:
    """What was written; `attempts` counts the dropped failures too, starts are no attempts.

    `signal` is the number of the one that ended the recording early, else None.
    """

    episodes: int
    frames: int
    successes: int
    attempts: int
    starts: int
    signal: int | None = None


def record(
    recording: Recording, folder: PathLike, *, jobs: int = 1, commit_every: int = 50
) -> RecordSummary:
    """Records demonstrations, or goes on where an earlier call of the same recording stopped.

    SIGTERM and SIGINT end it after the present episode, with nothing lost; whatever ends it at once
    costs what came after the last commit.

    Args:
      recording: what to record.
      folder: of the dataset.
      jobs: processes, -1 for one per core; the dataset does not depend on it.
      commit_every: episodes after which the folder is a whole dataset again.

    Raises:
      ConfigError: a number of processes that cannot be.
      SessionError: see `Recording.open`.
    """
    if not (jobs >= 1 or jobs == -1):
        raise ConfigError(f"{jobs} processes", where="jobs", fix="Use 1 or more, or -1 per core")
    with Interrupts() as interrupts, recording.open(folder, commit_every) as writer:
        after = None if writer.state is None else _State(**writer.state)
        state = _State() if after is None else dataclasses.replace(after)
        for demo in recording.demonstrations(jobs, after):
            _count(state, demo, recording)
            is_start = demo.info["seed"] < recording.seed + recording.starts
            if is_start or demo.success or recording.keep_failures:
                writer.add(demo, dataclasses.asdict(state))
            if (state.starts + state.attempts) % _SAY_EVERY == 0:
                logging.info(
                    "%d starts, %d whole episodes, %d successes",
                    state.starts,
                    state.attempts,
                    state.successes,
                )
            if interrupts.signal_number is not None:
                writer.close(finished=False)
                break
    return RecordSummary(
        writer.episodes,
        writer.frames,
        state.successes,
        state.attempts,
        state.starts,
        interrupts.signal_number,
    )


def _count(state: _State, demo: Demonstration, recording: Recording) -> None:
    seed = demo.info["seed"]
    state.seed, state.place = seed, state.place + 1 if seed == state.seed else 0
    if seed < recording.seed + recording.starts:
        state.starts += 1
    else:
        state.attempts += 1
        state.successes += demo.success


class _Dataset:
    """A LeRobotDataset and what lies beside it; see LeRobotWriter."""

    def __init__(self, recording: Recording, folder: pathlib.Path, commit_every: int):
        self._recording, self._folder = recording, folder
        self._writer = LeRobotWriter(
            folder,
            fps=FPS,
            features=recording.features(),
            robot_type="tabletop",
            settings=recording.settings(),
            commit_every=commit_every,
        )
        self._log: IO[str] | None = None

    @property
    def episodes(self) -> int:
        return self._writer.episodes

    @property
    def frames(self) -> int:
        return self._writer.frames

    @property
    def state(self) -> Any:
        return self._writer.state

    def __enter__(self) -> _Dataset:
        self._writer.__enter__()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._log = _open_log(self._folder, self.episodes)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._log is not None:
            self._log.close()
        self._writer.__exit__(*exception)

    def close(self, *, finished: bool) -> None:
        self._writer.close(finished=finished)

    def add(self, demo: Demonstration, state: Mapping[str, Any]) -> None:
        """Masks and line come before the episode, so that whatever is committed has them."""
        assert self._log is not None
        if self._recording.masks:
            _save(self._folder / MASK_FILE.format(self.episodes), demo.masks)
        if demo.views:
            _save(self._folder / VIEW_FILE.format(self.episodes), _view_arrays(demo))
        self._log.write(json.dumps({"episode_index": self.episodes, **demo.info}) + "\n")
        self._log.flush()
        columns = {**demo.frames, **(target_shares(demo) if self._recording.look_at else {})}
        note = {"seed": demo.info["seed"], "success": demo.success}
        self._writer.add_episode(columns, demo.info["prompt"], note, state)


def _save(path: pathlib.Path, arrays: Mapping[str, NumpyArray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)


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
