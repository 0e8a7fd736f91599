"""Comparing cameras: how mass is shared between them, and whether they look at the same place.

Two cameras show different pictures, so their maps can be compared patch by patch only with a
calibration: where each patch of one camera lies in the picture of the other. Without it only masses
can be.

Axis names: `*b` any leading axes, c cameras, gh gw patch grid.

    shares = camera_shares(np.stack([front, wrist], -3))          # (*b, c)
    carried = resample(wrist, points, grid=(16, 16), box=box)     # wrist attention in front's grid
    agreement(front, carried)
"""

from __future__ import annotations

import numpy as np

from attn_jax.analysis.shift import pearson
from attn_jax.core import geometry
from attn_jax.core.errors import ConfigError
from attn_jax.core.typing import Float, NumpyArray

#: Shares of a patch below this come from rounding: of a patch whose centre lies on that of another.
_ROUNDING = 1e-6


def camera_shares(maps: Float[NumpyArray, "*b c gh gw"]) -> Float[NumpyArray, "*b c"]:
    """Share of the mass on images that each camera has; NaN where none has any."""
    mass = np.asarray(maps, np.float64).sum((-2, -1))
    total = mass.sum(-1, keepdims=True)
    return np.where(total > 0, mass / np.where(total > 0, total, 1.0), np.nan)


def transfer(
    maps: Float[NumpyArray, "*b gh gw"],
    points: Float[NumpyArray, "_ _ 2"],
    *,
    grid: geometry.Size,
    box: geometry.Box,
) -> Float[NumpyArray, "*b rows columns"]:
    """Carries the mass of every patch to where it lies in another camera's picture.

    Mass is shared between the four nearest patches, linearly in the distance of their centres, so
    its centre of mass is kept; at the border it goes to the outermost patch. Patches that the other
    camera does not see (NaN, or outside the box) are dropped.

    Args:
      maps: maps of the source camera.
      points: (gh, gw, 2), (y, x) of each source patch in the other camera's input, pixels; from a
        calibration.
      grid: patches of the other camera.
      box: what that grid fills, pixels.
    """
    return _carried(maps, _weights(maps, points, grid, box))


def _carried(
    maps: Float[NumpyArray, "*b gh gw"], weights: Float[NumpyArray, "_ rows columns"]
) -> Float[NumpyArray, "*b rows columns"]:
    mass = np.asarray(maps, np.float64).reshape(*maps.shape[:-2], -1)
    return np.tensordot(mass, weights, axes=(-1, 0))


def _weights(
    maps: Float[NumpyArray, "*b gh gw"],
    points: Float[NumpyArray, "_ _ 2"],
    grid: geometry.Size,
    box: geometry.Box,
) -> Float[NumpyArray, "_ rows columns"]:
    """Share of every patch of the source that each patch of the other camera gets."""
    if maps.shape[-2:] != points.shape[:2]:
        raise ConfigError(f"points of {points.shape[:2]} patches for maps of {maps.shape[-2:]}")
    flat = points.reshape(-1, 2)
    places = geometry.patch_at(np.where(np.isfinite(flat), flat, -1e9), grid, box)
    seen = places >= 0
    weights = np.zeros((len(flat), *grid))
    sides = []
    for axis in (0, 1):
        start, size, count = box[axis], box[2 + axis], grid[axis]
        place = np.clip((flat[seen, axis] + 0.5 - start) * count / size - 0.5, 0, count - 1)
        low = np.minimum(place.astype(np.int64), max(count - 2, 0))
        sides.append(((low, 1 - (place - low)), (np.minimum(low + 1, count - 1), place - low)))
    number = np.flatnonzero(seen)
    for row, row_share in sides[0]:
        for column, column_share in sides[1]:
            np.add.at(weights, (number, row, column), row_share * column_share)
    return weights


def resample(
    maps: Float[NumpyArray, "*b gh gw"],
    points: Float[NumpyArray, "_ _ 2"],
    *,
    grid: geometry.Size,
    box: geometry.Box,
) -> Float[NumpyArray, "*b rows columns"]:
    """One camera's map as another camera would see it: the mean of the patches that lie there.

    Unlike with `transfer`, whose mass is dense where a thing is seen from afar, an even map stays
    even.

    Args:
      maps: as in `transfer`.
      points: as in `transfer`.
      grid: as in `transfer`.
      box: as in `transfer`.

    Returns:
      NaN in patches of the other camera where nothing lies that this one sees.
    """
    weights = _weights(maps, points, grid, box)
    number = weights.sum(0)
    seen = number > _ROUNDING
    return np.where(seen, _carried(maps, weights) / np.where(seen, number, 1.0), np.nan)


def agreement(
    maps: Float[NumpyArray, "*b gh gw"], carried: Float[NumpyArray, "*b gh gw"]
) -> Float[NumpyArray, "*b"]:
    """Correlation of one camera's map with the carried map of another, where both see something.

    Args:
      maps: of a camera.
      carried: of another one, from `resample`; every map has its NaN in the same patches.

    Returns:
      From -1 to 1. NaN with fewer than 3 common patches, or where a map is even.
    """
    both = np.isfinite(carried).reshape(-1, *carried.shape[-2:]).all(0)
    if both.sum() < 3:
        return np.full(maps.shape[:-2], np.nan)
    return pearson(maps[..., both], carried[..., both])
