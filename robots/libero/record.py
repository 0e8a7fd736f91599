"""Writes demonstrations of the scripted controller in LIBERO as a LeRobotDataset v3.

Datasets are those of `robots/dataset.py`, one frame every `keep_every` steps of the simulator. With
the view "depth" they have metric depth, poses and intrinsics of the cameras beside them.

summary = record(LiberoRecording("libero_object", task_ids=(0,), episodes=5), "out/soup")
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from absl import logging

from attn_jax.core.errors import ConfigError
from attn_jax.core.interrupts import Interrupts
from attn_jax.core.typing import PathLike
from attn_jax.data.lerobot_writer import image_feature, vector_feature
from robots.dataset import DemonstrationDataset, look_at_features
from robots.libero.demonstrations import demonstrate
from robots.libero.env import CAMERAS, FPS, LiberoEnv

STATE_NAMES = ("x", "y", "z", "rx", "ry", "rz", "left_finger", "right_finger")
ACTION_NAMES = ("dx", "dy", "dz", "drx", "dry", "drz", "gripper")
VIEWS = ("depth",)


@dataclasses.dataclass(frozen=True)
class LiberoRecording:
    """What a dataset of demonstrations holds: `episodes` of every task, from `first` on.

    Attributes:
      suite, task_ids, size: as of `LiberoEnv`; no task_ids means all tasks.
      seed: of the simulator.
      episodes: of every task, at start states `first`, `first + 1` and so on.
      first: number of the first start state; LIBERO has 50 of every task.
      keep_every: steps between frames, a divisor of 20.
      storage: "image" (PNG, lossless) or "video" (H.264).
      masks, look_at: as of `DemonstrationDataset`.
      views: "depth", or nothing.
      keep_failures: keep episodes without success, flagged; else leave them out.

    Raises:
      ConfigError: a number or name that cannot be.
    """

    suite: str
    task_ids: tuple[int, ...] = ()
    size: int = 256
    seed: int = 0
    episodes: int = 1
    first: int = 0
    keep_every: int = 1
    storage: str = "image"
    masks: bool = True
    look_at: bool = False
    views: tuple[str, ...] = ()
    keep_failures: bool = True

    def __post_init__(self):
        if self.episodes < 1 or self.first < 0 or self.seed < 0:
            raise ConfigError(
                f"{self.episodes} episodes from start state {self.first}, seed {self.seed}",
                fix="Use at least one episode, and no negative number",
            )
        if self.keep_every < 1 or FPS % self.keep_every:
            raise ConfigError(
                f"keep_every is {self.keep_every}",
                fix=f"Use a divisor of {FPS}, the steps a second",
            )
        if set(self.views) - set(VIEWS):
            raise ConfigError(f"views are {self.views}", fix="Use depth, or none")
        self.features()

    def features(self) -> dict[str, dict[str, Any]]:
        """Features of the dataset, in LeRobot's names for LIBERO."""
        features = {
            f"observation.images.{camera}": image_feature(self.size, self.size, self.storage)
            for camera in CAMERAS
        }
        features |= {
            "observation.state": vector_feature(STATE_NAMES),
            "action": vector_feature(ACTION_NAMES),
        }
        return features | (look_at_features([*CAMERAS]) if self.look_at else {})

    def open(self, folder: PathLike, commit_every: int = 10) -> DemonstrationDataset:
        """The dataset, to be written or continued; nothing is written yet.

        Raises:
          SessionError: the folder holds a finished recording, or an unfinished one of others.
        """
        return DemonstrationDataset(
            folder,
            fps=FPS // self.keep_every,
            features=self.features(),
            robot_type="libero",
            settings=json.loads(json.dumps(dataclasses.asdict(self))),
            commit_every=commit_every,
            masks=self.masks,
            look_at=self.look_at,
        )


@dataclasses.dataclass(frozen=True)
class LiberoSummary:
    """What was written; `attempts` counts the dropped failures too.

    `signal` is the number of the one that ended the recording early, else None.
    """

    episodes: int
    frames: int
    successes: int
    attempts: int
    signal: int | None = None


def record(
    recording: LiberoRecording, folder: PathLike, *, commit_every: int = 10
) -> LiberoSummary:
    """Records demonstrations, or goes on where an earlier call of the same recording stopped.

    SIGTERM and SIGINT end it after the present episode, with nothing lost; whatever ends it at once
    costs what came after the last commit.

    Raises:
      ConfigError: LIBERO is missing, or a task is not one for the controller.
      SessionError: see `LiberoRecording.open`.
    """
    env = LiberoEnv(recording.suite, recording.task_ids or None, size=recording.size)
    jobs = [
        (task, recording.first + number)
        for task in env.tasks
        for number in range(recording.episodes)
    ]
    try:
        with Interrupts() as interrupts, recording.open(folder, commit_every) as dataset:
            state = {"attempts": 0, "successes": 0} | (dataset.state or {})
            for task, episode in jobs[state["attempts"] :]:
                demo = demonstrate(
                    env,
                    task,
                    seed=recording.seed,
                    episode=episode,
                    keep_every=recording.keep_every,
                    depth="depth" in recording.views,
                )
                state["attempts"] += 1
                state["successes"] += demo.success
                if demo.success or recording.keep_failures:
                    dataset.add(demo, dict(state))
                logging.info(
                    "%s, start state %d: %s; %d of %d",
                    task.name,
                    episode,
                    "success" if demo.success else "no success",
                    state["attempts"],
                    len(jobs),
                )
                if interrupts.signal_number is not None:
                    dataset.close(finished=False)
                    break
    finally:
        env.close()
    return LiberoSummary(
        dataset.episodes,
        dataset.frames,
        state["successes"],
        state["attempts"],
        interrupts.signal_number,
    )
