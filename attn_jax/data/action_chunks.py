"""Training samples of an imitation dataset: what the robot saw, and the actions it took next.

Axis names: b batch, H action horizon, s state dimensions, a action dimensions, h w pixels. A sample
is one frame of the dataset; its chunk are the actions from that frame on.

    source = ActionChunks(open_dataset("datasets/tabletop"), horizon=10)
    train, held_out = split_episodes(len(source.dataset.episodes), share=0.1)
    sample = source.gather(source.samples(train)[:8])
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging

from attn_jax.core.errors import ConfigError
from attn_jax.core.typing import NumpyArray
from attn_jax.data.lerobot import Dataset

STATE, ACTION = "observation.state", "action"


class ActionChunks:
    """Random access to samples.

    Args:
      dataset: an opened dataset.
      horizon: actions of a chunk, H.
      cameras: features that are pictures; None takes all.
      columns: further features that are no pictures, which `gather` returns too.
      cache_bytes: pictures are decoded once and kept as bytes when all of them together need no
        more than this; otherwise each is decoded whenever it is used.

    Raises:
      ConfigError: no camera, or one that the dataset does not have.
      DatasetError: the dataset lacks state, actions or a column, or is damaged.
    """

    def __init__(
        self,
        dataset: Dataset,
        horizon: int,
        cameras: Sequence[str] | None = None,
        *,
        columns: Sequence[str] = (),
        cache_bytes: int = 4 << 30,
    ):
        self.dataset, self.horizon = dataset, horizon
        self.cameras = dataset.cameras if cameras is None else tuple(cameras)
        unknown = [key for key in self.cameras if key not in dataset.cameras]
        if unknown or not self.cameras:
            raise ConfigError(
                f"the dataset has no camera {unknown[0]!r}" if unknown else "no camera is used",
                where=dataset.root,
                fix=f"Its cameras: {', '.join(dataset.cameras) or 'none'}",
            )
        self.state = np.asarray(dataset.column(STATE), np.float32)
        dataset.column(ACTION)
        self._columns = {key: dataset.column(key) for key in columns}
        sizes = [math.prod(dataset.features[key]["shape"]) for key in self.cameras]
        self._pictures: dict[str, NumpyArray] | None = None
        if sum(sizes) * len(dataset) <= cache_bytes:
            everything = np.arange(len(dataset))
            self._pictures = {key: dataset.frames(key, everything) for key in self.cameras}
        else:
            logging.info(
                "pictures need %.1f GB and are decoded as they are used",
                sum(sizes) * len(dataset) / 1e9,
            )

    @property
    def cached(self) -> bool:
        """Whether all pictures are in memory."""
        return self._pictures is not None

    def samples(self, episodes: NumpyArray, start_share: float = 0.0) -> NumpyArray:
        """Numbers of all frames of these episodes, in order.

        Args:
          episodes: their numbers.
          start_share: with more than 0, first frames are repeated behind the others until they are
            about this share of all: in later frames the way that the hand has gone tells a policy
            the goal, and it need not read its instruction.

        Raises:
          ConfigError: the share is not in [0, 1).
        """
        if not 0 <= start_share < 1:
            raise ConfigError(
                f"a share of {start_share} first frames",
                where="start_share",
                fix="Use 0 to below 1",
            )
        bounds = self.dataset.episodes[np.asarray(episodes, np.int64)]
        every = np.concatenate([np.arange(first, stop) for first, stop in bounds])
        firsts = bounds[:, 0]
        wanted = start_share / (1 - start_share) * (len(every) - len(firsts))
        return np.concatenate([every, np.tile(firsts, max(0, round(wanted / len(firsts)) - 1))])

    def gather(self, indices: NumpyArray) -> dict[str, Any]:
        """A batch of frames.

        Returns:
          Every camera (b, h, w, 3) uint8, `observation.state` (b, s) float32, `action` (b, H, a)
          float32 in units of the robot, `action_is_pad` (b, H) bool, `task` b texts, and `index`
          (b,) int32; the further columns (b, ...) as they are.
        """
        indices = np.asarray(indices, np.int64)
        action, is_pad = self.dataset.chunk(ACTION, indices, range(self.horizon))
        pictures = {
            key: self.dataset.frames(key, indices)
            if self._pictures is None
            else self._pictures[key][indices]
            for key in self.cameras
        }
        return {
            **pictures,
            **{key: column[indices] for key, column in self._columns.items()},
            STATE: self.state[indices],
            ACTION: action.astype(np.float32),
            "action_is_pad": is_pad,
            "task": self.dataset.task_of(indices),
            "index": indices.astype(np.int32),
        }


def split_episodes(count: int, share: float) -> tuple[NumpyArray, NumpyArray]:
    """Episode numbers for training and for validation: the last `share` of them, at least one.

    Raises:
      ConfigError: `share` is not in [0, 1), or one of the parts would be empty. With 0 nothing is
        held out.
    """
    inside = 0 <= share < 1
    held = max(1, round(count * share)) if inside and share else 0
    if not inside or held >= count:
        raise ConfigError(
            f"a share of {share} of {count} episodes cannot be held out",
            fix="Record more episodes, or set data.validation_share between 0 and 1",
        )
    numbers = np.arange(count)
    return numbers[: count - held], numbers[count - held :]
