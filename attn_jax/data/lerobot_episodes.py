"""Episodes of a LeRobotDataset v3 as recorded episodes.

dataset = open_dataset("datasets/tabletop")
episode = read_lerobot(dataset, 3, step=8, horizon=16)
episode.images["front"]                          # (c, h, w, 3) of every eighth frame
"""

from __future__ import annotations

import numpy as np

from attn_jax.core.errors import EpisodeError
from attn_jax.data.episodes import Episode
from attn_jax.data.lerobot import Dataset

IMAGES, STATE, ACTION, SUCCESS = (
    "observation.images.",
    "observation.state",
    "action",
    "next.success",
)


def read_lerobot(dataset: Dataset, number: int, *, step: int = 8, horizon: int = 16) -> Episode:
    """Reads an episode at every `step`-th frame.

    Args:
      dataset: see `attn_jax.data.lerobot`.
      number: of the episode.
      step: frames between calls.
      horizon: actions of a chunk; after the end of the episode the last one is repeated.

    Returns:
      An episode whose `env_step` is the number of the frame in its episode. Its outcome is that of
      the episode's `success` or the feature `next.success` where there is one, else unknown.

    Raises:
      EpisodeError: no such episode, or several tasks in one.
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
        success = bool(dataset.episode_table["success"][number])
    elif SUCCESS in dataset.columns:
        success = bool(np.any(dataset.columns[SUCCESS][first:stop]))
    actions, _ = dataset.chunk(ACTION, frames, range(horizon))
    images = {key.removeprefix(IMAGES): dataset.frames(key, frames) for key in dataset.cameras}
    return Episode(
        info={
            "prompt": prompts[0],
            "task": prompts[0],
            "success": success,
            "source": f"lerobot:{dataset.root.name}/{number}",
            "fps": dataset.fps,
            "num_frames": stop - first,
            "geometry": {name: {"model_rot180": False, "video_rot180": False} for name in images},
        },
        env_step=frames - first,
        images=images,
        objects=(),
        roles={},
        masks={},
        state=dataset.column(STATE)[frames].astype(np.float32),
        actions=actions.astype(np.float32),
    )
