"""The masked autoencoder that paints the missing frame of a canvas.

Axis names: b batch, n patches of the canvas, v visible patches, m masked patches, d features, p
values of a patch. Token 0 is CLS, token 1 + i is patch i in raster order.

    config = CanvasConfig(CanvasGeometry((64, 64)))
    model = CanvasModel(config)
    params = model.init(rng, canvas)["params"]                  # canvas (b, h, w, 3) float32 in [0,
    1] patches = model.apply({"params": params}, canvas)           # (b, m, p), target patches in
    raster order
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import flax.linen as nn
import flax.struct
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from attn_jax.core.canvas import CanvasGeometry, patchify
from attn_jax.core.errors import ConfigError
from attn_jax.core.layout import TokenLayout
from attn_jax.core.typing import Array, Bool, Float, Int
from attn_jax.nn import positions as pos
from attn_jax.nn.transformer import QueryTransformer, Transformer, take_tokens

DECODES = ("full", "last_layer", "slot")
POSITIONS = ("rotary", "grid", "compat", "learned")
ARCHITECTURES = ("encoder_decoder", "decoder_only")


@dataclasses.dataclass(frozen=True)
class CanvasConfig:
    """Sizes and choices of a canvas model; everything that changes the function it computes.

    Attributes:
      geometry: canvas sizes.
      architecture: `encoder_decoder`, or `decoder_only` (one stack over visible and mask tokens).
      dim, encoder_depth: width and blocks of the encoder.
      decoder_dim, decoder_depth: width and blocks of the decoder; `decoder_only` uses these alone.
      head_dim: features per attention head; the number of heads follows from the width.
      mlp_ratio: hidden width of the MLP over the width.
      positions: `rotary` (row and column in the frame, and slot; in every attention layer), `grid`
        (integer sine/cosine over the canvas), `compat` (the same squeezed to [0, 1]) or `learned`.
      decode: `full`; `last_layer` (same function, the last block runs for masked tokens only);
        `slot` (another function: masked tokens query a context that is never updated).
      exact_gelu: erf GELU as in the original, or the quicker tanh form.
    """

    geometry: CanvasGeometry
    architecture: str = "encoder_decoder"
    dim: int = 256
    encoder_depth: int = 5
    decoder_dim: int = 256
    decoder_depth: int = 5
    head_dim: int = 64
    mlp_ratio: float = 4.0
    positions: str = "rotary"
    decode: str = "last_layer"
    exact_gelu: bool = True

    def __post_init__(self):
        for field, allowed in (
            ("architecture", ARCHITECTURES),
            ("positions", POSITIONS),
            ("decode", DECODES),
        ):
            if getattr(self, field) not in allowed:
                raise ConfigError(
                    f"canvas model has no {field} {getattr(self, field)!r}",
                    fix=f"Use one of {', '.join(allowed)}",
                )
        for field in ("dim", "encoder_depth", "decoder_dim", "decoder_depth", "head_dim"):
            if getattr(self, field) < 1:
                raise ConfigError(f"{field} is {getattr(self, field)}", fix="It must be at least 1")
        if not 1 <= self.dim * self.mlp_ratio < math.inf:
            raise ConfigError(
                f"mlp_ratio is {self.mlp_ratio}", fix="It must be positive and finite"
            )
        for field in ("dim", "decoder_dim"):
            if getattr(self, field) % self.head_dim or getattr(self, field) % 4:
                raise ConfigError(
                    f"{field} {getattr(self, field)} is not a multiple of 4 and of head_dim"
                    f" {self.head_dim}"
                )
        if self.architecture == "decoder_only" and self.decode == "slot":
            raise ConfigError("decode 'slot' needs an encoder whose output is the context")

    def to_json(self) -> dict[str, Any]:
        """A JSON-compatible dict."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> CanvasConfig:
        """Inverse of `to_json`; raises `ConfigError` on unknown or missing fields."""
        try:
            geometry = CanvasGeometry(
                **{**data["geometry"], "frame_size": tuple(data["geometry"]["frame_size"])}
            )
            return cls(**{**data, "geometry": geometry})
        except (KeyError, TypeError) as error:
            raise ConfigError(f"malformed canvas model configuration: {error}") from error


@flax.struct.dataclass
class MaskPlan:
    """Which patches the model sees and which it paints, per sample, padded to fixed sizes.

    Attributes:
      visible: (b, v) patches given to the encoder.
      visible_valid: (b, v) False on padding; padding is never attended to.
      masked: (b, m) patches to paint.
      masked_valid: (b, m) False on padding.

    Padding holds any patch number that exists; without it no patch of a sample is named twice, so
    that no patch is painted whose content is seen.
    """

    visible: Int[Array, "b v"]
    visible_valid: Bool[Array, "b v"]
    masked: Int[Array, "b m"]
    masked_valid: Bool[Array, "b m"]

    def check(self, batch: int, num_patches: int, *, complete: bool = False) -> None:
        """Refuses a plan that does not fit; looks at values only where they are known.

        Inside jit the arguments of the compiled function have shapes and dtypes but no values.

        Args:
          batch: number of canvases.
          num_patches: patches of a canvas.
          complete: whether every patch must be named exactly once, padding included.

        Raises:
          ConfigError: with the field, and the sample and patch where there is one.
        """
        for name in ("visible", "masked"):
            index, valid = getattr(self, name), getattr(self, f"{name}_valid")
            kinds = ((name, index, "iu"), (f"{name}_valid", valid, "b"))
            for field, value, kind in kinds:
                if value.dtype.kind not in kind:
                    wanted = "bool" if kind == "b" else "whole numbers"
                    raise ConfigError(
                        f"holds {value.dtype} instead of {wanted}", where=_plan(field)
                    )
                if value.ndim != 2 or value.shape[0] != batch:
                    raise ConfigError(
                        f"has shape {value.shape} for {batch} canvases, expected ({batch}, count)",
                        where=_plan(field),
                    )
            if index.shape != valid.shape:
                raise ConfigError(
                    f"has shape {valid.shape}, {name} has {index.shape}",
                    where=_plan(f"{name}_valid"),
                )
        if not self.masked.shape[1]:
            raise ConfigError("names no patch to paint", where=_plan("masked"))
        named = self.visible.shape[1] + self.masked.shape[1]
        if complete and named != num_patches:
            raise ConfigError(
                f"names {named} of {num_patches} patches, padding included",
                where="mask plan",
                fix="The prediction of all patches needs each of them once",
            )
        fields = (self.visible, self.masked, self.visible_valid, self.masked_valid)
        if any(isinstance(field, Tracer) for field in fields):
            return
        for name, index in (("visible", self.visible), ("masked", self.masked)):
            index = np.asarray(index)
            wrong = np.argwhere((index < 0) | (index >= num_patches))
            if len(wrong):
                sample, place = wrong[0]
                raise ConfigError(
                    f"sample {sample} names patch {index[sample, place]}, the canvas has patches"
                    f" 0 to {num_patches - 1}",
                    where=_plan(name),
                )
        counted = np.concatenate([np.asarray(f) for f in fields[2:]], axis=1) | complete
        patches = np.concatenate([np.asarray(f) for f in fields[:2]], axis=1)
        for sample, row in enumerate(patches):
            times = np.bincount(row[counted[sample]], minlength=num_patches)
            if times.max() > 1:
                raise ConfigError(
                    f"sample {sample} names patch {times.argmax()} {times.max()} times",
                    where="mask plan",
                    fix="Name every patch once, as visible or as masked; padding is marked invalid",
                )


def _plan(field: str) -> str:
    return f"mask plan, field {field!r}"


class CanvasModel(nn.Module):
    """Encoder over visible patches, decoder over all tokens, head over the masked ones."""

    config: CanvasConfig
    dtype: Any = jnp.float32

    def setup(self):
        """Declares parameters under fixed names."""
        c = self.config
        common = {"exact_gelu": c.exact_gelu, "dtype": self.dtype}
        rotary = pos.axial_rotary if c.positions == "rotary" else None
        self.mask_token = self.param("mask_token", nn.initializers.zeros, (c.decoder_dim,))
        if c.architecture == "encoder_decoder":
            self.cls_token = self.param("cls_token", nn.initializers.zeros, (c.dim,))
            self.patch_embed = nn.Dense(c.dim, dtype=self.dtype)
            self.encoder = Transformer(
                c.encoder_depth,
                c.dim // c.head_dim,
                c.head_dim,
                int(c.dim * c.mlp_ratio),
                stream="encoder",
                rotary=rotary,
                **common,
            )
            self.encoder_norm = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype)
            self.decoder_embed = nn.Dense(c.decoder_dim, dtype=self.dtype)
            if c.positions == "learned":
                self.encoder_positions = self._learned("encoder_positions", c.dim)
        else:
            self.cls_token = self.param("cls_token", nn.initializers.zeros, (c.decoder_dim,))
            self.patch_embed = nn.Dense(c.decoder_dim, dtype=self.dtype)
        if c.positions == "learned":
            self.decoder_positions = self._learned("decoder_positions", c.decoder_dim)
        decoder = QueryTransformer if c.decode == "slot" else Transformer
        self.decoder: Any = decoder(
            c.decoder_depth,
            c.decoder_dim // c.head_dim,
            c.head_dim,
            int(c.decoder_dim * c.mlp_ratio),
            stream="decoder",
            rotary=rotary,
            **common,
        )
        self.decoder_norm = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype)
        self.head = nn.Dense(c.geometry.patch_dim, dtype=self.dtype)

    def _learned(self, name: str, dim: int) -> Array:
        shape = (self.config.geometry.num_patches, dim)
        return self.param(name, nn.initializers.normal(0.02), shape)

    def _table(self, which: str, dim: int) -> Array | None:
        """Additive position table (n, dim) of the patches, or None for rotary positions."""
        kind = self.config.positions
        if kind == "rotary":
            return None
        if kind == "learned":
            table = self.encoder_positions if which == "encoder" else self.decoder_positions
        else:
            table = pos.sincos_grid(self.config.geometry.grid, dim, normalised=kind == "compat")
        return jnp.asarray(table, self.dtype)

    def _rotary_positions(self, tokens: Array, batch: int) -> Array | None:
        """(b, tokens, 3) row, column and slot of tokens (0 is CLS), for rotary positions.

        Rows and columns count patches from the corner of the token's own frame, so that the same
        place in two frames differs in the slot alone. A stripe continues the columns of the frame
        before it.
        """
        if self.config.positions != "rotary":
            return None
        geometry = self.config.geometry
        edges = np.arange(geometry.grid[1]) * geometry.patch
        step = geometry.frame_size[1] + geometry.separator
        # The slot that holds the middle of the patch.
        slots = np.minimum((edges + geometry.patch // 2) // step, geometry.history - 1)
        columns = (edges - slots * step) / geometry.patch
        rows = np.arange(geometry.grid[0])
        table = np.stack(
            [
                np.repeat(rows, geometry.grid[1]),
                np.tile(columns, geometry.grid[0]),
                np.tile(slots, geometry.grid[0]),
            ],
            axis=-1,
        )
        table = np.concatenate([np.zeros((1, 3)), table]).astype(np.float32)
        where = jnp.asarray(table)[tokens]
        return jnp.broadcast_to(where, (batch, *where.shape[-2:]))

    def __call__(
        self,
        canvas: Float[Array, "b h w 3"],
        plan: MaskPlan | None = None,
        *,
        all_patches: bool = False,
    ) -> Float[Array, "b m p"]:
        """Paints the masked patches.

        Args:
          canvas: RGB in [0, 1]; what the masked patches hold has no influence.
          plan: which patches are masked; None masks exactly the target frame.
          all_patches: return the prediction of every patch (b, n, p); decode `full` only.

        Returns:
          (b, m, p) unclamped values of the masked patches, in the order of the plan.

        Raises:
          ConfigError: a canvas or a plan that does not fit, see `MaskPlan.check`.
        """
        c = self.config
        if all_patches and c.decode != "full":
            raise ConfigError("all_patches needs decode 'full'")
        expected = (*c.geometry.canvas_size, 3)
        if canvas.shape[1:] != expected:
            raise ConfigError(f"canvas has shape {canvas.shape[1:]}, this model needs {expected}")
        patches = patchify(canvas.astype(self.dtype), c.geometry.patch)
        if plan is None:
            visible: Any = c.geometry.visible_patches()
            masked: Any = c.geometry.target_patches()
            valid = None
        else:
            plan.check(canvas.shape[0], c.geometry.num_patches, complete=all_patches)
            visible, masked = plan.visible, plan.masked
            ones = jnp.ones((canvas.shape[0], 1), bool)
            valid = jnp.concatenate([ones, plan.visible_valid, plan.masked_valid], axis=1)
        if c.architecture == "encoder_decoder":
            context = self._encode(patches, visible, plan)
        else:
            context = self._embed(patches, visible, c.decoder_dim, "decoder")
        out = self._decode(context, visible, masked, valid, all_patches)
        return self.head(self.decoder_norm(out))

    def _embed(self, patches: Array, visible: Array | np.ndarray, dim: int, which: str) -> Array:
        """CLS and the embedded visible patches with their positions, (b, 1 + v, d)."""
        x = self.patch_embed(take_tokens(patches, jnp.asarray(visible)))
        table = self._table(which, dim)
        x = x if table is None else x + table[jnp.asarray(visible)]
        cls = jnp.broadcast_to(self.cls_token.astype(x.dtype), (x.shape[0], 1, dim))
        return jnp.concatenate([cls, x], axis=1)

    def _encode(self, patches: Array, visible: Array | np.ndarray, plan: MaskPlan | None) -> Array:
        x = self._embed(patches, visible, self.config.dim, "encoder")
        mask = None
        if plan is not None:
            ones = jnp.ones((x.shape[0], 1), bool)
            mask = jnp.concatenate([ones, plan.visible_valid], axis=1)[:, None, None, :]
        x = self.encoder(
            x, mask=mask, positions=self._rotary_positions(_tokens(visible), x.shape[0])
        )
        return self.decoder_embed(self.encoder_norm(x))

    def _decode(
        self,
        context: Array,
        visible: Array | np.ndarray,
        masked: Array | np.ndarray,
        valid: Array | None,
        all_patches: bool,
    ) -> Array:
        """Decoder output of the masked tokens (b, m, d), or of every patch in raster order."""
        c = self.config
        batch, seen = context.shape[0], context.shape[1]
        table = self._table("decoder", c.decoder_dim)
        mask_token = self.mask_token.astype(context.dtype)
        queries = jnp.broadcast_to(mask_token, (batch, masked.shape[-1], c.decoder_dim))
        if table is not None:
            queries = queries + table[jnp.asarray(masked)]
            if c.architecture == "encoder_decoder":  # decoder_only added them when embedding
                context = context.at[:, 1:].add(table[jnp.asarray(visible)])
        mask = None if valid is None else valid[:, None, None, :]
        q_positions = self._rotary_positions(jnp.asarray(masked) + 1, batch)
        c_positions = self._rotary_positions(_tokens(visible), batch)
        if c.decode == "slot":
            return self.decoder(
                queries,
                context,
                mask=mask,
                positions=q_positions,
                context_positions=c_positions,
            )
        x = jnp.concatenate([context, queries], axis=1)
        positions = None
        if q_positions is not None and c_positions is not None:
            positions = jnp.concatenate([c_positions, q_positions], axis=1)
        if c.decode == "last_layer":
            rows = jnp.arange(seen, seen + masked.shape[-1])
            return self.decoder(x, mask=mask, positions=positions, last_rows=rows)
        x = self.decoder(x, mask=mask, positions=positions)
        if not all_patches:
            return x[:, seen:]
        place = jnp.concatenate(
            [jnp.broadcast_to(jnp.asarray(i), (batch, i.shape[-1])) for i in (visible, masked)],
            axis=1,
        )
        return take_tokens(x[:, 1:], jnp.argsort(place, axis=1))


def _tokens(visible: Array | np.ndarray) -> Array:
    """Token numbers of CLS and the visible patches, (1 + v,) or (b, 1 + v)."""
    tokens = jnp.asarray(visible) + 1
    return jnp.concatenate([jnp.zeros((*tokens.shape[:-1], 1), tokens.dtype), tokens], axis=-1)


def layouts(config: CanvasConfig) -> dict[str, TokenLayout]:
    """Token layout of every attention stream under full masking of the target.

    The decoder runs over CLS, visible patches, masked patches in this order; with decode `slot` its
    queries are the masked patches alone. `last_layer` has no layout of its own: record its
    parameters with decode `full`, which computes the same function.
    """
    geometry = config.geometry
    visible, masked = geometry.visible_patches(), geometry.target_patches()
    keys = (0, *(int(i) + 1 for i in visible), *(int(i) + 1 for i in masked))
    queries = tuple(int(i) + 1 for i in masked) if config.decode == "slot" else keys
    decoder = dataclasses.replace(geometry.layout, queries=queries, keys=keys)
    if config.architecture == "decoder_only":
        return {"decoder": decoder}
    return {"encoder": geometry.encoder_layout(), "decoder": decoder}
