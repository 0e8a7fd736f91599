"""Statistics of one feature of a LeRobotDataset, per episode and in total.

Vectors are kept, pictures are counted by value (a histogram per channel), so that minimum, maximum,
mean, standard deviation (ddof 0) and quantiles are those of all values. Pictures are measured in
[0, 1] and their statistics have the shape (3, 1, 1), as LeRobot's have. Axis names: t frames, n
entries of a vector, h w pixels.

    stats = FeatureStats("float32")
    stats.add(states)                  # (t, n): the episode's own statistics
    stats.total()                      # of all episodes so far
"""

from __future__ import annotations

from typing import Any

import numpy as np

from attn_jax.core.typing import Float, Int, NumpyArray

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}


class FeatureStats:
    """Collects the values of one feature.

    Args:
      dtype: of the feature: "image" or "video" for pictures, else a number type.

    Attributes:
      counts: (3, 256) int64, pixels of every value in each channel; zeros for numbers.
    """

    def __init__(self, dtype: str):
        self._pictures = dtype in ("image", "video")
        self._parts: list[np.ndarray] = []
        self.counts = np.zeros((3, 256), np.int64)
        self._frames = 0

    def add(self, values: NumpyArray) -> dict[str, Any]:
        """Adds an episode, (t, h, w, 3) uint8 or (t, ...) numbers, and returns its statistics."""
        self._frames += len(values)
        if self._pictures:
            counts = np.stack(
                [np.bincount(values[..., c].ravel(), minlength=256) for c in range(3)]
            )
            self.counts += counts
            return _of_histogram(counts, len(values))
        flat = np.asarray(values, np.float64).reshape(len(values), -1)
        self._parts.append(flat)
        return _of_vectors(flat)

    def restore(self, counts: Int[NumpyArray, "3 256"], frames: int) -> None:
        """Takes over the pictures of another collector: its `counts`, and how many there were."""
        self.counts, self._frames = counts, frames

    def total(self) -> dict[str, Any]:
        """Statistics of everything that was added."""
        if self._pictures:
            return _of_histogram(self.counts, self._frames)
        return _of_vectors(np.concatenate(self._parts))


def _of_vectors(values: Float[NumpyArray, "t n"]) -> dict[str, Any]:
    quantiles = np.quantile(values, list(QUANTILES.values()), axis=0)
    found = {
        "min": values.min(axis=0),
        "max": values.max(axis=0),
        "mean": values.mean(axis=0),
        "std": values.std(axis=0),
        "count": np.array([len(values)]),
        **dict(zip(QUANTILES, quantiles, strict=True)),
    }
    return {name: value.tolist() for name, value in found.items()}


def _of_histogram(counts: Int[NumpyArray, "3 256"], frames: int) -> dict[str, Any]:
    levels = np.arange(256) / 255
    total = counts.sum(axis=1)
    mean = counts @ levels / total
    below = counts.cumsum(axis=1)
    present = counts > 0
    found = {
        "min": levels[present.argmax(axis=1)],
        "max": levels[255 - present[:, ::-1].argmax(axis=1)],
        "mean": mean,
        "std": np.sqrt(np.maximum(counts @ levels**2 / total - mean**2, 0.0)),
    }
    for name, share in QUANTILES.items():  # the smallest value that has a share at or below it
        found[name] = levels[(below >= share * total[:, None]).argmax(axis=1)]
    shaped = {name: value.reshape(3, 1, 1).tolist() for name, value in found.items()}
    return shaped | {"count": [frames]}
