"""Writes demonstrations as a LeRobotDataset v3, with object masks beside it.

FOLDER/meta, data, videos             see attn_jax/data/lerobot_writer.py; rows of meta/episodes
                                      also hold `seed` and `success`
FOLDER/episodes.jsonl                 one line per episode: Demonstration.info, episode_index
FOLDER/masks/episode_000000.npz       camera -> (t, h, w) uint8 ids of things; both are read by
                                      attn_jax/data/lerobot_beside.py

summary = record(Recording(TabletopConfig(), seed=0, episodes=200), "out/demos", jobs=2)
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import pathlib
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
from absl import logging

from attn_jax.core.errors import ConfigError
from attn_jax.core.geometry import letterbox
from attn_jax.core.interrupts import Interrupts
from attn_jax.core.typing import Float, NumpyArray, PathLike
from attn_jax.data.lerobot_beside import EPISODES_FILE, MASK_FILE
from attn_jax.data.lerobot_writer import (
    LeRobotWriter,
    image_feature,
    vector_feature,
)
from robots.tabletop.demonstrations import Demonstration, TabletopConfig, demonstrations
from robots.tabletop.env import ACTION_NAMES, FPS, STATE_NAMES

#: Feature for supervised attention: share of each cell of a grid that the target covers, raster.
LOOK_AT = "look_at.{}"
LOOK_GRID = 8
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

    def open(self, folder: PathLike, commit_every: int = 50) -> LeRobotWriter:
        """The writer of this dataset; nothing is written yet.

        Raises:
          SessionError: the folder holds a finished dataset, or an unfinished one of another
            recording.
        """
        return LeRobotWriter(
            folder,
            fps=FPS,
            features=self.features(),
            robot_type="tabletop",
            settings=dataclasses.asdict(self),
            commit_every=commit_every,
        )

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
    folder = pathlib.Path(folder)
    with Interrupts() as interrupts, recording.open(folder, commit_every) as writer:
        after = None if writer.state is None else _State(**writer.state)
        state = _State() if after is None else dataclasses.replace(after)
        (folder / MASK_FILE).parent.mkdir(parents=True, exist_ok=True)
        with _open_log(folder, writer.episodes) as log:
            for demo in recording.demonstrations(jobs, after):
                _count(state, demo, recording)
                is_start = demo.info["seed"] < recording.seed + recording.starts
                if is_start or demo.success or recording.keep_failures:
                    _write(recording, demo, folder, writer, log, state)
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


def _write(
    recording: Recording,
    demo: Demonstration,
    folder: pathlib.Path,
    writer: LeRobotWriter,
    log: IO[str],
    state: _State,
) -> None:
    """Masks and line come before the episode, so that whatever is committed has them."""
    index = writer.episodes
    if recording.masks:
        np.savez_compressed(folder / MASK_FILE.format(index), **demo.masks)
    log.write(json.dumps({"episode_index": index, **demo.info}) + "\n")
    log.flush()
    columns = {**demo.frames, **(target_shares(demo) if recording.look_at else {})}
    note = {"seed": demo.info["seed"], "success": demo.success}
    writer.add_episode(columns, demo.info["prompt"], note, dataclasses.asdict(state))


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
