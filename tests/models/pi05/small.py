"""A tiny Pi0.5 for tests: sizes, random parameters without zeros, inputs."""

from __future__ import annotations

import functools
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from attn_jax.models.pi05 import Architecture, Pi05Config, Pi05Inputs
from attn_jax.models.pi05.model import param_shapes

SIZES = Architecture(32, 48, 16, 24, 2, 4, 2, 8, 60, 16, 1, 2, 24, 28)
CONFIG = Pi05Config(
    SIZES, ("base", "wrist", "spare"), 5, 8, chunk_size=4, n_action_steps=4, prompt_length=9
)


@functools.cache
def _params(config: Pi05Config, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes: dict[str, Any] = flax.traverse_util.flatten_dict(param_shapes(config), sep="/")
    return {
        path: (rng.standard_normal(leaf.shape) * 0.3).astype(leaf.dtype)
        for path, leaf in shapes.items()
    }


def flat_params(config: Pi05Config = CONFIG, seed: int = 0) -> dict[str, np.ndarray]:
    """Parameters by path, normal with deviation 0.3; a new dict at each call."""
    return dict(_params(config, seed))


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    """The parameter tree of parameters by path, JAX arrays."""
    return jax.tree.map(jnp.asarray, flax.traverse_util.unflatten_dict(flat, sep="/"))


def params(config: Pi05Config = CONFIG, seed: int = 0) -> dict[str, Any]:
    """The parameter tree of `flat_params`."""
    return nested(flat_params(config, seed))


def inputs(
    config: Pi05Config = CONFIG, lengths: tuple[int, ...] = (6, 3), dummies: int = 1, seed: int = 1
) -> Pi05Inputs:
    """Random images and ids; the last `dummies` cameras are empty."""
    rng = np.random.default_rng(seed)
    batch, cameras, side = len(lengths), len(config.cameras), config.architecture.image_size
    images = rng.uniform(-1, 1, (batch, cameras, side, side, 3)).astype(np.float32)
    images[:, cameras - dummies :] = -1
    mask = np.arange(config.prompt_length) < np.asarray(lengths)[:, None]
    tokens = rng.integers(3, config.architecture.vocab, mask.shape)
    tokens[:, 0] = 2
    return Pi05Inputs(
        images=jnp.asarray(images),
        image_mask=jnp.asarray(np.tile(np.arange(cameras) < cameras - dummies, (batch, 1))),
        tokens=jnp.asarray(np.where(mask, tokens, 0), jnp.int32),
        token_mask=jnp.asarray(mask),
    )


def noise(config: Pi05Config = CONFIG, batch: int = 2, seed: int = 2) -> jax.Array:
    """Standard normal (b, H, A)."""
    shape = (batch, config.chunk_size, config.max_action_dim)
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)
