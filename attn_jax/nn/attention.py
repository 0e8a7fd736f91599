"""The one attention layer: softmax(q k^T) v in float32, which can be watched and edited.

Axis names: b batch, q query, k key, h query head, g key/value head, d head features. Grouped-query
and multi-query attention are h > g. Every model family uses `attend`; most use it through
`Attention`.

    Attention(num_heads=4, head_dim=64, stream="encoder", layer=0)(x)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from attn_jax.core import taps
from attn_jax.core.typing import Array, Bool, Float
from attn_jax.nn import fast_attention

MASKED_LOGIT = taps.MASKED_LOGIT

Rotary = Callable[[Array, Array], Array]


def _grouped_logits(q: Array, k: Array, scale: float, dtype: Any = None) -> Array:
    batch, q_len, heads, dim = q.shape
    groups = k.shape[2]
    q = q * jnp.asarray(scale, q.dtype)
    if heads == groups:
        return jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=dtype)
    q = q.reshape(batch, q_len, groups, heads // groups, dim)
    logits = jnp.einsum("bqgrd,bkgd->bgrqk", q, k, preferred_element_type=dtype)
    return logits.reshape(batch, heads, q_len, k.shape[1])


def _rounded(x: Array, dtype: Any) -> Array:
    """`x` as float32 with the values that `dtype` can hold; no compiler may skip the rounding."""
    info = jnp.finfo(dtype)
    return jax.lax.reduce_precision(x.astype(jnp.float32), info.nexp, info.nmant)


def _grouped_values(probs: Array, v: Array) -> Array:
    batch, heads, q_len, k_len = probs.shape
    groups = v.shape[2]
    if heads == groups:
        return jnp.einsum("bhqk,bkhd->bqhd", probs, v)
    probs = probs.reshape(batch, groups, heads // groups, q_len, k_len)
    return jnp.einsum("bgrqk,bkgd->bqgrd", probs, v).reshape(batch, q_len, heads, v.shape[-1])


def attend(
    module: nn.Module,
    q: Float[Array, "b q h d"],
    k: Float[Array, "b k g d"],
    v: Float[Array, "b k g d"],
    *,
    site: taps.Site,
    mask: Bool[Array, "#b #h #q k"] | None = None,
    scale: float | None = None,
    logits_dtype: Any = None,
) -> Float[Array, "b q h d"]:
    """Attention whose probabilities `module` sows when the caller opened the collection `attn`.

    Logits and softmax are float32 whatever the inputs are; the product with the values is in the
    dtype of `v`. A query row without a valid key attends uniformly. With the collection closed and
    no tap that edits this site, the program contains no trace of the probe.

    Args:
      module: the Linen module that calls; its path names the sown array `probs` (b, h, q, k)
        float32.
      q: queries.
      k: keys; h is a multiple of g.
      v: values.
      site: stream and layer, shown to the tap.
      mask: True where a query may look at a key.
      scale: factor on the logits; d ** -0.5 when None.
      logits_dtype: precision of the product of queries and keys before mask and softmax, which are
        float32; a narrower one than float32 is rounded to exactly. None leaves it to the inputs.
    """
    factor: float = q.shape[-1] ** -0.5 if scale is None else scale
    tap = taps.current_tap()
    editor = tap if tap is not None and tap.edits(site) else None

    def keep(probs: Array) -> Any:
        return probs if tap is None else tap.capture(site, probs)

    watched = module.is_mutable_collection(taps.COLLECTION) and not module.is_initializing()
    if watched:
        # A layer of which nothing is kept stays on the fast path.
        batch, q_len, heads, _ = q.shape
        probs_like = jax.ShapeDtypeStruct((batch, heads, q_len, k.shape[1]), jnp.float32)
        watched = jax.eval_shape(keep, probs_like) is not None
    plain = mask is None and logits_dtype is None and q.shape[2] == k.shape[2]
    if editor is None and plain:
        if not watched:
            return fast_attention.attend(q, k, v, factor)
        out, kept = fast_attention.attend_with_probs(q, k, v, factor, keep)
        _sow(module, kept)
        return out
    logits = _grouped_logits(q, k, factor, logits_dtype)
    if logits_dtype is None or logits_dtype == jnp.float32:
        logits = logits.astype(jnp.float32)
    else:
        logits = _rounded(logits, logits_dtype)
    if mask is not None:
        logits = jnp.where(mask, logits, MASKED_LOGIT)
    if editor is not None:
        logits = editor.edit_logits(site, logits)
    probs = jax.nn.softmax(logits, axis=-1)
    if editor is not None:
        probs = editor.edit_probs(site, probs)
    if watched:
        _sow(module, keep(probs))
    return _grouped_values(probs.astype(v.dtype), v)


def activation(module: nn.Module, site: taps.Site, name: str, value: Array) -> Array:
    """Shows an activation (b, n, ...) of a layer to the caller's editor, which may replace it.

    Layers call it for `attention_out` and `mlp_out` (what is added to the residual stream, before
    any gate), `residual` (after the layer), and, where a stream is a cache of keys and values,
    `keys` and `values`. Without an editor it does nothing.

    Args:
      module: the Linen module that calls.
      site: stream and layer.
      name: what it is.
      value: the activation; n are the tokens that the layer updates.
    """
    tap = taps.current_tap()
    if not isinstance(tap, taps.Editor):
        return value
    value = tap.activation(site, name, value)
    if module.is_mutable_collection(taps.COLLECTION) and not module.is_initializing():
        kept = tap.keep_activation(site, name, value)
        if kept is not None:
            _sow(module, kept, taps.ACTIVATION + name)
    return value


def _sow(module: nn.Module, kept: Any, name: str = taps.PROBS) -> None:
    module.sow(
        taps.COLLECTION,
        name,
        kept,
        reduce_fn=lambda _, new: new,
        init_fn=lambda: None,
    )


class Attention(nn.Module):
    """Multi-head attention with its projections: self- or cross-, MHA, GQA or MQA.

    Attributes:
      num_heads: query heads h.
      head_dim: features per head d.
      num_kv_heads: key/value heads g; None means h.
      out_features: width of the output; None means the width of the queries.
      qkv_bias, out_bias: whether the projections have biases.
      stream, layer: the site under which probabilities are sown; layer None inside `nn.scan`.
      rotary: (x (b, n, h, d), positions (b, n)) -> x, applied to queries and keys.
      dtype: computation dtype; parameters stay float32.
    """

    num_heads: int
    head_dim: int
    num_kv_heads: int | None = None
    out_features: int | None = None
    qkv_bias: bool = True
    out_bias: bool = True
    stream: str = "attention"
    layer: int | None = None
    rotary: Rotary | None = None
    kernel_init: Any = nn.initializers.xavier_uniform()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b q d"],
        context: Float[Array, "b k e"] | None = None,
        *,
        mask: Bool[Array, "#b #h #q k"] | None = None,
        positions: Array | None = None,
        context_positions: Array | None = None,
    ) -> Float[Array, "b q f"]:
        """Attends from `x` to `context` (default: to itself)."""
        source = x if context is None else context
        kv_heads = self.num_kv_heads or self.num_heads
        if self.num_heads % kv_heads:
            raise ValueError(f"{self.num_heads} query heads are no multiple of {kv_heads}")

        def project(name: str, heads: int):
            return nn.DenseGeneral(
                (heads, self.head_dim),
                use_bias=self.qkv_bias,
                kernel_init=self.kernel_init,
                dtype=self.dtype,
                name=name,
            )

        q = project("query", self.num_heads)(x)
        k = project("key", kv_heads)(source)
        v = project("value", kv_heads)(source)
        if self.rotary is not None:
            key_positions = positions if context is None else context_positions
            if positions is None or key_positions is None:
                raise ValueError("rotary attention needs the positions of queries and keys")
            q, k = self.rotary(q, positions), self.rotary(k, key_positions)
        out = attend(self, q, k, v, site=taps.Site(self.stream, self.layer), mask=mask)
        return nn.DenseGeneral(
            self.out_features or x.shape[-1],
            axis=(-2, -1),
            use_bias=self.out_bias,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            name="out",
        )(out)
