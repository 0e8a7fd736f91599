"""How attention moves along the action chunk, the denoising steps and the frames.

A region of interest is the share of every patch that a mask covers, taken through the letterbox
(`overlap.patch_coverage`), so its mass is weighted by area and two halves sum to the whole.

Axis names: (call, denoise, layer, head, query, key), see `core.record`; r regions.

    mass = roi_mass(maps, coverage)                    # (..., r)
    curve = roi_curves(record, "image/wrist", coverage)       # (call, denoise, layer, query, r)
    slope(curve, axis=1, x=np.array(record.denoise))   # mass per denoising step
"""

from __future__ import annotations

import numpy as np

from attn_jax.analysis import reduce
from attn_jax.core.errors import ConfigError, MissingInputError, RecordError
from attn_jax.core.record import AttentionRecord
from attn_jax.core.typing import Float, NumpyArray


def roi_mass(
    maps: Float[NumpyArray, "*b gh gw"], coverage: Float[NumpyArray, "r gh gw"]
) -> Float[NumpyArray, "*b r"]:
    """Probability on each region, area-weighted: sum over patches of mass times coverage."""
    flat = np.asarray(maps, np.float64).reshape(*maps.shape[:-2], -1)
    return flat @ coverage.astype(np.float64).reshape(len(coverage), -1).T


def roi_curves(
    record: AttentionRecord,
    camera: str,
    coverage: Float[NumpyArray, "call r gh gw"],
    *,
    query: str = "action",
    heads: str = "mean",
) -> Float[NumpyArray, "call denoise layer query r"]:
    """Mass of every query token on regions of one camera, per denoising step and layer.

    Reads call by call, so a stored record is never in memory as a whole.

    Args:
      record: full maps or head means, with tokens on both axes.
      camera: key group with a patch grid.
      coverage: regions of every call; their own when they move.
      query: query group; its tokens are the time axis of the chunk.
      heads: how heads are joined, as in `reduce.join_heads` but for `each`.

    Raises:
      RecordError: a record without tokens on its axes, or of another number of calls.
      MissingInputError: a part of the patches was recorded.
      LayoutError: the camera or the queries were not recorded.
    """
    if record.key_names:
        raise RecordError(
            f"stream {record.stream!r} keeps key groups, not patches",
            fix="Capture with reduce=full or reduce=head_mean",
        )
    if len(coverage) != record.shape[0]:
        raise RecordError(f"{record.shape[0]} calls, regions for {len(coverage)}")
    if heads == "each":
        raise ConfigError("heads must be joined here")
    rows = reduce.valid_queries(record, query)
    columns = record.layout.positions(camera, "key")
    if coverage[0, 0].size != len(columns):
        raise MissingInputError(
            f"{camera!r} has {len(columns)} patches, regions {coverage.shape[2:]}"
        )
    focused = reduce.focused_of(record, heads, rows, columns)
    out = [
        reduce.join_heads(values[..., rows[:, None], columns], heads, focused)
        @ regions.astype(np.float64).reshape(len(regions), -1).T
        for values, regions in zip(reduce.calls(record), coverage, strict=True)
    ]
    return np.stack(out)


def mean_known(values: NumpyArray, *, axis: int) -> NumpyArray:
    """Mean over one axis of what is not NaN; NaN where nothing is known."""
    known = np.isfinite(values)
    count = known.sum(axis)
    total = np.where(known, values, 0.0).sum(axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def slope(values: NumpyArray, *, axis: int, x: Float[NumpyArray, "n"] | None = None) -> NumpyArray:
    """Least-squares slope along one axis, per unit of `x`; the axis is dropped.

    Args:
      values: any array.
      axis: along which the line runs.
      x: where the positions of that axis lie, such as the numbers of the denoising steps that were
        kept; None counts them 0, 1, 2, ...

    Returns:
      NaN for fewer than two different x, or where a value is NaN.

    Raises:
      ConfigError: another number of x than of positions.
    """
    y = np.moveaxis(np.asarray(values, np.float64), axis, -1)
    at = np.arange(y.shape[-1], dtype=np.float64) if x is None else np.asarray(x, np.float64)
    if len(at) != y.shape[-1]:
        raise ConfigError(f"{len(at)} places for an axis of {y.shape[-1]} positions")
    away = at - at.mean() if len(at) else at
    if not away.any():
        return np.full(y.shape[:-1], np.nan)
    return np.asarray(y @ away / (away @ away))
