"""Unmasked attention that is quick on CPU, forward and backward.

Axis names: b batch, q query, k key, h head, d head features, z batch and head together. What makes
it quick: heads stand in front before the products, so that no map is ever transposed; the softmax
is normalised after the product with the values, on (q, d) instead of (q, k); samples are mapped one
after the other, so that their maps stay in the cache; and the gradient starts from the log-sum-exp
of each row instead of a stored map. Values and gradients equal plain autodiff to rounding.

    attend(q, k, v, scale)         # q (b, q, h, d), k and v (b, k, h, d) -> (b, q, h, d)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from attn_jax.core.typing import Array, Float

# Below this many map entries per head the loops cost more than they save.
_MIN_MAP_SIZE = 128 * 128


def attend(
    q: Float[Array, "b q h d"],
    k: Float[Array, "b k h d"],
    v: Float[Array, "b k h d"],
    scale: float,
) -> Float[Array, "b q h d"]:
    """softmax(scale q k^T) v, softmax in float32; (b, q, h, d) in the dtype of `v`.

    Has no forward-mode derivative (`jax.jvp`) where the quick form is used: on CPU, with large
    maps.
    """
    if jax.default_backend() == "cpu" and q.shape[1] * k.shape[1] >= _MIN_MAP_SIZE:
        return _quick(q, k, v, scale)
    return _plain(q, k, v, scale)


def attend_with_probs(
    q: Float[Array, "b q h d"],
    k: Float[Array, "b k h d"],
    v: Float[Array, "b k h d"],
    scale: float,
    keep: Callable[[Float[Array, "1 h q k"]], Any],
) -> tuple[Float[Array, "b q h d"], Any]:
    """The same output, and what `keep` makes of the probabilities; differentiable by autodiff.

    Args:
      q: queries.
      k: keys.
      v: values.
      scale: factor on the logits.
      keep: from the float32 probabilities (1, h, q, k) of one sample to arrays led by an axis of 1.
        It runs sample by sample while the map is in the cache, so what it drops or shrinks never
        reaches memory.

    Returns:
      (output, kept): kept arrays are led by b.
    """

    def sample(args: tuple[Array, Array, Array]):
        out, weights, _, total = _weigh(*args, scale)
        return out, jax.tree.map(lambda x: x[0], keep((weights / total)[None]))

    if q.shape[0] == 1:
        return jax.tree.map(lambda x: x[None], sample((q[0], k[0], v[0])))
    return jax.lax.map(sample, (q, k, v))


def _plain(q: Array, k: Array, v: Array, scale: float) -> Array:
    logits = jnp.einsum("bqhd,bkhd->bhqk", q * jnp.asarray(scale, q.dtype), k)
    probs = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
    return jnp.einsum("bhqk,bkhd->bqhd", probs.astype(v.dtype), v)


def _weigh(q: Array, k: Array, v: Array, scale: float) -> tuple[Array, Array, Array, Array]:
    """A sample: output (q, h, d), exp(logit - peak) (h, q, k), peak and total (h, q, 1)."""
    q, k, v = (x.swapaxes(0, 1) for x in (q, k, v))
    logits = jnp.einsum("hqd,hkd->hqk", q * jnp.asarray(scale, q.dtype), k).astype(jnp.float32)
    peak = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    weights = jnp.exp(logits - peak)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    out = jnp.einsum("hqk,hkd->hqd", weights.astype(v.dtype), v)
    # Without the barrier XLA swaps the operands of the product and transposes the whole map.
    out = jax.lax.optimization_barrier(out) / total
    return out.astype(v.dtype).swapaxes(0, 1), weights, peak, total


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _quick(q: Array, k: Array, v: Array, scale: float) -> Array:
    return _forward(q, k, v, scale)[0]


def _forward(q: Array, k: Array, v: Array, scale: float):
    """(b, q, h, d) output and what the gradient needs: inputs, output, log-sum-exp (b, h, q)."""

    def sample(args: tuple[Array, Array, Array]):
        out, _, peak, total = _weigh(*args, scale)
        return out, (peak + jnp.log(total))[..., 0]

    if q.shape[0] == 1:
        out, log_total = (x[None] for x in sample((q[0], k[0], v[0])))
    else:
        out, log_total = jax.lax.map(sample, (q, k, v))
    return out, (q, k, v, out, log_total)


def _backward(scale: float, saved: tuple[Array, ...], g: Array):
    q, k, v, out, log_total = saved
    b, _, h, d = q.shape
    # sum_k p dp of each row, by way of the output.
    correction = jnp.sum(g.astype(jnp.float32) * out.astype(jnp.float32), axis=-1).swapaxes(1, 2)

    def heads_first(x: Array) -> Array:
        return x.swapaxes(1, 2).reshape(b * h, x.shape[1], d)

    def head(args: tuple[Array, ...]):
        q1, k1, v1, g1, log_total1, correction1 = args
        # Maps are (k, q): then only the product for d_q contracts the first axis of its left
        # operand.
        probs = jnp.exp((k1 @ q1.T).astype(jnp.float32) - log_total1)
        d_logits = probs * ((v1 @ g1.T).astype(jnp.float32) - correction1)
        d_logits = d_logits.astype(q1.dtype)
        return (
            jnp.einsum("kq,kd->qd", d_logits, k1),
            d_logits @ q1,
            probs.astype(v1.dtype) @ g1,
        )

    factor = jnp.asarray(scale, q.dtype)
    grads = jax.lax.map(
        head,
        (
            *map(heads_first, (q * factor, k, v, g)),
            log_total.reshape(b * h, 1, -1),
            correction.reshape(b * h, 1, -1),
        ),
    )
    d_q, d_k, d_v = (x.reshape(b, h, x.shape[1], d).swapaxes(1, 2) for x in grads)
    return d_q * factor, d_k, d_v


_quick.defvjp(_forward, _backward)
