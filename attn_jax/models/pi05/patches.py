"""Smaller patches for a model that is trained already: a start for training on, not the same model.

A vision tower that was trained fast on few large patches sees details only when its patches are
small. The new patch embedding is the mean of the old one's blocks, times their number on a side, so
that independent pixels give features of the old size; positions are interpolated linearly. All
other parameters stay (compare FlexiViT, arXiv 2212.08013, which resamples so that both models agree
better).

    config, params = with_patches(config, params, patch_size=8)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from attn_jax.core.errors import ConfigError
from attn_jax.models.pi05.config import Pi05Config


def with_patch_size(config: Pi05Config, patch_size: int) -> Pi05Config:
    """The configuration with smaller patches.

    Raises:
      ConfigError: a size that does not divide that of the present patches.
    """
    old = config.architecture.patch_size
    if patch_size < 1 or old % patch_size:
        raise ConfigError(
            f"patches of {old} pixels cannot become patches of {patch_size}",
            where="init_patch_size",
            fix=f"Use a divisor of {old}",
        )
    return dataclasses.replace(
        config, architecture=dataclasses.replace(config.architecture, patch_size=patch_size)
    )


def with_patches(config: Pi05Config, params: Mapping[str, Any], patch_size: int) -> dict[str, Any]:
    """Parameters of `config` as a start for the model with smaller patches.

    Args:
      config: of `params`.
      params: of `config`.
      patch_size: side of the new patches, pixels.

    Raises:
      ConfigError: see `with_patch_size`.
    """
    new = with_patch_size(config, patch_size).architecture
    blocks = config.architecture.patch_size // patch_size
    if blocks == 1:
        return dict(params)
    vision = dict(params["vision"])
    kernel = jnp.asarray(vision["patch_embed"]["kernel"])
    parts = kernel.reshape(blocks, patch_size, blocks, patch_size, *kernel.shape[2:])
    vision["patch_embed"] = {**vision["patch_embed"], "kernel": parts.mean((0, 2)) * blocks}
    table = jnp.asarray(vision["position_embedding"])
    grid = table.reshape(*config.architecture.grid, -1)
    fine = jax.image.resize(grid, (*new.grid, grid.shape[-1]), "linear")
    vision["position_embedding"] = fine.reshape(-1, grid.shape[-1])
    return {**params, "vision": vision}
