"""Writes demonstrations as a LeRobotDataset v3, with object masks beside it.

FOLDER/meta, data, videos             see attn_jax/data/lerobot_writer.py; rows of meta/episodes
                                      also hold `seed` and `success`
FOLDER/episodes.jsonl                 one line per episode: Demonstration.info, episode_index
FOLDER/masks/episode_000000.npz       camera -> (t, h, w) uint8 ids of things

summary = record(TabletopConfig(), "out/demos", seed=0, episodes=200, storage="image", jobs=2)
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import pathlib

import numpy as np
from absl import logging

from attn_jax.core.errors import ConfigError
from attn_jax.core.geometry import letterbox
from attn_jax.core.typing import Float, NumpyArray, PathLike
from attn_jax.data.lerobot_writer import (
    LeRobotWriter,
    image_feature,
    vector_feature,
)
from robots.tabletop.demonstrations import Demonstration, TabletopConfig, demonstrations
from robots.tabletop.env import ACTION_NAMES, FPS, STATE_NAMES

EPISODES_FILE = "episodes.jsonl"
#: Feature for supervised attention: share of each cell of a grid that the target covers, raster.
LOOK_AT = "look_at.{}"
LOOK_GRID = 8
MASK_FILE = "masks/episode_{:06d}.npz"
_SAY_EVERY = 50


@dataclasses.dataclass(frozen=True)
class RecordSummary:
    """What was written; `attempts` counts the dropped failures too, starts are no attempts."""

    episodes: int
    frames: int
    successes: int
    attempts: int
    starts: int


def record(
    config: TabletopConfig,
    folder: PathLike,
    *,
    seed: int,
    episodes: int,
    storage: str = "image",
    masks: bool = True,
    look_at: bool = False,
    keep_failures: bool = True,
    starts: int = 0,
    start_steps: int = 8,
    jobs: int = 1,
) -> RecordSummary:
    """Records demonstrations; scene i has the environment's seed `seed + i`, starts come first.

    Args:
      config: what is demonstrated.
      folder: of the dataset.
      seed: of the first scene.
      episodes: number of whole scenes; as many attempts but under `config.every_target`.
      storage: "image" (PNG, lossless) or "video" (H.264).
      masks: write object masks.
      look_at: write for every camera which cells of an 8 x 8 grid the target covers, the feature
        `look_at.<camera>`, which supervised attention learns from.
      keep_failures: keep episodes without success, flagged; else leave them out.
      starts: number of further scenes, of which only the first steps are recorded: those in which
        only the prompt says where to go. They count as failures in the dataset, and are kept.
      start_steps: number of these steps.
      jobs: processes; the dataset does not depend on it.

    Raises:
      ConfigError: a number or name that cannot be, before anything is written.
      SessionError: the folder holds a dataset.
    """
    if episodes < 1 or seed < 0 or not (jobs >= 1 or jobs == -1):
        raise ConfigError(
            f"{episodes} episodes from seed {seed} by {jobs} processes",
            fix="Use at least one episode and process (-1: one per core), and no negative seed",
        )
    if starts < 0 or start_steps < 1:
        raise ConfigError(
            f"{starts} starts of {start_steps} steps",
            where="starts",
            fix="Use no negative number of starts, and at least one step",
        )
    env = config.make_env()
    folder = pathlib.Path(folder)
    features = {
        f"observation.images.{camera.name}": image_feature(camera.height, camera.width, storage)
        for camera in env.cameras
    }
    features |= {
        "observation.state": vector_feature(STATE_NAMES),
        "action": vector_feature(ACTION_NAMES),
    }
    if look_at:
        cells = tuple(f"{row}_{column}" for row in range(LOOK_GRID) for column in range(LOOK_GRID))
        features |= {LOOK_AT.format(camera.name): vector_feature(cells) for camera in env.cameras}
    frames = kept = successes = attempts = started = 0
    cut = dataclasses.replace(config, max_steps=start_steps)
    seeds = range(seed, seed + starts + episodes)
    demos = itertools.chain(
        ((True, demo) for demo in demonstrations(cut, seeds[:starts], jobs)),
        ((False, demo) for demo in demonstrations(config, seeds[starts:], jobs)),
    )
    with LeRobotWriter(folder, fps=FPS, features=features, robot_type="tabletop") as writer:
        (folder / MASK_FILE).parent.mkdir(parents=True, exist_ok=True)
        with (folder / EPISODES_FILE).open("w", encoding="utf-8") as log:
            for is_start, demo in demos:
                if is_start or demo.success or keep_failures:
                    note = {"seed": demo.info["seed"], "success": demo.success}
                    columns = {**demo.frames, **(target_shares(demo) if look_at else {})}
                    index = writer.add_episode(columns, demo.info["prompt"], note)
                    if masks:
                        np.savez_compressed(folder / MASK_FILE.format(index), **demo.masks)
                    log.write(json.dumps({"episode_index": index, **demo.info}) + "\n")
                    kept += 1
                    frames += demo.info["length"]
                if is_start:
                    started += 1
                else:
                    successes += demo.success
                    attempts += 1
                if (started + attempts) % _SAY_EVERY == 0:
                    logging.info(
                        "%d starts, %d whole episodes, %d successes", started, attempts, successes
                    )
    return RecordSummary(kept, frames, successes, attempts, started)


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


def read_masks(folder: PathLike, episode: int) -> dict[str, np.ndarray]:
    """Masks of an episode: camera -> (t, h, w) uint8 ids of things.

    Raises:
      ConfigError: the dataset has no masks of that episode.
    """
    path = pathlib.Path(folder) / MASK_FILE.format(episode)
    if not path.exists():
        raise ConfigError(
            "there are no masks of this episode", where=path, fix="Record with dataset.masks=true"
        )
    with np.load(path) as file:
        return {camera: file[camera] for camera in file.files}


def read_episodes(folder: PathLike) -> list[dict]:
    """Lines of `episodes.jsonl`; raises ConfigError where there is none."""
    path = pathlib.Path(folder) / EPISODES_FILE
    if not path.exists():
        raise ConfigError("is missing", where=path, fix="Name a folder written by launch.record")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
