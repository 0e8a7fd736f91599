"""How focused attention is: entropy, effective number of keys, Gini, top-k mass, effective rank.

Each function reduces the last axis, a set of non-negative weights over keys, and renormalises it
first, so it describes the shape of the distribution inside a key group whatever the group's mass. A
row without mass has no shape: the result is NaN, not 0. Sums are in float64.

Axis names: `...` any leading axes, k keys.

    entropy(record.select(query="target", key="frame1").reshape(..., -1))     # nats
    table = reduce.per_head(record, effective_patches, query="target")        # (layer, head)
"""

from __future__ import annotations

import numpy as np

from attn_jax.core.errors import ConfigError
from attn_jax.core.typing import Float, NumpyArray

Weights = Float[NumpyArray, "*b k"]
Measure = Float[NumpyArray, "*b"]


def normalised(weights: Weights) -> Weights:
    """Rows divided by their sum, float64; NaN for a row without mass."""
    exact = np.asarray(weights, np.float64)
    mass = exact.sum(-1, keepdims=True)
    return np.where(mass > 0, exact / np.where(mass > 0, mass, 1.0), np.nan)


def entropy(weights: Weights) -> Measure:
    """Shannon entropy in nats; 0 for one key, log k for a uniform row."""
    p = normalised(weights)
    surprise = -np.log(np.where(p > 0, p, 1.0))
    return np.asarray(np.sum(p * surprise, axis=-1))


def normalised_entropy(weights: Weights) -> Measure:
    """Entropy over log k, in [0, 1]; NaN for a single key, where it is undefined."""
    count = weights.shape[-1]
    if count < 2:
        return np.full(weights.shape[:-1], np.nan)
    return np.asarray(entropy(weights) / np.log(count))


def effective_patches(weights: Weights) -> Measure:
    """exp(entropy): the number of equally weighted keys that would be as spread, in [1, k]."""
    return np.asarray(np.exp(entropy(weights)))


def gini(weights: Weights) -> Measure:
    """Gini coefficient: 0 for a uniform row, 1 - 1/k when one key has everything."""
    ordered = np.sort(normalised(weights), axis=-1)
    count = ordered.shape[-1]
    rank = 2.0 * np.arange(1, count + 1) - count - 1.0
    return np.asarray(np.sum(ordered * rank, axis=-1) / count)


def top_k_mass(weights: Weights, k: int) -> Measure:
    """Share of a row's mass on its k largest keys, in [k / n, 1].

    Raises:
      ConfigError: when k is not between 1 and the number of keys.
    """
    if not 1 <= k <= weights.shape[-1]:
        raise ConfigError(f"k is {k}, there are {weights.shape[-1]} keys")
    return np.asarray(np.sort(normalised(weights), axis=-1)[..., -k:].sum(-1))


def effective_rank(stack: Float[NumpyArray, "*b n k"]) -> Measure:
    """How many different maps a stack of n maps amounts to, in [1, min(n, k)].

    exp of the entropy of its singular values, which are renormalised to sum to 1; the stack is not
    centred. NaN for a stack of zeros.
    """
    values = np.linalg.svd(np.asarray(stack, np.float64), compute_uv=False)
    # Below this they are rounding; log would turn them into a rank.
    floor = values[..., :1] * max(stack.shape[-2:]) * np.finfo(np.float64).eps
    return effective_patches(np.where(values > floor, values, 0.0))
