"""Running means: state, merge, compute.

Usage:

    total = Mean.of(per_sample_first, valid_first).merge(Mean.of(per_sample_second, valid_second))
    total.compute()                     # mean over all valid samples of both batches
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax.numpy as jnp


@flax.struct.dataclass
class Mean:
    """A weighted mean as its total and its weight; works on the device and with Python floats.

    Attributes:
      total: weighted sum of the values.
      count: sum of the weights.
    """

    total: Any = 0.0
    count: Any = 0.0

    @classmethod
    def of(cls, values: Any, weights: Any = None) -> Mean:
        """State of one batch: `values` of any shape, `weights` broadcastable to it (a mask, say).

        A value whose weight is 0 does not count even when it is not finite.
        """
        values = jnp.asarray(values, jnp.float32)
        if weights is None:
            return cls(jnp.sum(values), jnp.asarray(float(values.size), jnp.float32))
        weights = jnp.broadcast_to(jnp.asarray(weights, jnp.float32), values.shape)
        return cls(jnp.sum(jnp.where(weights == 0, 0.0, values * weights)), jnp.sum(weights))

    def merge(self, other: Mean) -> Mean:
        """State of both together; associative and commutative up to rounding."""
        return Mean(self.total + other.total, self.count + other.count)

    def compute(self) -> Any:
        """The mean; NaN when nothing was counted."""
        if isinstance(self.count, (int, float)):
            return self.total / self.count if self.count else float("nan")
        return self.total / self.count


def merge_all(first: Mapping[str, Mean], second: Mapping[str, Mean]) -> dict[str, Mean]:
    """Merges by name; a name that only one side has is taken over."""
    merged = dict(first)
    for name, mean in second.items():
        merged[name] = merged[name].merge(mean) if name in merged else mean
    return merged


def compute_all(means: Mapping[str, Mean]) -> dict[str, float]:
    """Name -> mean as a Python float."""
    return {name: float(mean.compute()) for name, mean in means.items()}
