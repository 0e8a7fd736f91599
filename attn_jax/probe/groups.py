"""Token groups as arguments of a compiled program: one program for every prompt of a length.

Which token belongs to the text, the state or the padding changes with every prompt, but the shape
of what is captured does not. Plans with the same `structure` share a program that takes the groups
as arrays with a batch axis, so that every item has its own layout. A program may also leave out
masked tokens (`Stream.queries`, `Stream.keys`); `expand` puts them back where the full program has
them.

Axis names: b batch, s denoise, l layer, h head, g groups, q queries, k keys.

    plans = [resolve(selection, streams_of(item)) for item in batch]
    program = programs[structure(plans[0])]             # jax.jit(capture_grouped(apply_fn, plan))
    outputs, maps = program(stream_groups(plans), params, x)
    records = to_records(expand(maps, plans), plans)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from attn_jax.core.errors import LayoutError
from attn_jax.core.typing import NumpyArray
from attn_jax.probe.select import Plan, StreamPlan, group_shares

_BY_QUERY = ("full", "head_mean", "group_mass", "entropy")
_BY_KEY = ("full", "head_mean")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class StreamGroups:
    """Who is in which group in one stream, for every batch item; float32.

    Attributes:
      queries: (b, g, q) weight of every query in the mean over each query group of `patch_map`.
      masses: (b, g, k) share of every key in each key group.
      members: (b, g + 1, k) hard membership of the keys; the last group is the whole row.
    """

    queries: Any
    masses: Any
    members: Any


def structure(plan: Plan) -> Hashable:
    """What a program depends on; plans that are equal in it differ in their groups only."""
    return tuple(
        (name, tuple(_parts(stream).items())) for name, stream in sorted(plan.streams.items())
    )


def _parts(plan: StreamPlan) -> dict[str, Hashable]:
    """Parts of the structure of one stream, with the name that a message gives them."""
    needs_rows = any(name in _BY_QUERY for name in plan.reductions)
    needs_columns = any(name in _BY_KEY for name in plan.reductions)
    maps = "patch_map" in plan.reductions
    source = plan.source
    return {
        "size": (source.num_layers, source.num_heads, source.num_denoise),
        "kept layers": plan.layers,
        "kept heads": plan.heads,
        "kept denoising steps": plan.denoise,
        "reductions": plan.reductions,
        "number of tokens": (
            len(source.layout.axis_tokens("query")),
            len(source.layout.axis_tokens("key")),
        ),
        "tokens left out": (source.queries, source.keys),
        "positions of the selected queries": plan.query_positions if needs_rows else (),
        "positions of the selected keys": plan.key_positions if needs_columns else (),
        "image patches": plan.patch_positions() if maps else (),
        "query groups": plan.query_groups if maps else (),
        "key groups": plan.key_groups,
        "stored keys": plan.compact_keys,
    }


def require_same_structure(plans: Sequence[Plan]) -> None:
    """Checks that one program serves all items of a batch.

    Raises:
      LayoutError: naming the item, the stream and what differs. Groups that hold other tokens in
        every prompt (`text`, `state`, `valid`) cannot be rows or columns of token-level maps of a
        batch; as groups of `group_mass`, `entropy` and `patch_map` they can.
    """
    for item, plan in enumerate(plans):
        for name, stream in plan.streams.items():
            first, found = _parts(plans[0].streams[name]), _parts(stream)
            wrong = [part for part in first if first[part] != found[part]]
            if wrong:
                raise LayoutError(
                    f"item {item} of the batch differs from item 0 in its {wrong[0]}"
                    f"{_example(first[wrong[0]], found[wrong[0]])}",
                    where=f"capture selection, stream {name!r}",
                    fix="Select `all`, images or actions as queries and keys of token-level maps,"
                    " or predict such items one by one",
                )


def _example(first: Any, found: Any) -> str:
    if all(isinstance(x, tuple) and all(isinstance(y, str) for y in x) for x in (first, found)):
        return f": {', '.join(sorted({*first} ^ {*found})) or 'another order'}"
    return ""


def stream_groups(plans: Sequence[Plan]) -> dict[str, StreamGroups]:
    """The groups of every item, stacked; an argument of the function of `capture_grouped`.

    Raises:
      LayoutError: one program cannot serve all items, see `require_same_structure`.
    """
    require_same_structure(plans)
    return {
        name: StreamGroups(
            queries=np.stack([plan.streams[name].query_weights() for plan in plans]),
            masses=np.stack([plan.streams[name].mass_weights() for plan in plans]),
            members=np.stack([plan.streams[name].entropy_members() for plan in plans]),
        )
        for name in plans[0].streams
    }


def expand(
    captured: Mapping[str, Mapping[str, Any]], plans: Sequence[Plan]
) -> dict[str, dict[str, NumpyArray]]:
    """Captured arrays (b, s, l, h, q, k) on the host, with the tokens that the program left out.

    Columns of left-out keys are 0; rows of masked queries are uniform over all keys, as a program
    has them that leaves nothing out.

    Args:
      captured: what the function of `capture_grouped` returned.
      plans: the plan of every item.
    """
    return {
        stream: {
            name: np.stack(
                [
                    _expand_item(np.asarray(values[item]), name, plan.streams[stream])
                    for item, plan in enumerate(plans)
                ]
            )
            for name, values in reductions.items()
        }
        for stream, reductions in captured.items()
    }


def _expand_item(values: NumpyArray, reduction: str, plan: StreamPlan) -> NumpyArray:
    source, dtype = plan.source, values.dtype
    if reduction == "patch_map" or (source.queries is None and source.keys is None):
        return values
    if reduction in _BY_KEY and source.keys is not None:
        columns = _found(plan.key_positions, source.keys)
        wide = np.zeros((*values.shape[:-1], len(plan.key_positions)), dtype)
        wide[..., columns] = values
        values = wide
    if source.queries is not None:
        rows = _found(plan.query_positions, source.queries)
        tall = np.zeros((*values.shape[:-2], len(plan.query_positions), values.shape[-1]), dtype)
        tall[..., rows, :] = values
        values = tall
    masked = _masked_rows(plan)
    if masked.any():
        values = np.where(masked[:, None], _uniform_row(reduction, plan), values).astype(dtype)
    return values


def _found(kept: Sequence[int], present: Sequence[int]) -> list[int]:
    """Places in `kept` of the positions that the program has, in the order of `kept`."""
    there = set(present)
    return [place for place, position in enumerate(kept) if position in there]


def _masked_rows(plan: StreamPlan) -> NumpyArray:
    """Which kept queries are invalid, (q,) bool."""
    layout = plan.source.layout
    invalid = [i for group in layout.groups if not group.valid for i in group.indices]
    tokens = layout.axis_tokens("query")[list(plan.query_positions)]
    return np.isin(tokens, invalid)


def _uniform_row(reduction: str, plan: StreamPlan) -> NumpyArray:
    """What a reduction makes of a row that is uniform over all keys of the layout, (k,)."""
    layout = plan.source.layout
    tokens = layout.axis_tokens("key")
    if reduction in _BY_KEY:
        return np.full(len(plan.key_positions), 1 / len(tokens), np.float32)
    if reduction == "group_mass":
        shares = np.stack([group_shares(layout, name)[tokens] for name in plan.key_groups])
        return (shares.sum(axis=1) / len(tokens)).astype(np.float32)
    sizes = layout.membership(plan.key_groups)[:, tokens].sum(axis=1)
    with np.errstate(divide="ignore"):
        entropy = np.log(np.append(sizes, len(tokens)))
    return np.where(np.isfinite(entropy), entropy, np.nan).astype(np.float32)
