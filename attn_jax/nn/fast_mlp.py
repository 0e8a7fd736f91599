"""Two pieces of the MLP that are quick on CPU and equal to the ordinary ones to rounding.

Axis names: n tokens, i input features, o output features.

    y = gelu(x)                                       # exact GELU
    nn.Dense(256, dot_general=dense_dot_general)      # its kernel gradient is the quick one
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attn_jax.core.typing import Array, Float


def gelu(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """X Phi(x), by erf.

    `jax.nn.gelu(approximate=False)` uses erfc, which costs twice as much and is more accurate only
    where the result is below 1e-6.
    """
    root_half = jnp.asarray(np.sqrt(0.5), x.dtype)
    return 0.5 * x * (1 + jax.lax.erf(x * root_half))


def dense_dot_general(
    x: Array, kernel: Array, dimension_numbers: Any, precision: Any = None, **options: Any
) -> Array:
    """`jax.lax.dot_general` for `nn.Dense`, with a kernel gradient that is quick on CPU.

    On CPU it has no forward-mode derivative (`jax.jvp`).

    Args:
      x: (..., n, i) inputs.
      kernel: (i, o).
      dimension_numbers: as for `jax.lax.dot_general`.
      precision: the same.
      **options: the same; any of them leaves the gradient to autodiff.

    Returns:
      (..., n, o).
    """
    if jax.default_backend() != "cpu" or options:
        return jax.lax.dot_general(x, kernel, dimension_numbers, precision, **options)

    @jax.custom_vjp
    def product(x: Array, kernel: Array) -> Array:
        return jax.lax.dot_general(x, kernel, dimension_numbers, precision)

    def forward(x: Array, kernel: Array):
        return product(x, kernel), (x, kernel)

    def backward(saved: tuple[Array, Array], g: Array):
        x, kernel = saved
        d_x = jnp.einsum("...o,io->...i", g, kernel, precision=precision)
        # XLA's CPU back end multiplies quickly when the narrower operand stands on the left and
        # nothing is transposed afterwards. Autodiff writes g^T x and transposes; here the wider one
        # is on the right, and the barrier keeps XLA from swapping them back.
        if x.shape[-1] <= g.shape[-1]:
            return d_x, jnp.einsum("...i,...o->io", x, g, precision=precision)
        d_kernel = jnp.einsum("...o,...i->oi", g, x, precision=precision)
        return d_x, jax.lax.optimization_barrier(d_kernel).T

    product.defvjp(forward, backward)
    return product(x, kernel)
