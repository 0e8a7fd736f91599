"""Occlusion: parts of an image covered, and what that changes.

Everything is a pure function of arrays: masks and fills are arguments of compiled programs, many
masks run by `jax.vmap` or in chunks. Which patches to cover is somebody else's choice.

Axis names: b batch, gh gw patch grid, n masks. Images are (b, height, width, 3) floating, of any
value range.

    filled = fill(images, "blur", rng)
    covered = occlude(images, filled, patch_pixels(mask, (224, 224)))
    saliency = occlusion_saliency(act, images, filled, cells=8)        # (8, 8, b)
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from attn_jax.core.errors import ConfigError
from attn_jax.core.typing import AnyArray, Array, Bool, Float, PRNGKey, Shaped

FILLS = ("black", "mean", "blur", "noise")
BLUR = 1 / 16  # standard deviation of the blur, of the image's height


def fill(
    images: Float[AnyArray, "b height width 3"],
    how: str,
    rng: PRNGKey | None = None,
    *,
    black: float = -1.0,
) -> Float[Array, "b height width 3"]:
    """What covers an image, everywhere.

    Args:
      images: the images to be covered.
      how: `black`: the value `black`. `mean`: each image's mean colour. `blur`: the image after a
        Gaussian blur of 1/16 of its height, edges repeated. `noise`: independent normal pixels with
        the mean and standard deviation of each image's channels, clipped to its range.
      rng: for `noise`.
      black: value of black; -1 where images are in [-1, 1].

    Raises:
      ConfigError: an unknown fill, or noise without `rng`.
    """
    images = jnp.asarray(images)
    mean = jnp.mean(images, axis=(1, 2), keepdims=True)
    if how == "black":
        return jnp.full_like(images, black)
    if how == "mean":
        return jnp.broadcast_to(mean, images.shape)
    if how == "blur":
        sigma = BLUR * images.shape[1]
        return _blurred(_blurred(images, sigma, 1), sigma, 2)
    if how != "noise":
        raise ConfigError(f"unknown fill {how!r}", fix=f"Use one of {', '.join(FILLS)}")
    if rng is None:
        raise ConfigError("the fill noise needs a random key", where="rng")
    spread = jnp.std(images, axis=(1, 2), keepdims=True)
    drawn = mean + spread * jax.random.normal(rng, images.shape, images.dtype)
    limits = [reduce(images, axis=(1, 2, 3), keepdims=True) for reduce in (jnp.min, jnp.max)]
    return jnp.clip(drawn, *limits)


def _blurred(images: Array, sigma: float, axis: int) -> Array:
    reach = math.ceil(3 * sigma)
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    padding = [(reach, reach) if i == axis else (0, 0) for i in range(images.ndim)]
    padded = jnp.moveaxis(jnp.pad(images, padding, mode="edge"), axis, -1)
    kernel = jnp.asarray(weights / weights.sum(), images.dtype)
    flat = padded.reshape(-1, 1, padded.shape[-1])
    out = jax.lax.conv_general_dilated(flat, kernel[None, None], (1,), "VALID")
    return jnp.moveaxis(out.reshape(*padded.shape[:-1], -1), -1, axis)


def patch_pixels(
    mask: Shaped[AnyArray, "*n gh gw"], size: tuple[int, int]
) -> Shaped[Array, "*n height width"]:
    """A mask or weight of patches as one of pixels.

    Raises:
      ConfigError: an image size that the grid does not divide.
    """
    rows, columns = mask.shape[-2:]
    if size[0] % rows or size[1] % columns:
        raise ConfigError(f"a grid of {rows} x {columns} does not divide an image of {size}")
    tall = jnp.repeat(jnp.asarray(mask), size[0] // rows, axis=-2)
    return jnp.repeat(tall, size[1] // columns, axis=-1)


def occlude(
    images: Float[AnyArray, "b height width 3"],
    filled: Float[AnyArray, "b height width 3"],
    pixels: Bool[AnyArray, "*b height width"],
) -> Float[Array, "b height width 3"]:
    """The images with `filled` where `pixels` is True, for all samples alike or each its own."""
    return jnp.where(jnp.asarray(pixels)[..., None], filled, images)


def cell_masks(cells: int) -> np.ndarray:
    """Every single cell of a square grid, (cells * cells, cells, cells) bool, in raster order."""
    return np.eye(cells * cells, dtype=bool).reshape(-1, cells, cells)


def occlusion_saliency(
    act: Callable[[Array], Array],
    images: Float[AnyArray, "b height width 3"],
    filled: Float[AnyArray, "b height width 3"],
    *,
    cells: int = 8,
    chunk: int | None = None,
) -> Float[Array, "cells cells b"]:
    """How far an output moves when one cell of the image is covered.

    Args:
      act: images -> outputs (b, ...), traceable; noise and all other inputs held fixed in it.
      images: the images.
      filled: what covers them, from `fill`.
      cells: cells on a side (4, 8 or 16, say); cells * cells + 1 evaluations.
      chunk: cells evaluated at once, for memory; None is all of them.

    Returns:
      Mean squared difference to the output of the uncovered images.
    """
    base = act(jnp.asarray(images))
    size = (images.shape[1], images.shape[2])

    def moved(mask: Array) -> Array:
        change = act(occlude(images, filled, patch_pixels(mask, size))) - base
        return jnp.mean(jnp.square(change), axis=tuple(range(1, change.ndim)))

    masks = jnp.asarray(cell_masks(cells))
    found = jax.lax.map(moved, masks, batch_size=chunk or len(masks))
    return found.reshape(cells, cells, -1)
