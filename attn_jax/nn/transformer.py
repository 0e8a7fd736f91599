"""Pre-LayerNorm transformer blocks and stacks.

Axis names: b batch, q query tokens, k key tokens, d features. A stack may update all tokens, or
only `queries` while a `context` stays as it is.

    Transformer(depth=5, num_heads=4, head_dim=64, mlp_dim=1024, stream="encoder")(x)
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from attn_jax.core import taps
from attn_jax.core.typing import Array, Bool, Float
from attn_jax.nn import fast_mlp
from attn_jax.nn.attention import Attention, Rotary, activation


class Mlp(nn.Module):
    """Dense, GELU, Dense.

    Attributes:
      hidden: width of the hidden layer.
      exact_gelu: the erf form instead of the tanh approximation.
    """

    hidden: int
    exact_gelu: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b q d"]) -> Float[Array, "b q d"]:
        """Applies the layer to every token."""

        def dense(features: int, name: str):
            return nn.Dense(
                features, dtype=self.dtype, dot_general=fast_mlp.dense_dot_general, name=name
            )

        y = dense(self.hidden, "fc1")(x)
        y = fast_mlp.gelu(y) if self.exact_gelu else jax.nn.gelu(y, approximate=True)
        return dense(x.shape[-1], "fc2")(y)


class Block(nn.Module):
    """x + Attention(LN(x)), then x + MLP(LN(x)).

    Attributes:
      num_heads, head_dim, mlp_dim: sizes.
      norm_eps: epsilon of both LayerNorms.
      stream, layer: site of the attention, see `attn_jax.core.taps`.
    """

    num_heads: int
    head_dim: int
    mlp_dim: int
    norm_eps: float = 1e-6
    exact_gelu: bool = True
    stream: str = "encoder"
    layer: int | None = None
    rotary: Rotary | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b q d"],
        context: Float[Array, "b k d"] | None = None,
        *,
        mask: Bool[Array, "#b #h #q k"] | None = None,
        positions: Array | None = None,
        context_positions: Array | None = None,
    ) -> Float[Array, "b q d"]:
        """Updates `x`; queries come from `x`, keys from `context` (default: `x`)."""
        norm1 = nn.LayerNorm(epsilon=self.norm_eps, dtype=self.dtype, name="norm1")
        y = Attention(
            self.num_heads,
            self.head_dim,
            stream=self.stream,
            layer=self.layer,
            rotary=self.rotary,
            dtype=self.dtype,
            name="attention",
        )(
            norm1(x),
            None if context is None else norm1(context),
            mask=mask,
            positions=positions,
            context_positions=context_positions,
        )
        site = taps.Site(self.stream, self.layer)
        x = x + activation(self, site, "attention_out", y)
        y = nn.LayerNorm(epsilon=self.norm_eps, dtype=self.dtype, name="norm2")(x)
        y = Mlp(self.mlp_dim, self.exact_gelu, self.dtype, name="mlp")(y)
        return activation(self, site, "residual", x + activation(self, site, "mlp_out", y))


class Transformer(nn.Module):
    """A stack of blocks.

    Attributes:
      depth: number of blocks.
      scan: one traced block with parameters stacked on axis 0 (quick to compile; every layer's map
        leaves the scan before layers are selected) instead of `depth` blocks named `block_<i>`.
      remat: recompute activations in the backward pass.
      The others are those of `Block`.
    """

    depth: int
    num_heads: int
    head_dim: int
    mlp_dim: int
    norm_eps: float = 1e-6
    exact_gelu: bool = True
    stream: str = "encoder"
    rotary: Rotary | None = None
    scan: bool = False
    remat: bool = False
    dtype: Any = jnp.float32

    def _block(self, layer: int | None, name: str, cls: Any = None) -> Block:
        return (cls or (nn.remat(Block) if self.remat else Block))(
            self.num_heads,
            self.head_dim,
            self.mlp_dim,
            self.norm_eps,
            self.exact_gelu,
            self.stream,
            layer,
            self.rotary,
            self.dtype,
            name=name,
        )

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b q d"],
        *,
        mask: Bool[Array, "#b #h #q k"] | None = None,
        positions: Array | None = None,
        last_rows: Array | None = None,
    ) -> Float[Array, "b r d"]:
        """Updates every token of `x`.

        Args:
          x: tokens.
          mask: True where a query may look at a key.
          positions: (b, q, 2) for `rotary`.
          last_rows: (b, r) or (r,) tokens whose output is wanted; the last block then runs only for
            them, which changes no value.
        """
        if self.scan:
            if last_rows is not None:
                raise ValueError("last_rows needs a stack without scan")

            def body(block: Block, carry: Array, number: Any):
                with taps.at_layer(number):
                    return block(carry, mask=mask, positions=positions), None

            stack = nn.scan(
                nn.remat(body) if self.remat else body,
                variable_axes={"params": 0, taps.COLLECTION: 0},
                split_rngs={"params": True},
                length=self.depth,
            )
            numbers = taps.layer_numbers(self.depth)
            return stack(self._block(None, "blocks", Block), x, numbers)[0]
        for layer in range(self.depth):
            block = self._block(layer, f"block_{layer}")
            if last_rows is None or layer < self.depth - 1:
                x = block(x, mask=mask, positions=positions)
                continue
            queries = take_tokens(x, last_rows)
            query_positions = None if positions is None else take_tokens(positions, last_rows)
            x = block(
                queries,
                x,
                mask=mask,
                positions=query_positions,
                context_positions=positions,
            )
        return x


class QueryTransformer(Transformer):
    """The same parameters as `Transformer`, but only query tokens are updated.

    Keys of every block are the frozen context followed by the current queries.
    """

    @nn.compact
    def __call__(
        self,
        queries: Float[Array, "b q d"],
        context: Float[Array, "b c d"],
        *,
        mask: Bool[Array, "#b #h #q k"] | None = None,
        positions: Array | None = None,
        context_positions: Array | None = None,
    ) -> Float[Array, "b q d"]:
        """Updates `queries` (b, q, d); `mask` covers keys in the order context, queries."""
        if self.scan:
            raise ValueError("QueryTransformer has no scan")
        key_positions = None
        if positions is not None and context_positions is not None:
            key_positions = jnp.concatenate([context_positions, positions], axis=1)
        for layer in range(self.depth):
            keys = jnp.concatenate([context, queries], axis=1)
            queries = self._block(layer, f"block_{layer}")(
                queries,
                keys,
                mask=mask,
                positions=positions,
                context_positions=key_positions,
            )
        return queries


def take_tokens(x: Array, tokens: Array) -> Array:
    """Tokens of `x` (b, n, ...) at `tokens`, (r,) for all samples alike or (b, r) per sample."""
    if tokens.ndim == 1:
        return x[:, tokens]
    return jnp.take_along_axis(x, tokens.reshape(*tokens.shape, *(1,) * (x.ndim - 2)), axis=1)
