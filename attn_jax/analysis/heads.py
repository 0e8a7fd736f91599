"""Which heads are focused, and on what: a table of (layer, head), best first, with uncertainty.

Heads are ordered by normalised entropy, lowest first, then by lift, highest first. How sure a place
in the order is comes from resampling the units (episodes, or frames within one).

Axis names: n units, layer, head.

    ranking = rank_heads(entropy, lift, layers=(0, 1), heads=range(8), seed=0)
    ranking.order[0]                              # (layer, head) of the most focused head
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from attn_jax.core.errors import ConfigError
from attn_jax.core.typing import Float, Int, NumpyArray


@dataclasses.dataclass(frozen=True, eq=False)
class HeadRanking:
    """Heads in order; position i of every array belongs to `order[i]`.

    Attributes:
      order: (layer, head), most focused first.
      entropy: mean normalised entropy, in [0, 1].
      lift: mean lift, NaN where it was not given.
      rank: mean rank over resamples, from 1.
      low, high: 2.5 % and 97.5 % quantiles of the rank over resamples.
      units: how many units the means are over.
    """

    order: tuple[tuple[int, int], ...]
    entropy: Float[NumpyArray, "i"]
    lift: Float[NumpyArray, "i"]
    rank: Float[NumpyArray, "i"]
    low: Float[NumpyArray, "i"]
    high: Float[NumpyArray, "i"]
    units: int


def rank_heads(
    entropy: Float[NumpyArray, "n layer head"],
    lift: Float[NumpyArray, "n layer head"] | None = None,
    *,
    layers: Sequence[int],
    heads: Sequence[int],
    seed: int,
    resamples: int = 1000,
) -> HeadRanking:
    """Orders heads by their means over units.

    Args:
      entropy: normalised entropy of every unit; NaN where it is undefined.
      lift: lift over an object of every unit, or None.
      layers: model layer of each position on the layer axis.
      heads: attention head of each position on the head axis.
      seed: seed of the resampling.
      resamples: bootstrap samples; with one unit the interval is NaN.

    Returns:
      The ranking; heads whose entropy is undefined everywhere come last.

    Raises:
      ConfigError: shapes that do not fit the labels.
    """
    if entropy.shape[1:] != (len(layers), len(heads)) or (
        lift is not None and lift.shape != entropy.shape
    ):
        raise ConfigError(f"table {entropy.shape} for {len(layers)} layers x {len(heads)} heads")
    units = len(entropy)
    names = [(int(layer), int(head)) for layer in layers for head in heads]
    e = np.asarray(entropy, np.float64).reshape(units, -1)
    x = np.full_like(e, np.nan) if lift is None else np.asarray(lift, np.float64).reshape(units, -1)
    mean_e, mean_x = (_weighted(v, np.ones((1, units)))[0] for v in (e, x))
    order = _order(mean_e[None], mean_x[None])[0]
    low = high = rank = np.full(len(names), np.nan)
    if units > 1:
        draws = np.random.default_rng(seed).integers(units, size=(resamples, units))
        weights = np.apply_along_axis(np.bincount, 1, draws, minlength=units).astype(np.float64)
        places = _order(_weighted(e, weights), _weighted(x, weights))
        ranks = np.empty_like(places)
        np.put_along_axis(ranks, places, np.arange(1, len(names) + 1)[None], axis=1)
        rank = ranks.mean(0)
        low, high = np.quantile(ranks, (0.025, 0.975), axis=0)
    return HeadRanking(
        tuple(names[i] for i in order),
        mean_e[order],
        mean_x[order],
        rank[order],
        low[order],
        high[order],
        units,
    )


def _weighted(values: NumpyArray, weights: NumpyArray) -> NumpyArray:
    """(n, i) values, (r, n) weights -> (r, i) means over the units that are not NaN."""
    known = np.isfinite(values)
    total = weights @ np.where(known, values, 0.0)
    count = weights @ known.astype(np.float64)
    return np.where(count > 0, total / np.where(count > 0, count, 1.0), np.nan)


def _order(entropy: NumpyArray, lift: NumpyArray) -> Int[NumpyArray, "r i"]:
    """Positions from most to least focused, of every row."""
    return np.lexsort((-np.nan_to_num(lift, nan=-np.inf), np.nan_to_num(entropy, nan=np.inf)))
