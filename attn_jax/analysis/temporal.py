"""How attention moves along the action chunk, the denoising steps and the frames.

A region of interest is the share of every patch that a mask covers, taken through the letterbox
(`overlap.patch_coverage`), so its mass is weighted by area and two halves sum to the whole.

Axis names: (call, denoise, layer, head, query, key), see `core.record`; r regions.

    mass = roi_mass(maps, coverage)                    # (..., r)
    curve = roi_curves(record, "image/wrist", coverage)       # (call, denoise, layer, query, r)
    slope(curve, axis=3)                               # mass per action step
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
      heads: how heads are joined, one of `reduce.REDUCTIONS` but `each`.

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
    out = [
        reduce.join(values[..., rows[:, None], columns], heads, axis=2)
        @ regions.astype(np.float64).reshape(len(regions), -1).T
        for values, regions in zip(reduce.calls(record), coverage, strict=True)
    ]
    return np.stack(out)


def slope(values: NumpyArray, *, axis: int, step: float = 1.0) -> NumpyArray:
    """Least-squares slope along one axis, per `step` of that axis; the axis is dropped.

    NaN for fewer than two positions, or where a value is NaN.
    """
    y = np.moveaxis(np.asarray(values, np.float64), axis, -1)
    count = y.shape[-1]
    if count < 2:
        return np.full(y.shape[:-1], np.nan)
    x = (np.arange(count) - (count - 1) / 2) * step
    return np.asarray(y @ x / (x @ x))
