"""Position encodings of patch grids.

Axis names: gh gw patch grid, n tokens, d features. Tables are made in NumPy float64 and cast to
float32.

    sincos_grid((14, 44), 256, normalised=False)        # (616, 256), raster order
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from attn_jax.core.typing import Array, Float


def sincos_grid(grid: tuple[int, int], dim: int, *, normalised: bool) -> np.ndarray:
    """Fixed 2-D sine/cosine table, (gh * gw, dim) float32, raster order.

    Half of the features encode the row, half the column; each half is [sin, cos] of the position
    times dim / 4 frequencies 10000^(-i / (dim / 4)).

    Args:
      grid: (rows, columns).
      dim: features, a multiple of 4.
      normalised: positions run over [0, 1] (hardly tells neighbours apart; needed to import weights
        that were trained so) instead of 0, 1, 2, ...

    Raises:
      ValueError: when dim is not a multiple of 4.
    """
    if dim % 4:
        raise ValueError(f"a 2-D sine/cosine table needs a multiple of 4 features, got {dim}")
    quarter = dim // 4
    frequencies = 10000.0 ** (-np.arange(quarter) / quarter)

    def axis(size: int) -> np.ndarray:
        position = np.arange(size, dtype=np.float64)
        if normalised:
            position = position / max(size - 1, 1)
        angles = position[:, None] * frequencies
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)

    rows = np.repeat(axis(grid[0]), grid[1], axis=0)
    columns = np.tile(axis(grid[1]), (grid[0], 1))
    return np.concatenate([rows, columns], axis=1).astype(np.float32)


def rotate_half_split(
    x: Float[Array, "b n h d"], angles: Float[Array, "#b n r"]
) -> Float[Array, "b n h d"]:
    """Rotates pairs (x[i], x[i + d/2]) by `angles` (r = d / 2), computed in float32."""
    half = x.shape[-1] // 2
    cos, sin = jnp.cos(angles)[..., None, :], jnp.sin(angles)[..., None, :]
    x1, x2 = x[..., :half].astype(jnp.float32), x[..., half:].astype(jnp.float32)
    return jnp.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], axis=-1).astype(x.dtype)


def axial_rotary(
    x: Float[Array, "b n h d"], positions: Float[Array, "b n r"], base: float = 100.0
) -> Float[Array, "b n h d"]:
    """Rotary encoding of r-dimensional positions, such as (row, column, slot).

    The d / 2 feature pairs (x[i], x[i + d/2]) are dealt out to the axes, the first axes taking the
    remainder; the m pairs of an axis turn with base^(-i / m) radians per unit, i = 0 .. m - 1.

    Raises:
      ValueError: when d is odd or there are fewer pairs than axes.
    """
    pairs, axes = x.shape[-1] // 2, positions.shape[-1]
    if x.shape[-1] % 2 or pairs < axes:
        raise ValueError(f"{x.shape[-1]} features do not hold rotary pairs for {axes} axes")
    angles = []
    for axis in range(axes):
        count = pairs // axes + (axis < pairs % axes)
        frequencies = base ** (-jnp.arange(count, dtype=jnp.float32) / count)
        angles.append(positions[..., axis, None].astype(jnp.float32) * frequencies)
    return rotate_half_split(x, jnp.concatenate(angles, axis=-1))
