"""AttentionRecord: attention probabilities with named axes and a token layout.

Axes, always all six and always in this order: `(call, denoise, layer, head, query, key)`. A call is
one prediction. A stream without denoising keeps a `denoise` axis of length 1. Reductions keep the
six axes too: `group_mass` puts one position per token group on `key`, `patch_map` one position per
query group on `query`, `entropy` one position per key group on `key`; `query_names` / `key_names`
then name them. Relevances are no probabilities: they have a sign and any size.

    labels = dict(layers=(0, 1), heads=(0, 1, 2, 3), denoise=(0,))
    record = AttentionRecord("decoder", values, layout, **labels)
    record.select(query="frame2", key="sep1")   # (call, denoise, layer, head, query..., key...)
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from attn_jax.core.errors import RecordError
from attn_jax.core.layout import TokenLayout

AXES = ("call", "denoise", "layer", "head", "query", "key")
REDUCTIONS = ("full", "head_mean", "patch_map", "group_mass", "entropy")
# Gradient times attention (`attn_jax.probe.relevance`), reduced as `full`, `patch_map`,
# `group_mass` are; not something that a selection can keep.
RELEVANCES = ("relevance", "relevance_map", "relevance_mass")


@dataclasses.dataclass(frozen=True)
class AttentionRecord:
    """Attention of one stream.

    Attributes:
      stream: `prefix`, `suffix`, `encoder`, `decoder`, `pool` or `fusion`.
      values: (call, denoise, layer, head, query, key) floating; NumPy, JAX or a lazy array that
        slices like NumPy (a store's reader).
      layout: names of the tokens on the query and key axes.
      layers: model layer of each position on the layer axis.
      heads: attention head of each position on the head axis; empty when heads were averaged.
      denoise: denoising step of each position on the denoise axis.
      reduction: one of `REDUCTIONS` or `RELEVANCES`.
      query_names: names of query positions when they are groups instead of tokens, else empty.
      key_names: names of key positions when they are groups instead of tokens, else empty.
      complete_rows: whether the key axis holds all the mass of a row, so that a row of `full`,
        `head_mean` or `group_mass` sums to 1.
      call_layouts: layout of every call where calls have different prompts, else empty; `layout`
        then has the groups and aliases that hold the same tokens in all of them, and calls every
        other token `varying` (`core.layout.common`). `call(n)` has the layout of one call.
    """

    stream: str
    values: Any
    layout: TokenLayout
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    denoise: tuple[int, ...] = (0,)
    reduction: str = "full"
    query_names: tuple[str, ...] = ()
    key_names: tuple[str, ...] = ()
    complete_rows: bool = True
    call_layouts: tuple[TokenLayout, ...] = ()

    def __post_init__(self):
        if self.reduction not in (*REDUCTIONS, *RELEVANCES):
            raise RecordError(
                f"unknown reduction {self.reduction!r}",
                fix=f"Use one of {(*REDUCTIONS, *RELEVANCES)}",
            )
        shape = tuple(self.values.shape)
        expected = (
            shape[0] if shape else -1,
            len(self.denoise),
            len(self.layers),
            len(self.heads) or 1,
            len(self.query_names) or len(self.layout.axis_tokens("query")),
            len(self.key_names) or len(self.layout.axis_tokens("key")),
        )
        if shape != expected:
            raise RecordError(
                f"stream {self.stream!r} has shape {shape}, its labels say {expected} {AXES}"
            )
        if self.call_layouts and len(self.call_layouts) != shape[0]:
            raise RecordError(f"{len(self.call_layouts)} layouts for {shape[0]} calls")

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the six axes."""
        return tuple(self.values.shape)

    def call(self, number: int) -> AttentionRecord:
        """The record of one call, with its own layout; reads its values."""
        layout = self.call_layouts[number] if self.call_layouts else self.layout
        number %= self.shape[0]
        values = np.asarray(self.values[number : number + 1])
        return dataclasses.replace(self, values=values, layout=layout, call_layouts=())

    def select(self, *, query: str | None = None, key: str | None = None) -> np.ndarray:
        """Named queries and keys, (call, denoise, layer, head, query..., key...).

        Token axes unfold to (gh, gw) where the group is a patch grid; named axes (of a reduction)
        keep one position for the name asked for.
        """
        values = np.asarray(self.values)
        if not self.query_names and not self.key_names:
            return self.layout.select(values, query=query, key=key)
        for axis, names, name in ((-2, self.query_names, query), (-1, self.key_names, key)):
            if name is None:
                continue
            if names:
                if name not in names:
                    raise RecordError(f"unknown name {name!r}", fix=f"Known names: {names}")
                places = [names.index(name)]
            else:
                places = self.layout.positions(name, "query" if axis == -2 else "key")
            values = np.take(values, np.asarray(places), axis=axis)
        if key is not None and not self.key_names:
            grid = self.layout.group(key).grid
            if grid is not None and grid[0] * grid[1] == values.shape[-1]:
                values = values.reshape(*values.shape[:-1], *grid)
        return values
