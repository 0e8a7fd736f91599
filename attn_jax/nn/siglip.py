"""SigLIP vision tower: images to patch features, without the pooling head.

Axis names: b batch, n patches in raster order, d features. Images are in [-1, 1].

    SiglipTower(width=1152, depth=27, num_heads=16, mlp_dim=4304, grid=(16, 16), patch=14)(images)
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from attn_jax.core.typing import Array, Float
from attn_jax.nn.transformer import Transformer


class SiglipTower(nn.Module):
    """Patch convolution, learned positions, pre-LayerNorm blocks with tanh GELU, a last LayerNorm.

    Patch and position embeddings and the parameters are float32 whatever `dtype` is.

    Attributes:
      width, depth, num_heads, mlp_dim: sizes of the blocks; heads share the width evenly.
      grid: (rows, columns) of patches.
      patch: side of a patch in pixels.
      stream: attention stream under which the blocks sow.
      remat: recompute activations of the blocks in the backward pass.
      dtype: computation dtype of the blocks.
    """

    width: int
    depth: int
    num_heads: int
    mlp_dim: int
    grid: tuple[int, int]
    patch: int
    stream: str = "vision"
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "b height width 3"]) -> Float[Array, "b n d"]:
        """Features (b, n, width) of every patch, in `dtype`."""
        side = (self.patch, self.patch)
        x = nn.Conv(self.width, side, strides=side, padding="VALID", name="patch_embed")(images)
        x = x.reshape(x.shape[0], -1, self.width)
        table = self.param(
            "position_embedding",
            nn.initializers.normal(self.width**-0.5),
            (self.grid[0] * self.grid[1], self.width),
        )
        x = (x + table).astype(self.dtype)
        x = Transformer(
            self.depth,
            self.num_heads,
            self.width // self.num_heads,
            self.mlp_dim,
            exact_gelu=False,
            stream=self.stream,
            remat=self.remat,
            dtype=self.dtype,
            name="transformer",
        )(x)
        return nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name="norm")(x)
