"""Gemma layers: RMSNorm, adaptive RMSNorm, rotary attention with few key heads, gated MLP.

Axis names: b batch, q tokens of this stack, k keys, h heads, g key heads, d features per head,
w width. A stack returns its keys (after rotation) and values, and takes those of another stack as
`past`, so one stack can attend to what another has computed.

    stack = GemmaStack(width=64, mlp=128, depth=3, heads=8, kv_heads=1, head_dim=16)
    y, cache = stack(x, rope=rope_table(positions, 16), mask=mask)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from attn_jax.core import taps
from attn_jax.core.typing import Array, Bool, Float, Int
from attn_jax.nn.attention import activation, attend

ROPE_BASE = 10000.0
NORM_EPS = 1e-6

# (cosines, sines), each (b, q, d / 2).
type Rope = tuple[Array, Array]
# Keys after rotation and values of one layer, each (b, k, g, d).
type KeyValue = tuple[Array, Array]
# What modulates the two norms of one layer, each (b or 1, 3 w) float32.
type LayerModulation = tuple[Array, Array]


def rope_frequencies(head_dim: int, *, rounded: bool = False) -> np.ndarray:
    """Radians per position of every rotated pair, (head_dim / 2,) float32.

    Args:
      head_dim: features per head.
      rounded: round to bfloat16, as a model does that casts its frequency buffer.
    """
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    # The power is rounded to float32 before it is inverted, as torch does.
    powers = (ROPE_BASE ** exponents.astype(np.float64)).astype(np.float32)
    frequencies = np.float32(1.0) / powers
    return frequencies.astype(ml_dtypes.bfloat16).astype(np.float32) if rounded else frequencies


def rope_table(
    positions: Int[Array, "b q"], head_dim: int, *, rounded: bool = False, dtype: Any = jnp.float32
) -> Rope:
    """Cosines and sines of the rotation at `positions`; angles are float32, the result `dtype`."""
    frequencies = jnp.asarray(rope_frequencies(head_dim, rounded=rounded))
    angles = positions[..., None].astype(jnp.float32) * frequencies
    return jnp.cos(angles).astype(dtype), jnp.sin(angles).astype(dtype)


def rotate(x: Float[Array, "b q h d"], rope: Rope) -> Float[Array, "b q h d"]:
    """Rotates the pairs (x[i], x[i + d / 2]) in the dtype of the table; the result is as `x`."""
    cos, sin = (part[:, :, None, :] for part in rope)
    x1, x2 = jnp.split(x.astype(cos.dtype), 2, axis=-1)
    return jnp.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], axis=-1).astype(x.dtype)


def _normalised(x: Array) -> Array:
    """`x` over its root mean square, float32."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + NORM_EPS)


class RMSNorm(nn.Module):
    """x / rms(x) * (1 + scale), computed in float32."""

    @nn.compact
    def __call__(self, x: Float[Array, "b q w"]) -> Float[Array, "b q w"]:
        """The normalised tokens in the dtype of `x`."""
        scale = self.param("scale", nn.initializers.zeros, (x.shape[-1],))
        return (_normalised(x) * (1.0 + scale)).astype(x.dtype)


class AdaptiveRMSNorm(nn.Module):
    """RMSNorm whose scale and shift, and the gate of what follows, come from a condition.

    The condition is first turned into a modulation, so that the modulations of many denoising
    steps can be computed at once.

    Attributes:
      width: features w.
    """

    width: int

    def setup(self):
        """Makes the projection of the condition."""
        self.dense = nn.Dense(3 * self.width, kernel_init=nn.initializers.zeros)

    def modulate(self, condition: Float[Array, "b c"]) -> Float[Array, "b m"]:
        """Scale, shift and gate next to each other, (b, 3 w) float32."""
        return self.dense(condition)

    def __call__(
        self, x: Float[Array, "b q w"], modulation: Float[Array, "#b m"]
    ) -> tuple[Float[Array, "b q w"], Float[Array, "#b 1 w"]]:
        """The modulated tokens and the gate, in the dtype of `x`."""
        scale, shift, gate = jnp.split(modulation[:, None, :], 3, axis=-1)
        out = _normalised(x) * (1.0 + scale) + shift
        return out.astype(x.dtype), gate.astype(x.dtype)


class GemmaLayer(nn.Module):
    """x + gate * attention(norm(x)), then x + gate * mlp(norm(x)); gates only where adaptive.

    Attributes:
      width, mlp, heads, kv_heads, head_dim: sizes.
      stream, layer: site of the attention, see `attn_jax.core.taps`.
      adaptive: whether the norms take a modulation.
      dtype: of the matrices and of the computation; norms are float32.
      logits_dtype: precision of the attention logits before mask and softmax.
    """

    width: int
    mlp: int
    heads: int
    kv_heads: int
    head_dim: int
    stream: str
    layer: int
    adaptive: bool = False
    dtype: Any = jnp.float32
    logits_dtype: Any = jnp.float32

    def setup(self):
        """Makes norms and projections."""

        def dense(features: int | tuple[int, int], axis: int | tuple[int, int] = -1):
            return nn.DenseGeneral(
                features, axis=axis, use_bias=False, dtype=self.dtype, param_dtype=self.dtype
            )

        def norm():
            return AdaptiveRMSNorm(self.width) if self.adaptive else RMSNorm()

        self.attention_norm = norm()
        self.query = dense((self.heads, self.head_dim))
        self.key = dense((self.kv_heads, self.head_dim))
        self.value = dense((self.kv_heads, self.head_dim))
        self.out = dense(self.width, (-2, -1))
        self.mlp_norm = norm()
        self.gate = dense(self.mlp)
        self.up = dense(self.mlp)
        self.down = dense(self.width)

    def modulate(self, condition: Float[Array, "b c"]) -> LayerModulation:
        """Modulations of the attention's and the MLP's norm."""
        return self.attention_norm.modulate(condition), self.mlp_norm.modulate(condition)

    def __call__(
        self,
        x: Float[Array, "b q w"],
        *,
        rope: Rope,
        mask: Bool[Array, "#b #h q k"],
        modulation: LayerModulation | None = None,
        past: KeyValue | None = None,
        stream: str | None = None,
    ) -> tuple[Float[Array, "b q w"], KeyValue]:
        """Updates `x`.

        Args:
          x: tokens.
          rope: rotation at their positions.
          mask: True where a query may look at a key; keys are those of `past`, then those of `x`.
          modulation: of the norms, where the layer is adaptive.
          past: keys and values in front of those of `x`.
          stream: under which the attention is sown, instead of the layer's own.

        Returns:
          The tokens, and the keys and values of `x` alone.
        """
        y, gate = self._norm(self.attention_norm, x, None if modulation is None else modulation[0])
        q, k = rotate(self.query(y), rope), rotate(self.key(y), rope)
        site = taps.Site(stream or self.stream, self.layer)
        own = (
            activation(self, site, "keys", k),
            activation(self, site, "values", self.value(y)),
        )
        k, v = own
        if past is not None:
            k = jnp.concatenate([past[0], k], axis=1)
            v = jnp.concatenate([past[1], v], axis=1)
        y = attend(
            self,
            q,
            k,
            v,
            site=site,
            mask=mask,
            logits_dtype=self.logits_dtype,
        )
        x = x + _gated(activation(self, site, "attention_out", self.out(y)), gate)
        y, gate = self._norm(self.mlp_norm, x, None if modulation is None else modulation[1])
        y = self.down(jax.nn.gelu(self.gate(y), approximate=True) * self.up(y))
        x = x + _gated(activation(self, site, "mlp_out", y), gate)
        return activation(self, site, "residual", x), own

    def _norm(self, norm: Any, x: Array, modulation: Array | None) -> tuple[Array, Array | None]:
        return norm(x, modulation) if self.adaptive else (norm(x), None)


def _gated(y: Array, gate: Array | None) -> Array:
    return y if gate is None else y * gate


class GemmaStack(nn.Module):
    """`depth` layers and a final norm.

    Attributes:
      depth: number of layers, named `layer_<i>`.
      The others are those of `GemmaLayer`.
    """

    width: int
    mlp: int
    depth: int
    heads: int
    kv_heads: int
    head_dim: int
    stream: str = "prefix"
    adaptive: bool = False
    remat: bool = False
    dtype: Any = jnp.float32
    logits_dtype: Any = jnp.float32

    def setup(self):
        """Makes the layers and the final norm."""
        cls: Any = nn.remat(GemmaLayer, methods=["__call__"]) if self.remat else GemmaLayer
        self.layer = [
            cls(
                self.width,
                self.mlp,
                self.heads,
                self.kv_heads,
                self.head_dim,
                self.stream,
                number,
                self.adaptive,
                self.dtype,
                self.logits_dtype,
            )
            for number in range(self.depth)
        ]
        self.final_norm: Any = AdaptiveRMSNorm(self.width) if self.adaptive else RMSNorm()

    def modulate(self, condition: Float[Array, "b c"]) -> tuple[tuple[LayerModulation, ...], Array]:
        """Modulations of every layer, and of the final norm (b, 3 w)."""
        layers = tuple(layer.modulate(condition) for layer in self.layer)
        return layers, self.final_norm.modulate(condition)

    def __call__(
        self,
        x: Float[Array, "b q w"],
        *,
        rope: Rope,
        mask: Bool[Array, "#b #h q k"],
        modulation: tuple[tuple[LayerModulation, ...], Array] | None = None,
        past: Sequence[KeyValue] | None = None,
        stream: str | None = None,
    ) -> tuple[Float[Array, "b q w"], tuple[KeyValue, ...]]:
        """Runs the stack; arguments as for a layer, `modulation` and `past` for every layer."""
        x = x.astype(self.dtype)
        caches = []
        for number, layer in enumerate(self.layer):
            x, cache = layer(
                x,
                rope=rope,
                mask=mask,
                modulation=None if modulation is None else modulation[0][number],
                past=None if past is None else past[number],
                stream=stream,
            )
            caches.append(cache)
        if modulation is None:
            return self.final_norm(x), tuple(caches)
        return self.final_norm(x, modulation[1])[0], tuple(caches)
