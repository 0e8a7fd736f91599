"""Attention-guided augmentation: disturbs the parts of an image that a policy does not look at.

A transform for training data, vectorised over the batch. The weight of a patch is 1 - a / max a of
its own image: 0 where attention is highest, 1 where there is none.

Axis names: b batch, gh gw patch grid. Images are (b, height, width, 3) floating.

    changed = disturb(images, attention, "noise", rng)
    changed = disturb(images, attention, "blur")
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from attn_jax.core.errors import ConfigError
from attn_jax.core.typing import AnyArray, Array, Float, PRNGKey
from attn_jax.probe.occlusion import fill, patch_pixels

WAYS = ("noise", "blur")
SIGMA = 0.1  # of pixel values in [0, 1]


def weights(attention: Float[AnyArray, "b gh gw"]) -> Float[Array, "b gh gw"]:
    """How much each patch is disturbed, in [0, 1]; all of it where nothing is attended to."""
    attention = jnp.asarray(attention)
    highest = jnp.max(attention, axis=(1, 2), keepdims=True)
    return 1.0 - attention / jnp.where(highest > 0, highest, 1.0)


def disturb(
    images: Float[AnyArray, "b height width 3"],
    attention: Float[AnyArray, "b gh gw"],
    how: str = "noise",
    rng: PRNGKey | None = None,
    *,
    sigma: float = SIGMA,
    limits: tuple[float, float] = (-1.0, 1.0),
) -> Float[Array, "b height width 3"]:
    """Images disturbed where little attention goes.

    Args:
      images: with values within `limits`.
      attention: non-negative, of any scale; the grid divides the image.
      how: `noise` adds normal noise with the standard deviation `sigma` times the weight of the
        patch and clips to `limits`. `blur` mixes the image with `fill(images, "blur")` by the
        weight.
      rng: for `noise`.
      sigma: standard deviation in units of the range of values, so that 0.1 means the same for
        images in [0, 1] and in [-1, 1].
      limits: smallest and largest pixel value.

    Raises:
      ConfigError: an unknown way, noise without `rng`, or a grid that does not divide the image.
    """
    images = jnp.asarray(images)
    shares = patch_pixels(weights(attention), (images.shape[1], images.shape[2]))[..., None]
    if how == "blur":
        return images + shares * (fill(images, "blur") - images)
    if how != "noise":
        raise ConfigError(f"unknown way {how!r}", fix=f"Use one of {', '.join(WAYS)}")
    if rng is None:
        raise ConfigError("noise needs a random key", where="rng")
    low, high = limits
    noise = jax.random.normal(rng, images.shape, images.dtype)
    return jnp.clip(images + sigma * (high - low) * shares * noise, low, high)
