"""Writes demonstrations as a LeRobotDataset v3 with what lies beside it, or DROID-style.

Datasets are those of `robots/dataset.py`, DROID-style recordings those of `droid.py`.

summary = record(Recording(TabletopConfig(), seed=0, episodes=200), "out/demos", jobs=2)
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator
from typing import Any

from absl import logging

from attn_jax.core.errors import ConfigError
from attn_jax.core.interrupts import Interrupts
from attn_jax.core.typing import PathLike
from attn_jax.data.droid_writer import LAYOUTS
from attn_jax.data.lerobot_writer import image_feature, vector_feature
from robots.dataset import Demonstration, DemonstrationDataset, look_at_features
from robots.tabletop.demonstrations import TabletopConfig, demonstrations
from robots.tabletop.droid import DroidRecorder, check_cameras
from robots.tabletop.env import ACTION_NAMES, FPS, STATE_NAMES

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
            features |= look_at_features([camera.name for camera in cameras])
        return features

    def open(
        self, folder: PathLike, commit_every: int = 50
    ) -> DemonstrationDataset | DroidRecorder:
        """The writer of this recording; nothing is written yet.

        Raises:
          SessionError: the folder holds a finished recording, or an unfinished one of others.
        """
        if self.format == "lerobot":
            return DemonstrationDataset(
                folder,
                fps=FPS,
                features=self.features(),
                robot_type="tabletop",
                settings=self.settings(),
                commit_every=commit_every,
                masks=self.masks,
                look_at=self.look_at,
            )
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
