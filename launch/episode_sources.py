"""Recorded episodes from wherever they are: DROID-style folders, LeRobotDatasets, earlier runs.

source = open_source("DATA", DroidOptions(cameras=("right", "wrist")))
for number, name in enumerate(source.names):
    episode = source.read(number)              # one at a time; nothing is kept
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable

from attn_jax.core.errors import EpisodeError
from attn_jax.core.typing import PathLike
from attn_jax.data.droid import DroidOptions, droid_episodes, droid_name, read_droid
from attn_jax.data.droid_files import OUTCOMES
from attn_jax.data.episodes import EPISODES, META, Episode, episodes_of, read_episode
from attn_jax.data.lerobot import open_dataset
from attn_jax.data.lerobot_episodes import read_lerobot


@dataclasses.dataclass(frozen=True)
class EpisodeSource:
    """Episodes that are read when they are asked for.

    Attributes:
      kind: `droid`, `lerobot` or `run`.
      names: of the episodes, in order.
      read: number -> episode; raises `EpisodeError` for a damaged one.
    """

    kind: str
    names: tuple[str, ...]
    read: Callable[[int], Episode]


def open_source(root: PathLike, droid: DroidOptions | None = None) -> EpisodeSource:
    """Finds the episodes below a root.

    Args:
      root: a run folder (`episodes/episode_*/observations.json`), a root of DROID-style recordings,
        one episode of either, or a LeRobotDataset v3.
      droid: what to read of DROID-style recordings; its keyframe step and horizon are those of a
        LeRobotDataset too.

    Raises:
      EpisodeError: nothing of these is there.
    """
    root = pathlib.Path(root)
    if not root.is_dir():
        raise EpisodeError("no such folder", where=root, fix="Name a folder of recorded episodes")
    if (root / EPISODES).is_dir() or (root / META).is_file():
        folders = tuple(episodes_of(root))
        return EpisodeSource(
            "run", tuple(f.name for f in folders), lambda number: read_episode(folders[number])
        )
    if (root / "meta" / "info.json").is_file():
        dataset, options = open_dataset(root), droid or DroidOptions()
        return EpisodeSource(
            "lerobot",
            tuple(f"episode_{number:05d}" for number in range(len(dataset.episodes))),
            lambda number: read_lerobot(
                dataset, number, step=options.keyframe_step, horizon=options.horizon
            ),
        )
    try:
        recordings = droid_episodes(root)
    except EpisodeError as error:
        raise EpisodeError(
            "no recorded episodes here",
            where=root,
            fix=f"Name a run folder, or a folder with {{{','.join(OUTCOMES)}}}/date/episode/",
        ) from error
    return EpisodeSource(
        "droid",
        tuple(droid_name(folder) for folder in recordings),
        lambda number: read_droid(recordings[number], droid),
    )
