"""Where attention goes, by named group: masses, budgets, lift over area.

A mass is the probability that the queries of one group put on the keys of another, so masses of all
groups sum to 1. Where a patch straddles two regions the layout's fractional coverage shares its
mass out. For a canvas this answers the question of whether the prediction looks at the action
stripes: `stripes` as the key group, `target` as the query group, per layer and head.

Axis names: (call, denoise, layer, head, query, key), see `core.record`; g groups.

    flow = budget(record, query="target")             # names and (layer, head, group) masses
    mass = flow.of("sep0") + flow.of("sep1")          # (layer, head)
    lift(mass, area_share(record, ("stripes",))[0])   # 1: no more than chance
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from attn_jax.analysis import reduce
from attn_jax.core.errors import LayoutError, RecordError
from attn_jax.core.layout import TokenLayout
from attn_jax.core.record import AttentionRecord
from attn_jax.core.typing import Float, NumpyArray

UNRECORDED = "not recorded"


@dataclasses.dataclass(frozen=True)
class Budget:
    """How the attention of one query group is shared out.

    Attributes:
      stream: stream of the record.
      query: query group, or `valid`.
      names: key groups, in layout order; the last is `not recorded` when the record left keys out.
      mass: (layer, head, group) float64, mean over calls, denoising steps and queries; sums to 1
        over groups up to the precision of the record.
      area: (group,) float64 share of the recorded keys that each group has; sums to 1.
      layers: model layer of each position on the layer axis.
      heads: attention head of each position on the head axis; empty when heads were averaged.
    """

    stream: str
    query: str
    names: tuple[str, ...]
    mass: Float[NumpyArray, "layer head g"]
    area: Float[NumpyArray, "g"]
    layers: tuple[int, ...]
    heads: tuple[int, ...]

    def of(self, *names: str) -> Float[NumpyArray, "layer head"]:
        """Summed mass of the named groups, (layer, head)."""
        return self.mass[..., self._places(names)].sum(-1)

    def area_of(self, *names: str) -> float:
        """Summed share of the keys of the named groups."""
        return float(self.area[self._places(names)].sum())

    def _places(self, names: Sequence[str]) -> list[int]:
        for name in names:
            if name not in self.names:
                raise LayoutError(f"no group {name!r} in this budget", fix=f"Known: {self.names}")
        return [self.names.index(name) for name in names]


def membership(layout: TokenLayout, names: Sequence[str]) -> Float[NumpyArray, "g length"]:
    """Fractional membership of tokens in groups, aliases or patterns, (g, length) float64.

    An alias that is a union of covering groups takes the sum of their fractions; any other set of
    tokens counts whole.
    """
    rows = [_shares(layout, name) for name in names]
    return np.stack(rows) if rows else np.zeros((0, layout.length))


def _shares(layout: TokenLayout, name: str) -> np.ndarray:
    wanted = set(layout.tokens(name).tolist())
    parts = [group for group in layout.groups if group.indices and wanted.issuperset(group.indices)]
    if layout.coverage is not None and wanted == {i for group in parts for i in group.indices}:
        shares = layout.fractions([group.name for group in parts])
        return shares.astype(np.float64).sum(0)
    return layout.membership([name])[0].astype(np.float64)


def group_mass(
    record: AttentionRecord, groups: Sequence[str], *, query: str | None = None
) -> Float[NumpyArray, "call denoise layer head g"]:
    """Mean mass that the queries of a group put on each key group, float64.

    Queries that belong to the group only in part weigh as much as they belong. Works on full
    records (and head means), and on records already reduced to group masses when they kept the
    names asked for.

    Args:
      record: a record whose query axis holds tokens.
      groups: key groups, aliases or patterns; they may overlap.
      query: query group; None takes every real token.

    Raises:
      LayoutError: when a group is unknown or none of its queries was recorded.
      RecordError: when the record's key axis holds other names.
    """
    rows = reduce.valid_queries(record, query)
    tokens = record.layout.axis_tokens("query")[rows]
    weight = membership(record.layout, ["valid" if query is None else query])[0, tokens]
    weight = weight / weight.sum()
    if record.key_names:
        missing = [name for name in groups if name not in record.key_names]
        if missing:
            raise RecordError(
                f"stream {record.stream!r} has no masses of {missing}",
                fix=f"It kept {record.key_names}; capture full maps for other groups",
            )
        shares = np.eye(len(record.key_names))[[record.key_names.index(n) for n in groups]]
    else:
        shares = membership(record.layout, groups)[:, record.layout.axis_tokens("key")]
    out = [
        np.einsum("dlhqk,q,gk->dlhg", values[..., rows, :].astype(np.float64), weight, shares)
        for values in reduce.calls(record)
    ]
    return np.stack(out)


def area_share(record: AttentionRecord, groups: Sequence[str]) -> Float[NumpyArray, "g"]:
    """Share of the recorded keys that belong to each group: its mass under uniform attention."""
    shares = membership(record.layout, groups)[:, record.layout.axis_tokens("key")]
    return shares.sum(1) / shares.shape[1]


def lift(mass: Float[NumpyArray, "*b"], area: float) -> Float[NumpyArray, "*b"]:
    """Mass over area share: 1 is what uniform attention gives; NaN for a group without keys."""
    return mass / area if area > 0 else np.full_like(mass, np.nan)


def budget(record: AttentionRecord, *, query: str | None = None) -> Budget:
    """Shares out the attention of a query group over every group of the layout.

    Raises:
      LayoutError: when the query group is unknown or was not recorded.
      RecordError: when the record holds no calls.
    """
    if record.shape[0] == 0:
        raise RecordError(f"stream {record.stream!r} holds no calls")
    recorded = membership(record.layout, record.layout.names)
    kept = recorded[:, record.layout.axis_tokens("key")].sum(1) > 0
    names = [name for name, keep in zip(record.layout.names, kept, strict=True) if keep]
    mass = group_mass(record, names, query=query).mean((0, 1))
    area = area_share(record, names)
    if len(record.layout.axis_tokens("key")) < record.layout.length:
        rest = np.clip(1.0 - mass.sum(-1, keepdims=True), 0.0, None)
        if np.any(rest > 1e-2):  # more than rounding: keys with mass were left out
            mass = np.concatenate([mass, rest], axis=-1)
            area = np.append(area, 0.0)
            names.append(UNRECORDED)
    return Budget(
        record.stream,
        "valid" if query is None else query,
        tuple(names),
        mass,
        area,
        record.layers,
        record.heads,
    )
