"""Sinusoidal encoding of flow time, as exact as if it were computed in float64.

The fastest sinusoid makes 250 turns over [0, 1]; in float32 its phase would be wrong by 1e-4. For
times known when a program is built, the table is made in NumPy. For times drawn inside a program,
the number of turns is summed from float32 products that are exact.

Axis names: n times, e features; the first half are sines, the second half cosines.

    time_table(np.float32([1.0, 0.9]), 1024, 4e-3, 4.0)         # (2, 1024) float32, host
    embed_time(times, 1024, 4e-3, 4.0)                          # (n, 1024) float32, traceable
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from attn_jax.core.typing import Array, Float

# A product of two numbers with 12 significant bits fits into the 24 of a float32.
_BITS = 12


def _turns_per_unit(dim: int, min_period: float, max_period: float) -> np.ndarray:
    fractions = np.linspace(0.0, 1.0, dim // 2)
    return 1.0 / (min_period * (max_period / min_period) ** fractions)


def time_table(times: np.ndarray, dim: int, min_period: float, max_period: float) -> np.ndarray:
    """Encodings of times that are known beforehand.

    Args:
      times: (n,) float32 in [0, 1].
      dim: features e, even.
      min_period: of the fastest sinusoid.
      max_period: of the slowest one.

    Returns:
      (n, e) float32, correctly rounded.
    """
    turns = _turns_per_unit(dim, min_period, max_period)
    angles = 2 * np.pi * turns * np.asarray(times, np.float32).astype(np.float64)[:, None]
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def embed_time(
    times: Float[Array, " n"], dim: int, min_period: float, max_period: float
) -> Float[Array, "n e"]:
    """Encodings of times of a running program; within 1e-6 of `time_table`."""
    rest = _turns_per_unit(dim, min_period, max_period)
    factors = []
    for _ in range(3):
        part = _leading_bits(rest)
        factors.append(jnp.asarray(part, jnp.float32))
        rest = rest - part
    high = jax.lax.reduce_precision(times, exponent_bits=8, mantissa_bits=_BITS - 1)[:, None]
    low = times[:, None] - high
    # Small terms first; whole turns are dropped from the only large one, which is exact.
    turns = low * factors[1] + high * factors[2]
    for product in (high * factors[1], low * factors[0], high * factors[0]):
        turns = turns + (product - jnp.round(product))
    angles = (2 * np.pi) * (turns - jnp.round(turns))
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)


def _leading_bits(x: np.ndarray) -> np.ndarray:
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.round(np.ldexp(mantissa, _BITS)), exponent - _BITS)
