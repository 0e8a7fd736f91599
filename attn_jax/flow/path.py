"""The straight path of flow matching: noise at time 1, data at time 0.

Axis names: b batch; the other axes of samples are free.

    times = sample_times(key, batch)
    x_t, target = interpolate(actions, noise, times), velocity_target(actions, noise)
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from attn_jax.core.typing import Array, Float, PRNGKey


def sample_times(
    key: PRNGKey,
    batch: int,
    *,
    alpha: float = 1.5,
    beta: float = 1.0,
    scale: float = 0.999,
    offset: float = 0.001,
) -> Float[Array, " b"]:
    """Training times Beta(alpha, beta) * scale + offset, (b,) float32; by default never 0."""
    return jax.random.beta(key, alpha, beta, (batch,), jnp.float32) * scale + offset


def interpolate(
    data: Float[Array, "b *n"], noise: Float[Array, "b *n"], times: Float[Array, " b"]
) -> Float[Array, "b *n"]:
    """The point of the path at each sample's time: t * noise + (1 - t) * data."""
    t = times.reshape(-1, *[1] * (data.ndim - 1))
    return t * noise + (1.0 - t) * data


def velocity_target(
    data: Float[Array, "b *n"], noise: Float[Array, "b *n"]
) -> Float[Array, "b *n"]:
    """Derivative of the path by time, noise - data, the same at every time."""
    return noise - data
