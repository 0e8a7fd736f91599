"""Pi0.5: SigLIP and PaliGemma read cameras and prompt, an action expert denoises an action chunk.

The prefix (camera tokens, then prompt tokens) runs once and leaves keys and values of every layer;
the suffix (one token per action) attends to them and to itself at every denoising step. Training
runs prefix and suffix once each, which is the joint pass over both: no prefix token ever looks at
the suffix. Attention is sown in the streams `vision`, `prefix` and `suffix`.

Axis names: b batch, c cameras, k prompt tokens, p prefix tokens, H action horizon, A action
dimensions inside the model, w expert width.

    velocity = Pi05(config).apply({"params": params}, inputs, x_t, time_embedding)     # training
    # sampling: attn_jax.models.pi05.sample
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from attn_jax.core.errors import ConfigError, InputError
from attn_jax.core.typing import AnyArray, Array, Bool, Float, Int, Params, PRNGKey
from attn_jax.models.pi05.config import Pi05Config
from attn_jax.nn.gemma import GemmaStack, KeyValue, rope_table
from attn_jax.nn.siglip import SiglipTower

# What modulates every norm of the expert at one time, see `GemmaStack.modulate`.
type Modulation = Any


@flax.struct.dataclass
class Pi05Inputs:
    """What one prediction sees.

    The number of cameras and prompt tokens is free. A dummy camera, and prompt padding, may be left
    out or be there with a False mask: the actions are the same to rounding.

    Fields are arrays, or `jax.ShapeDtypeStruct`s for tracing; `check_inputs` checks real ones.

    Attributes:
      images: (b, c, side, side, 3) float32 in [-1, 1], cameras in token order
        (`Pi05Config.camera_order`); a dummy is -1 everywhere.
      image_mask: (b, c), False for dummies.
      tokens: (b, k) int32 ids, padding at the right.
      token_mask: (b, k), False on padding.
    """

    images: Any
    image_mask: Any
    tokens: Any
    token_mask: Any


@flax.struct.dataclass
class PrefixCache:
    """What the suffix needs of the prefix.

    Attributes:
      layers: keys after rotation and values of every layer, each (b, p, g, d).
      valid: (b, p), False for dummy cameras and padding.
    """

    layers: tuple[KeyValue, ...]
    valid: Array


def check_inputs(config: Pi05Config, inputs: Pi05Inputs) -> None:
    """Checks inputs on the host, where ids and pixels can be looked at.

    Raises:
      InputError: sizes that do not fit the model or each other, ids outside the vocabulary, pixels
        outside [-1, 1], or a prompt without a token.
    """
    sizes = config.architecture
    side = sizes.image_size
    shape = np.shape(inputs.images)
    if len(shape) != 5 or shape[2:] != (side, side, 3) or not shape[1]:
        raise InputError(
            f"images have shape {shape}, the model needs (b, cameras, {side}, {side}, 3)",
            fix="Resize with padding to the model's image size",
        )
    batch = shape[0]
    for name, expected in (
        ("image_mask", shape[:2]),
        ("tokens", (batch, *np.shape(inputs.tokens)[1:2])),
        ("token_mask", np.shape(inputs.tokens)),
    ):
        if np.shape(getattr(inputs, name)) != expected:
            raise InputError(
                f"shape {np.shape(getattr(inputs, name))}, expected {expected}", where=name
            )
    tokens, mask = np.asarray(inputs.tokens), np.asarray(inputs.token_mask)
    if not np.all(mask.any(axis=1)):
        raise InputError("a prompt has no valid token", where="token_mask")
    outside = mask & ((tokens < 0) | (tokens >= sizes.vocab))
    if outside.any():
        raise InputError(
            f"id {int(tokens[outside][0])} is outside the vocabulary of {sizes.vocab}",
            where="tokens",
            fix="Use the tokenizer that belongs to the checkpoint",
        )
    images = np.asarray(inputs.images)
    if images.size and not (images.min() >= -1.0 and images.max() <= 1.0):
        raise InputError("pixels outside [-1, 1] or not finite", where="images")


class Pi05(nn.Module):
    """The network.

    Attributes:
      config: sizes and precision.
      remat: recompute activations in the backward pass.
    """

    config: Pi05Config
    remat: bool = False

    def setup(self):
        """Makes the submodules; their names are the top level of the parameter tree."""
        c, sizes = self.config, self.config.architecture
        self.vision = SiglipTower(
            sizes.vision_width,
            sizes.vision_depth,
            sizes.vision_heads,
            sizes.vision_mlp,
            sizes.grid,
            sizes.patch_size,
            remat=self.remat,
            dtype=c.vision_dtype,
        )
        self.projector = nn.Dense(sizes.width, dtype=c.vision_dtype)
        self.embedding = self.param(
            "embedding", nn.initializers.normal(0.02), (sizes.vocab, sizes.width), c.dtype
        )

        def stack(width: int, mlp: int, stream: str):
            return GemmaStack(
                width,
                mlp,
                sizes.depth,
                sizes.heads,
                sizes.kv_heads,
                sizes.head_dim,
                stream=stream,
                adaptive=stream == "suffix",
                remat=self.remat,
                dtype=c.dtype,
                logits_dtype=c.logits_dtype,
            )

        self.backbone = stack(sizes.width, sizes.mlp, "prefix")
        self.expert = stack(sizes.expert_width, sizes.expert_mlp, "suffix")
        self.action_in = nn.Dense(sizes.expert_width)
        self.action_out = nn.Dense(c.max_action_dim)
        self.time_in = nn.Dense(sizes.expert_width)
        self.time_out = nn.Dense(sizes.expert_width)

    def embed_images(self, images: Float[AnyArray, "b c side side 3"]) -> Float[Array, "b n e"]:
        """Tokens of all cameras one after the other, (b, c * tokens, width)."""
        batch, cameras, *rest = images.shape
        features = self.projector(self.vision(jnp.reshape(images, (batch * cameras, *rest))))
        return features.reshape(batch, cameras * features.shape[1], features.shape[2])

    def embed_prompt(self, tokens: Int[AnyArray, "b k"]) -> Float[Array, "b k e"]:
        """Scaled token embeddings."""
        # A padding id may be anything; clipping keeps it from becoming NaN.
        rows = jnp.take(self.embedding, jnp.asarray(tokens), axis=0, mode="clip")
        scale = jnp.asarray(self.config.architecture.width**0.5, rows.dtype)
        return rows * scale

    def embed(self, inputs: Pi05Inputs) -> tuple[Float[Array, "b p e"], Bool[Array, "b p"]]:
        """The tokens of the prefix before the first layer, and which of them are valid."""
        patches = self.config.architecture.image_tokens
        images = self.embed_images(inputs.images)
        prompt = self.embed_prompt(inputs.tokens)
        x = jnp.concatenate([images, prompt.astype(images.dtype)], axis=1)
        valid = jnp.concatenate(
            [jnp.repeat(jnp.asarray(inputs.image_mask), patches, axis=1), inputs.token_mask], axis=1
        )
        return x, valid

    def read(
        self, x: Float[Array, "b p e"], valid: Bool[Array, "b p"]
    ) -> tuple[PrefixCache, Float[Array, "b p e"]]:
        """Runs the language model over embedded tokens; see `encode`."""
        positions = jnp.cumsum(valid, axis=1, dtype=jnp.int32) - 1
        mask = valid[:, None, :, None] & valid[:, None, None, :]
        x, layers = self.backbone(x, rope=self._rope(positions), mask=mask)
        return PrefixCache(layers, valid), x

    def encode(self, inputs: Pi05Inputs) -> tuple[PrefixCache, Float[Array, "b p e"]]:
        """Runs the prefix.

        Returns:
          The cache, and the final hidden states (b, p, width). Where the latter are not used, a
          compiled program leaves out what only they need: in the last layer all but keys and
          values, and the final norm.
        """
        return self.read(*self.embed(inputs))

    def read_text(
        self,
        tokens: Int[Array, "b n"],
        positions: Int[Array, "b n"],
        mask: Bool[Array, "b 1 n k"],
        past: tuple[KeyValue, ...],
    ) -> tuple[Float[Array, "b n e"], tuple[KeyValue, ...]]:
        """Runs the language model over text that follows `past`; sown in the stream `text`.

        Returns:
          The final hidden states, and keys and values of every layer.
        """
        rope = self._rope(positions)
        x = self.embed_prompt(tokens)
        return self.backbone(x, rope=rope, mask=mask, past=past, stream="text")

    def modulate(self, time_embedding: Float[AnyArray, "n w"]) -> Modulation:
        """What the expert's norms do at n times; leaves are (n, 3 w) float32."""
        condition = self.time_in(jnp.asarray(time_embedding, jnp.float32))
        return self.expert.modulate(nn.silu(self.time_out(nn.silu(condition))))

    def velocity(
        self, cache: PrefixCache, x_t: Float[Array, "b H A"], modulation: Modulation
    ) -> Float[Array, "b H A"]:
        """Velocity at `x_t`, float32.

        Args:
          cache: from `encode`.
          x_t: noisy actions, float32.
          modulation: from `modulate`, with leaves of one row for all samples or one for each.
        """
        batch, horizon, _ = x_t.shape
        start = jnp.sum(cache.valid, axis=1, dtype=jnp.int32)[:, None]
        positions = start + jnp.arange(horizon, dtype=jnp.int32)
        keys = jnp.concatenate([cache.valid, jnp.ones((batch, horizon), bool)], axis=1)
        mask = jnp.broadcast_to(keys[:, None, None, :], (batch, 1, horizon, keys.shape[1]))
        x, _ = self.expert(
            self.action_in(x_t),
            rope=self._rope(positions),
            mask=mask,
            modulation=modulation,
            past=cache.layers,
        )
        return self.action_out(x.astype(jnp.float32))

    def __call__(
        self,
        inputs: Pi05Inputs,
        x_t: Float[Array, "b H A"],
        time_embedding: Float[AnyArray, "b w"],
    ) -> Float[Array, "b H A"]:
        """The joint pass of training: velocity (b, H, A) float32, one time per sample."""
        if x_t.shape[-1] != self.config.max_action_dim:
            raise ConfigError(
                f"actions have {x_t.shape[-1]} dimensions, the model {self.config.max_action_dim}",
                fix="Pad actions with zeros to max_action_dim",
            )
        cache, _ = self.encode(inputs)
        return self.velocity(cache, x_t, self.modulate(time_embedding))

    def _rope(self, positions: Array) -> tuple[Array, Array]:
        c = self.config
        dtype = jnp.bfloat16 if c.precision == "bfloat16_lerobot" else jnp.float32
        head_dim = c.architecture.head_dim
        return rope_table(positions, head_dim, rounded=c.rounded_rope, dtype=dtype)


def blank_inputs(config: Pi05Config, batch: int = 1) -> Pi05Inputs:
    """Black cameras and a prompt of zeros with every mask True, for tracing shapes."""
    side, cameras = config.architecture.image_size, len(config.cameras)
    return Pi05Inputs(
        images=jnp.zeros((batch, cameras, side, side, 3)),
        image_mask=jnp.ones((batch, cameras), bool),
        tokens=jnp.zeros((batch, config.prompt_length), jnp.int32),
        token_mask=jnp.ones((batch, config.prompt_length), bool),
    )


def init_params(config: Pi05Config, rng: PRNGKey) -> Params:
    """Freshly initialised parameters."""
    return Pi05(config).init(rng, *_example(config))["params"]


def param_shapes(config: Pi05Config) -> Any:
    """The parameter tree as `jax.ShapeDtypeStruct`s; allocates nothing."""
    return jax.eval_shape(lambda rng: init_params(config, rng), jax.random.key(0))


def _example(config: Pi05Config) -> tuple[Pi05Inputs, Array, Array]:
    x_t = jnp.zeros((1, config.chunk_size, config.max_action_dim))
    return blank_inputs(config), x_t, jnp.zeros((1, config.architecture.expert_width))
