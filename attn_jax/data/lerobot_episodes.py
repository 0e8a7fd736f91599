"""Episodes of a LeRobotDataset v3 as recorded episodes, with the masks and views beside it.

dataset = open_dataset("datasets/tabletop")
episode = read_lerobot(dataset, 3, step=8, horizon=16)
episode.images["front"]                          # (c, h, w, 3) of every eighth frame
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from attn_jax.core.calibration import Calibration
from attn_jax.core.errors import EpisodeError
from attn_jax.core.typing import Int, NumpyArray
from attn_jax.data import lerobot_beside
from attn_jax.data.episodes import Episode
from attn_jax.data.lerobot import Dataset

IMAGES, STATE, ACTION, SUCCESS = (
    "observation.images.",
    "observation.state",
    "action",
    "next.success",
)
#: Fields of a note that an episode's info has too.
NOTED = ("seed", "other_prompts", "lifted")


def read_lerobot(dataset: Dataset, number: int, *, step: int = 8, horizon: int = 16) -> Episode:
    """Reads an episode at every `step`-th frame.

    Args:
      dataset: see `attn_jax.data.lerobot`.
      number: of the episode.
      step: frames between calls.
      horizon: actions of a chunk; after the end of the episode the last one is repeated.

    Returns:
      An episode whose `env_step` is the number of the frame in its episode. Its outcome is that of
      the episode's `success` or the feature `next.success` where there is one, else unknown. Where
      launch.record left notes and masks (`lerobot_beside`), it has objects, roles and masks, and
      `seed`, `other_prompts` and `lifted` in its info; else it has none.

    Raises:
      EpisodeError: no such episode, several tasks in one, or masks that do not fit it.
      DatasetError: a feature is missing or a picture is damaged.
    """
    if not 0 <= number < len(dataset.episodes):
        raise EpisodeError(
            f"has no episode {number}", where=dataset.root, fix=f"It has {len(dataset.episodes)}"
        )
    if step < 1 or horizon < 1:
        raise EpisodeError("step and horizon must be at least 1")
    first, stop = (int(place) for place in dataset.episodes[number])
    frames = np.arange(first, stop, step)
    prompts = sorted(set(dataset.task_of(frames.tolist())))
    if len(prompts) != 1:
        raise EpisodeError(f"episode {number} has {len(prompts)} tasks", where=dataset.root)
    success = None
    if "success" in dataset.episode_table:
        value = dataset.episode_table["success"][number]
        success = bool(value) if value in (True, False) else None
    elif SUCCESS in dataset.columns:
        success = bool(np.any(dataset.columns[SUCCESS][first:stop]))
    actions, _ = dataset.chunk(ACTION, frames, range(horizon))
    images = {key.removeprefix(IMAGES): dataset.frames(key, frames) for key in dataset.cameras}
    note = lerobot_beside.read_note(dataset.root, number) or {}
    return Episode(
        info={
            "prompt": prompts[0],
            "task": prompts[0],
            "success": success,
            "source": f"lerobot:{dataset.root.name}/{number}",
            "fps": dataset.fps,
            "num_frames": stop - first,
            "geometry": {name: {"model_rot180": False, "video_rot180": False} for name in images},
            **{key: note[key] for key in NOTED if key in note},
        },
        env_step=frames - first,
        images=images,
        objects=tuple(note.get("objects", ())),
        roles=note.get("roles", {}),
        masks=_masks(dataset, number, note, frames - first, images),
        state=dataset.column(STATE)[frames].astype(np.float32),
        actions=actions.astype(np.float32),
        calibration=_calibration(dataset, number, frames - first, images),
    )


def _calibration(
    dataset: Dataset, number: int, steps: Int[NumpyArray, "k"], images: Mapping[str, NumpyArray]
) -> dict[str, Calibration]:
    """Camera -> where it is and how far it sees at the steps of an episode; empty without views."""
    where = dataset.root / lerobot_beside.VIEW_FILE.format(number)
    if not where.is_file():
        return {}
    views, found = lerobot_beside.read_views(dataset.root, number), {}
    length = int(dataset.episodes[number, 1] - dataset.episodes[number, 0])
    for camera, pictures in images.items():
        depth = views.get(f"depth.{camera}")
        if depth is None:
            continue
        if depth.shape != (length, *pictures.shape[1:3]):
            raise EpisodeError(
                f"depth of {camera!r} is {depth.shape}, not {(length, *pictures.shape[1:3])}",
                where=where,
                fix="Record the episode again, or remove its views",
            )
        pose, intrinsics = (views.get(f"{name}.{camera}") for name in ("pose", "intrinsics"))
        if pose is None or intrinsics is None or len(pose) != length:
            raise EpisodeError(f"depth of {camera!r} without its pose at every frame", where=where)
        found[camera] = Calibration(depth[steps], pose[steps], intrinsics)
    return found


def _masks(
    dataset: Dataset,
    number: int,
    note: Mapping[str, Any],
    steps: Int[NumpyArray, "k"],
    images: Mapping[str, NumpyArray],
) -> dict[str, NumpyArray]:
    """Camera -> (k, o, h, w) bool at the steps of an episode; empty without masks."""
    if not lerobot_beside.has_masks(dataset.root, number):
        return {}
    where = dataset.root / lerobot_beside.MASK_FILE.format(number)
    if "objects" not in note:
        raise EpisodeError(
            "masks of objects without names",
            where=where,
            fix=f"Restore {lerobot_beside.EPISODES_FILE} with `objects`, or remove the masks",
        )
    ids = lerobot_beside.read_masks(dataset.root, number)
    length = int(dataset.episodes[number, 1] - dataset.episodes[number, 0])
    for camera, pictures in ids.items():
        size = images[camera].shape[1:3] if camera in images else None
        if size is None or pictures.shape != (length, *size):
            raise EpisodeError(
                f"masks of {camera!r} are {pictures.shape}, the episode has "
                f"{'no such camera' if size is None else (length, *size)}",
                where=where,
                fix="Record the episode again, or remove its masks",
            )
    try:
        return lerobot_beside.object_masks(
            {camera: pictures[steps] for camera, pictures in ids.items()}, note["objects"]
        )
    except EpisodeError as error:
        raise EpisodeError(error.what, where=where, fix=error.fix) from None
