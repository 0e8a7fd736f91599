"""Recorded episodes from wherever they are: DROID-style folders, LeRobotDatasets, earlier runs.

source = open_source("DATA", cameras=("right", "wrist"))
for number, name in enumerate(source.names):
    episode = source.read(number)              # one at a time; nothing is kept
"""

from __future__ import annotations

import dataclasses
import pathlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attn_jax.core.errors import ConfigError, EpisodeError, InputError
from attn_jax.core.typing import PathLike
from attn_jax.data.droid import DroidOptions, droid_episodes, droid_name, read_droid
from attn_jax.data.droid_files import OUTCOMES, TRAJECTORY
from attn_jax.data.episodes import EPISODES, META, Episode, episodes_of, read_episode, read_meta
from attn_jax.data.lerobot import Dataset, open_dataset
from attn_jax.data.lerobot_episodes import ACTION, STATE, read_lerobot


@dataclasses.dataclass(frozen=True)
class EpisodeSource:
    """Episodes that are read when they are asked for.

    Attributes:
      kind: `droid`, `lerobot` or `run`.
      names: of the episodes, in order.
      read: number -> episode; raises `EpisodeError` for a damaged one.
      checksum: number -> what tells an episode from others of its name, found without its pictures;
        empty where it is not known.
    """

    kind: str
    names: tuple[str, ...]
    read: Callable[[int], Episode]
    checksum: Callable[[int], str] = lambda number: ""

    def first(self) -> Episode:
        """The first episode that can be read.

        Raises:
          EpisodeError: none can be read.
          ConfigError: what was asked for is not there, whichever episode it is.
        """
        problems: list[str] = []
        for number, name in enumerate(self.names):
            try:
                return self.read(number)
            except ConfigError:
                raise
            except InputError as error:
                problems.append(f"{name}: {error}")
        raise EpisodeError("; ".join(["no episode can be read", *problems[:1]]))


def open_source(
    root: PathLike, droid: DroidOptions | None = None, *, cameras: Sequence[str] = ()
) -> EpisodeSource:
    """Finds the episodes below a root.

    Args:
      root: a run folder (`episodes/episode_*/observations.json`), a root of DROID-style recordings,
        one episode of either, or a LeRobotDataset v3.
      droid: what to read of DROID-style recordings; its keyframe step and horizon are those of a
        LeRobotDataset too.
      cameras: those of the recording that are taken, in this order; empty takes all, of DROID-style
        recordings those of `droid`.

    Raises:
      EpisodeError: nothing of these is there.
      ConfigError: a camera is named twice, or DROID-style recordings have no such camera. Other
        episodes say that when they are read.
    """
    root = pathlib.Path(root)
    if len(set(cameras)) != len(cameras):
        raise ConfigError(f"{','.join(cameras)} names a camera twice", where="--recorded_cameras")
    if not root.is_dir():
        raise EpisodeError("no such folder", where=root, fix="Name a folder of recorded episodes")
    if (root / EPISODES).is_dir() or (root / META).is_file():
        folders = tuple(episodes_of(root))
        return EpisodeSource(
            "run",
            tuple(f.name for f in folders),
            lambda number: _of_cameras(read_episode(folders[number]), cameras),
            lambda number: read_meta(folders[number])["crc32"],
        )
    if (root / "meta" / "info.json").is_file():
        dataset, options = open_dataset(root), droid or DroidOptions()
        return EpisodeSource(
            "lerobot",
            tuple(f"episode_{number:05d}" for number in range(len(dataset.episodes))),
            lambda number: _of_cameras(
                read_lerobot(dataset, number, step=options.keyframe_step, horizon=options.horizon),
                cameras,
            ),
            lambda number: _lerobot_checksum(dataset, number),
        )
    try:
        recordings = droid_episodes(root)
    except EpisodeError as error:
        raise EpisodeError(
            "no recorded episodes here",
            where=root,
            fix=f"Name a run folder, or a folder with {{{','.join(OUTCOMES)}}}/date/episode/",
        ) from error
    if cameras:
        droid = dataclasses.replace(droid or DroidOptions(), cameras=tuple(cameras))
    return EpisodeSource(
        "droid",
        tuple(droid_name(folder) for folder in recordings),
        lambda number: read_droid(recordings[number], droid),
        lambda number: _droid_checksum(recordings[number]),
    )


def _lerobot_checksum(dataset: Dataset, number: int) -> str:
    """Of the states and actions of an episode."""
    first, stop = (int(place) for place in dataset.episodes[number])
    rows = [dataset.column(key)[first:stop].tobytes() for key in (STATE, ACTION)]
    return f"{zlib.crc32(b''.join(rows)):08x}"


def _droid_checksum(folder: pathlib.Path) -> str:
    """Of the trajectory of a recording; empty without one, which reading it complains of."""
    path = folder / TRAJECTORY
    return f"{zlib.crc32(path.read_bytes()):08x}" if path.is_file() else ""


def _of_cameras(episode: Episode, cameras: Sequence[str]) -> Episode:
    """The episode with these cameras only; all of them when none is named."""
    if not cameras:
        return episode
    if missing := [camera for camera in cameras if camera not in episode.images]:
        raise ConfigError(
            f"the recording has no camera {', '.join(missing)}",
            where="--recorded_cameras",
            fix=f"It has {', '.join(episode.images)}",
        )
    return with_cameras(episode, {camera: camera for camera in cameras})


def with_cameras(episode: Episode, names: Mapping[str, str]) -> Episode:
    """The episode with some of its cameras under other names, wherever they are named.

    Args:
      episode: with all cameras of `names`.
      names: camera of the episode -> its new name; cameras that are not named are left out.
    """

    def renamed(values: Mapping[str, Any]) -> dict[str, Any]:
        return {new: values[old] for old, new in names.items() if old in values}

    info = dict(episode.info)
    if "geometry" in info:
        info["geometry"] = renamed(info["geometry"])
    if "panels" in (info.get("video") or {}):
        info["video"] = info["video"] | {"panels": renamed(info["video"]["panels"])}
    return dataclasses.replace(
        episode,
        info=info,
        images=renamed(episode.images),
        masks=renamed(episode.masks),
        calibration=renamed(episode.calibration),
    )


def matched_cameras(
    recorded: Sequence[str], known: Sequence[str], rename: Mapping[str, str]
) -> dict[str, str]:
    """Camera of a recording -> camera of the checkpoint, for every one of `recorded`.

    Args:
      recorded: cameras of the recording.
      known: cameras of the checkpoint.
      rename: camera of the recording -> camera of the checkpoint; others keep their names.

    Raises:
      ConfigError: there is no camera, one is none of the checkpoint's, or two end in one name: one
        of them would get the attention and the actions of the other's picture.
    """
    names = {camera: rename.get(camera, camera) for camera in recorded}
    taken = list(names.values())
    for name in taken:
        same = [camera for camera in recorded if names[camera] == name]
        if len(same) > 1:
            raise ConfigError(
                f"cameras {' and '.join(same)} of the recording would both be {name!r}",
                where="--rename",
                fix=f"The checkpoint has {', '.join(known)}: give each another one, or leave one "
                f"out with {_keeping(recorded, same[1:])}",
            )
    missing = [camera for camera in recorded if names[camera] not in known]
    if missing or not recorded:
        free = [camera for camera in known if camera not in taken]
        fixes = []
        if missing and free:
            fixes.append(f"write for example --rename={missing[0]}:{free[0]}")
        if missing and len(missing) < len(recorded):
            fixes.append(f"leave out what the policy does not use: {_keeping(recorded, missing)}")
        raise ConfigError(
            f"the checkpoint has no camera for {', '.join(missing) or 'an episode without any'}",
            where="--rename",
            fix=f"It has {', '.join(known)}" + (f": {', or '.join(fixes)}" if fixes else ""),
        )
    return names


def _keeping(recorded: Sequence[str], without: Sequence[str]) -> str:
    return f"--recorded_cameras={','.join(c for c in recorded if c not in without)}"
