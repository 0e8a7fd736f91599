"""Random changes of camera pictures while training: a small shift, brightness and contrast.

Axis names: b batch, c cameras, h w pixels. Every camera of every sample is changed on its own.

    images = augmented(Augmentation(shift=3, brightness=0.2), images, key)
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp

from attn_jax.core.errors import ConfigError
from attn_jax.core.typing import AnyArray, Array, Float, PRNGKey


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How much pictures are changed; zeros change nothing.

    Attributes:
      shift: largest shift in pixels along each axis; edges are repeated.
      brightness: largest amount added, in pixel values of [-1, 1].
      contrast: largest relative change of the distance from the picture's mean.

    Raises:
      ConfigError: a negative value, or a contrast of 1 and more.
    """

    shift: int = 0
    brightness: float = 0.0
    contrast: float = 0.0

    def __post_init__(self):
        if self.shift < 0 or not 0 <= self.brightness < math.inf or not 0 <= self.contrast < 1:
            raise ConfigError(
                "needs shift and brightness of at least 0, finite, and contrast in [0, 1), "
                f"got {self}",
                where="augment",
            )


def augmented(
    config: Augmentation, images: Float[AnyArray, "b c h w 3"], rng: PRNGKey
) -> Float[AnyArray, "b c h w 3"]:
    """Changed pictures in [-1, 1]; the same key changes them in the same way."""
    if config == Augmentation():
        return images
    batch, cameras, height, width, _ = images.shape
    shift_key, light_key, contrast_key = jax.random.split(rng, 3)
    flat = images.reshape(-1, height, width, 3)
    if config.shift:
        margin = config.shift
        starts = jax.random.randint(shift_key, (len(flat), 2), 0, 2 * margin + 1)
        padded = jnp.pad(flat, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="edge")
        flat = jax.vmap(lambda x, s: jax.lax.dynamic_slice(x, (s[0], s[1], 0), (height, width, 3)))(
            padded, starts
        )

    def drawn(key: PRNGKey, extent: float) -> Array:
        return jax.random.uniform(key, (len(flat), 1, 1, 1), minval=-extent, maxval=extent)

    mean = jnp.mean(flat, axis=(1, 2, 3), keepdims=True)
    flat = (flat - mean) * (1.0 + drawn(contrast_key, config.contrast)) + mean
    flat = jnp.clip(flat + drawn(light_key, config.brightness), -1.0, 1.0)
    return flat.reshape(batch, cameras, height, width, 3)
