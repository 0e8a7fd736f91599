"""How attention and actions change: between two runs on the same frames, layers, or frames.

The difference is always `other - base`. Maps are compared as probabilities; only the Jensen-Shannon
divergence and the centroid look at their shape alone. Identical maps give exactly 0, and a
correlation of exactly 1.

Axis names: `*b` `*m` any axes of maps, t frames, gh gw patch grid, H horizon, A action.

    scores = shift_metrics(base, other, box=(0, 0, 224, 224))     # each (*b,)
    std = action_std([episode.actions for episode in run])        # (A,), once for a whole run
    delta = action_delta(base_actions, other_actions, std)        # (*b,) and (*b, A)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attn_jax.analysis.focus import normalised
from attn_jax.core import geometry
from attn_jax.core.errors import ConfigError
from attn_jax.core.typing import Float, NumpyArray

METRICS = (
    "mean_diff",
    "mean_abs_diff",
    "max_increase",
    "max_decrease",
    "l2",
    "relative_l2",
    "pearson",
    "jsd",
    "centroid_shift_px",
)
#: A dimension whose spread is less than this share of the widest one's does not vary.
STILL = 1e-4
_ROUNDING = 1e-6  # of the largest value: what float32 leaves of a constant

Rows = Float[NumpyArray, "*b k"]
Measure = Float[NumpyArray, "*b"]


def pearson(x: Rows, y: Rows) -> Measure:
    """Correlation along the last axis, in [-1, 1]; NaN where a row is constant."""
    dx, dy = (v.astype(np.float64) - v.astype(np.float64).mean(-1, keepdims=True) for v in (x, y))
    xy, xx, yy = (dx * dy).sum(-1), (dx * dx).sum(-1), (dy * dy).sum(-1)
    scale = np.sqrt(xx * yy)
    # A constant row differs from its mean by rounding only.
    floor = 1e-24 * x.shape[-1] * (x.astype(np.float64) ** 2).sum(-1)
    floor_y = 1e-24 * y.shape[-1] * (y.astype(np.float64) ** 2).sum(-1)
    good = (xx > floor) & (yy > floor_y) & (scale > 0)
    return np.where(good, np.clip(xy / np.where(good, scale, 1.0), -1.0, 1.0), np.nan)


def jsd(x: Rows, y: Rows) -> Measure:
    """Jensen-Shannon divergence (not its root) of the rows, base 2, in [0, 1].

    Rows are renormalised first; NaN where one has no mass.
    """
    p, q = normalised(x), normalised(y)
    m = (p + q) / 2
    safe = np.where(m > 0, m, 1.0)
    divergence = np.zeros(m.shape[:-1])
    for row in (p, q):
        share = row / safe
        divergence = divergence + (row * np.log2(np.where(share > 0, share, 1.0))).sum(-1) / 2
    return np.asarray(np.clip(divergence, 0.0, 1.0))


def shift_metrics(
    base: Float[NumpyArray, "*b gh gw"],
    other: Float[NumpyArray, "..."],
    *,
    box: geometry.Box,
    names: Sequence[str] = METRICS,
) -> dict[str, Measure]:
    """Every measure of the change from `base` to `other`, float64.

    Args:
      base: maps of the run with the original prompt.
      other: maps of the other run on the same frames, (*b, gh, gw).
      box: (top, left, height, width) that the grid fills, pixels of the model's input; the unit of
        `centroid_shift_px`.
      names: which of `METRICS`. `max_decrease` is the most negative difference; `l2` is the
        Euclidean norm of the difference, `relative_l2` that over the norm of `base`.

    Raises:
      ConfigError: an unknown name, or maps of different shapes.
    """
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise ConfigError(f"unknown metric {unknown[0]!r}", fix=f"Use any of {METRICS}")
    if base.shape != other.shape:
        raise ConfigError(f"maps of different shapes: {base.shape} and {other.shape}")
    flat = (*base.shape[:-2], base.shape[-2] * base.shape[-1])
    x, y = (np.asarray(maps, np.float64).reshape(flat) for maps in (base, other))
    d = y - x
    l2 = np.sqrt((d * d).sum(-1))
    norm = np.sqrt((x * x).sum(-1))
    out = {
        "mean_diff": d.mean(-1),
        "mean_abs_diff": np.abs(d).mean(-1),
        "max_increase": d.max(-1),
        "max_decrease": d.min(-1),
        "l2": l2,
        "relative_l2": np.where(norm > 0, l2 / np.where(norm > 0, norm, 1.0), np.nan),
    }
    if "pearson" in names:
        out["pearson"] = pearson(x, y)
    if "jsd" in names:
        out["jsd"] = jsd(x, y)
    if "centroid_shift_px" in names:
        moved = geometry.centroid(other, box) - geometry.centroid(base, box)
        out["centroid_shift_px"] = np.sqrt((moved**2).sum(-1))
    return {name: np.asarray(out[name]) for name in names}


def layer_similarity(
    maps: Float[NumpyArray, "*b layer gh gw"],
) -> Float[NumpyArray, "*b pair"]:
    """Correlation of the maps of consecutive layers; how alike they are, not how mass flows."""
    flat = maps.reshape(*maps.shape[:-2], -1)
    return pearson(flat[..., :-1, :], flat[..., 1:, :])


def stability(maps: Float[NumpyArray, "t *m gh gw"]) -> Float[NumpyArray, "*m"]:
    """1 - mean Jensen-Shannon divergence of consecutive frames, in [0, 1]; NaN for one frame.

    Pairs in which a map has no mass do not count.
    """
    flat = maps.reshape(*maps.shape[:-2], -1)
    pairs = jsd(flat[:-1], flat[1:])
    known = np.isfinite(pairs)
    count = known.sum(0)
    total = np.where(known, pairs, 0.0).sum(0)
    return np.where(count > 0, 1.0 - total / np.maximum(count, 1), np.nan)


def action_std(chunks: Sequence[NumpyArray]) -> Float[NumpyArray, "A"]:
    """Standard deviation of every action dimension over a whole run: the unit of its actions.

    One episode is no measure of it. A gripper that rests for an episode would make a step of its
    closing look enormous, and an episode that moves little would exaggerate every change. So that
    no dimension is divided by rounding, one that varies less than `STILL` of the widest does not
    count as varying at all.

    Args:
      chunks: (call, H, A) of every episode, robot units.

    Returns:
      (A,) float64; 0 where a dimension does not vary.

    Raises:
      ConfigError: no chunks, or chunks of several widths.
    """
    widths = sorted({one.shape[-1] for one in chunks})
    if len(widths) != 1:
        raise ConfigError(f"actions of {widths or 'no'} dimensions have no common spread")
    rows = np.concatenate([one.reshape(-1, widths[0]) for one in chunks]).astype(np.float64)
    std = rows.std(0)
    floor = np.maximum(STILL * std.max(), _ROUNDING * np.abs(rows).max(0))
    return np.where(std > floor, std, 0.0)


def action_delta(
    base: Float[NumpyArray, "*b H A"],
    other: Float[NumpyArray, "*b H A"],
    std: Float[NumpyArray, "_"],
) -> tuple[Measure, Float[NumpyArray, "*b A"]]:
    """How far two action chunks lie apart, in standard deviations of the actions.

    Args:
      base: chunks of the original run, robot units.
      other: chunks of the other run.
      std: from `action_std`; dimensions without spread do not count.

    Returns:
      The Euclidean norm per step, averaged over the horizon; and the mean absolute difference of
      every dimension, NaN where it has no spread.
    """
    if base.shape != other.shape or base.shape[-1] != len(std):
        raise ConfigError(f"chunks {base.shape} and {other.shape} with std of {std.shape}")
    used = std > 0
    d = (other.astype(np.float64) - base) / np.where(used, std, np.nan)
    norm = (
        np.sqrt(np.where(used, d * d, 0.0).sum(-1)).mean(-1)
        if used.any()
        else np.full(base.shape[:-2], np.nan)
    )
    return norm, np.abs(d).mean(-2)
