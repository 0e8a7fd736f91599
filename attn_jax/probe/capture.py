"""Capture: attention as labelled arrays, selected and reduced inside the compiled program.

The caller's `apply_fn(params, *args) -> (outputs, variables)` opens the collection `attn` in its
own `module.apply(..., mutable=["attn"])` and returns whatever that sowed, nested in dicts as it
likes. Layers may be a Python loop (`Site.layer` is a number) or one `nn.scan` with
`variable_axes={"params": 0, "attn": 0}` (`Site.layer` is None); denoising steps may be a `lax.scan`
that returns the sown variables as its stacked output. Captured axes: batch, denoise, layer, head,
query, key.

    streams = discover(apply_fn, {"decoder": layout}, params, x)
    plan = resolve(Selection.parse("layers=last:2;reduce=full"), streams)
    outputs, maps = jax.jit(capture(apply_fn, plan))(params, x)      # maps["decoder"]["full"]
    records = to_records(maps, plan)                                 # records[item]["decoder"]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attn_jax.core import taps
from attn_jax.core.errors import RecordError
from attn_jax.core.layout import TokenLayout
from attn_jax.core.record import AttentionRecord
from attn_jax.core.typing import Array, Float
from attn_jax.probe.codecs import MAP_REDUCTIONS, Encoded, concatenated, layers_joined
from attn_jax.probe.groups import StreamGroups
from attn_jax.probe.select import ALL_KEYS, Plan, Stream, StreamPlan

# Values are arrays, or a tuple of one for each layer.
type Captured = dict[str, dict[str, Any]]
type ApplyFn = Callable[..., tuple[Any, Any]]

_EXACT = jax.lax.Precision.HIGHEST  # sums of probabilities in float32 also where matmuls are not
_OPEN_IT = "apply_fn must open the collection with mutable=['attn'] and return what was sown"
_SCANNED = "scan"  # stands for the layer number in the mark of a scanned layer


@dataclasses.dataclass(frozen=True, eq=False)
class SelectionTap:
    """A `core.taps.Tap` that sows what a plan keeps, reduced, and edits nothing.

    Attributes:
      plan: what is kept.
      groups: who is in which group, for every batch item of each stream; None takes it from the
        plan.

    What it sows at a site is `{"<stream>@<layer>": {reduction: (b, head, query, key)}}`: the arrays
    say where they come from, whatever scans they pass through on the way out.
    """

    plan: Plan
    groups: Mapping[str, StreamGroups] | None = None

    def capture(self, site: taps.Site, probs: Float[Array, "b h q k"]) -> dict[str, Any] | None:
        """The kept reductions of one layer, or None where nothing is kept."""
        plan = self.plan.streams.get(site.stream)
        if plan is None or (site.layer is not None and site.layer not in plan.layers):
            return None
        expected = (
            plan.source.num_heads,
            len(plan.source.program_tokens("query")),
            len(plan.source.program_tokens("key")),
        )
        if probs.shape[1:] != expected:
            raise RecordError(
                f"attention (head, query, key) is {probs.shape[1:]}, the layout says {expected}",
                where=f"stream {site.stream!r}",
            )
        groups = None if self.groups is None else self.groups[site.stream]
        kept = {name: reduce(name, probs, plan, groups) for name in plan.reductions}
        if self.plan.selection.dtype == "float16":
            # Here, where the map is still in the cache, rounding costs nothing.
            kept = {
                name: x.astype(jnp.float16) if name in MAP_REDUCTIONS else x
                for name, x in kept.items()
            }
        return {_mark(site): kept}

    def edit_logits(self, site: taps.Site, logits: Any) -> Any:
        """Unchanged."""
        return logits

    def edit_probs(self, site: taps.Site, probs: Any) -> Any:
        """Unchanged."""
        return probs

    def edits(self, site: taps.Site) -> bool:
        """False, but at sites with groups of their own per item.

        The fast path shows one item at a time and cannot say which.
        """
        return self.groups is not None and site.stream in self.plan.streams


def _mark(site: taps.Site) -> str:
    return f"{site.stream}@{_SCANNED if site.layer is None else site.layer}"


def reduce(
    name: str, probs: Float[Array, "b h q k"], plan: StreamPlan, groups: StreamGroups | None = None
) -> Float[Array, "b head query key"]:
    """One reduction of one layer's probabilities.

    Args:
      name: `full`: the kept tokens. `head_mean`: their mean over the kept heads. `patch_map`: mean
        over the rows of each query group, on the kept image keys. `group_mass`: sum of each row
        over each key group. `entropy`: of each row within each key group, then over the whole row,
        in nats, after renormalising within the group; NaN where the group has no mass.
      probs: rows of probabilities, float32.
      plan: what is kept.
      groups: who is in which group, for every batch item; None takes it from the plan as constants.
    """
    probs, each = _take(probs, plan.heads, 1), "" if groups is None else "b"
    if name == "patch_map":
        images = _take(probs, plan.patch_positions(), 3)
        weights = plan.query_weights() if groups is None else groups.queries
        return jnp.einsum(f"{each}gq,bhqk->bhgk", weights, images, precision=_EXACT)
    probs = _take(probs, plan.program_positions("query"), 2)
    if name == "group_mass":
        weights = plan.mass_weights() if groups is None else groups.masses
        return jnp.einsum(f"{each}gk,bhqk->bhqg", weights, probs, precision=_EXACT)
    if name == "entropy":
        members = plan.entropy_members() if groups is None else groups.members
        return _group_entropy(probs, members, f"{each}gk,bhqk->bhqg")
    probs = _take(probs, plan.program_positions("key"), 3)
    return probs.mean(axis=1, keepdims=True) if name == "head_mean" else probs


def _group_entropy(probs: Array, members: Array | np.ndarray, over: str) -> Array:
    """Entropy of the distribution that each group's keys form, (b, head, query, group)."""
    positive = probs > 0
    # The inner where keeps the gradient finite at p = 0.
    plogp = jnp.where(positive, probs * jnp.log(jnp.where(positive, probs, 1.0)), 0.0)
    mass = jnp.einsum(over, members, probs, precision=_EXACT)
    total = jnp.einsum(over, members, plogp, precision=_EXACT)
    safe = jnp.where(mass > 0, mass, 1.0)
    # H(p / A) = log A - sum(p log p) / A; rounding may take a one-hot row below 0.
    entropy = jnp.maximum(jnp.log(safe) - total / safe, 0.0)
    return jnp.where(mass > 0, entropy, jnp.nan)


def _take(x: Array, positions: Sequence[int], axis: int) -> Array:
    """Static positions of one axis: nothing for all, a slice for a run, else a gather."""
    first, count = positions[0], len(positions)
    if tuple(positions) == tuple(range(first, first + count)):
        if count == x.shape[axis]:
            return x
        return jax.lax.slice_in_dim(x, first, first + count, axis=axis)
    return jnp.take(x, np.asarray(positions), axis=axis)


def capture(
    apply_fn: ApplyFn, plan: Plan, *, stack: bool = True
) -> Callable[..., tuple[Any, Captured]]:
    """A function to be jitted: the outputs of `apply_fn` and the attention that `plan` keeps.

    Args:
      apply_fn: (params, *args) -> (outputs, variables), see the module docstring.
      plan: what is kept, from `resolve`.
      stack: put the layers into one array, as below. Without, layers that are a Python loop leave
        the program as a tuple of arrays with one layer each, which saves a copy of every map;
        `codecs.encode` and `to_records` take either.

    Returns:
      (params, *args) -> (outputs, {stream: {reduction: (batch, denoise, layer, head, query,
      key)}}), float32, but maps float16 where the selection says so. `group_mass` and `entropy`
      have groups on the key axis, `patch_map` has groups on the query axis, `head_mean` has one
      head. The function is differentiable.

    Raises:
      RecordError: on tracing, when a planned stream or layer sowed nothing, two layers claim the
        same number, or a map does not fit its layout.
    """

    def run(params: Any, *args: Any) -> tuple[Any, Captured]:
        return _watch(apply_fn, SelectionTap(plan), params, args, stack)

    return run


def capture_grouped(apply_fn: ApplyFn, plan: Plan) -> Callable[..., tuple[Any, Captured]]:
    """As `capture`, with the token groups as an argument instead of constants of the program.

    One compiled program then serves every layout of the same structure (`groups.structure`), and
    every batch item has its own.

    Returns:
      (groups, params, *args) -> as `capture`; `groups` is made by `groups.stream_groups`. An axis
      lacks the tokens that the program leaves out, until `groups.expand` puts them back.
    """

    def run(groups: Mapping[str, StreamGroups], params: Any, *args: Any) -> tuple[Any, Captured]:
        return _watch(apply_fn, SelectionTap(plan, groups), params, args)

    return run


def _watch(
    apply_fn: ApplyFn, tap: SelectionTap, params: Any, args: tuple[Any, ...], stack: bool = True
) -> tuple[Any, Captured]:
    with taps.tapped(tap):
        outputs, variables = apply_fn(params, *args)
    sown, plan = collect(variables), tap.plan
    return outputs, {
        name: _assemble(stream, sown.get(name, {}), stack) for name, stream in plan.streams.items()
    }


def collect(variables: Any, leaf: str = taps.PROBS) -> dict[str, dict[str, dict[str, Array]]]:
    """Finds what a tap sowed under the name `leaf`: {stream: {layer: {reduction: array}}}."""
    found: dict[str, dict[str, dict[str, Array]]] = {}
    pending = [variables]
    while pending:
        node = pending.pop()
        if not isinstance(node, Mapping):
            continue
        for name, child in node.items():
            if name != leaf or not isinstance(child, Mapping):
                pending.append(child)
                continue
            for mark, maps in child.items():
                stream, _, layer = mark.rpartition("@")
                layers = found.setdefault(stream, {})
                if layer in layers:
                    raise RecordError(
                        f"two attention layers call themselves layer {layer}",
                        where=f"stream {stream!r}",
                        fix="Give every layer of a stream its own number",
                    )
                layers[layer] = maps
    return found


def _assemble(
    plan: StreamPlan, sown: Mapping[str, Mapping[str, Array]], stack: bool
) -> dict[str, Any]:
    """Puts the layers of one stream into arrays (batch, denoise, layer, head, query, key)."""
    where = f"stream {plan.stream!r}"
    scanned = _SCANNED in sown
    if scanned and len(sown) > 1:
        raise RecordError("has both scanned and numbered attention layers", where=where)
    missing = [] if scanned else [layer for layer in plan.layers if str(layer) not in sown]
    if missing:
        raise RecordError(
            f"layer {missing[0]} sowed no attention",
            where=where,
            fix=_OPEN_IT,
        )
    out = {}
    for name in plan.reductions:
        if scanned:
            maps = jnp.moveaxis(_take_layers(sown[_SCANNED][name], plan, where), -5, -4)
            out[name] = _arranged(maps, name, plan, where)
            continue
        layers = [sown[str(layer)][name] for layer in plan.layers]
        if stack:
            out[name] = _arranged(jnp.stack(layers, axis=-4), name, plan, where)
        else:
            apart = (jnp.expand_dims(maps, -4) for maps in layers)
            out[name] = tuple(_arranged(maps, name, plan, where) for maps in apart)
    return out


def _arranged(maps: Array, name: str, plan: StreamPlan, where: str) -> Array:
    """(..., batch, layer, head, query, key), led by the denoising scan if there is one."""
    if maps.ndim not in (5, 6):
        raise RecordError(
            f"{maps.ndim - 5} scans around {name}, at most one is allowed", where=where
        )
    maps = maps[None] if maps.ndim == 5 else maps
    if maps.shape[0] != plan.source.num_denoise:
        raise RecordError(
            f"{maps.shape[0]} denoising steps, expected {plan.source.num_denoise}", where=where
        )
    return jnp.moveaxis(_take(maps, plan.denoise, 0), 0, 1)


def _take_layers(maps: Array, plan: StreamPlan, where: str) -> Array:
    if maps.ndim < 5 or maps.shape[-5] != plan.source.num_layers:
        raise RecordError(
            f"scanned layers have shape {maps.shape}, expected {plan.source.num_layers} layers",
            where=where,
            fix="Scan with variable_axes={'params': 0, 'attn': 0}",
        )
    return _take(maps, plan.layers, maps.ndim - 5)


class _Discovery:
    """A tap that sows one small array per site and remembers nothing else."""

    def __init__(self):
        self.heads: dict[str, int] = {}

    def capture(self, site: taps.Site, probs: Array) -> dict[str, Any]:
        self.heads[site.stream] = probs.shape[1]
        return {_mark(site): {"rows": probs[:, :1, :1, :1]}}

    def edit_logits(self, site: taps.Site, logits: Any) -> Any:
        return logits

    def edit_probs(self, site: taps.Site, probs: Any) -> Any:
        return probs

    def edits(self, site: taps.Site) -> bool:
        return False


def discover(
    apply_fn: ApplyFn, layouts: Mapping[str, TokenLayout], params: Any, *args: Any
) -> dict[str, Stream]:
    """Counts layers, heads and denoising steps of every stream by tracing; computes nothing.

    Args:
      apply_fn: as for `capture`.
      layouts: layout of every stream that `apply_fn` may sow; streams without a layout are left
        out.
      params: arrays or `jax.ShapeDtypeStruct`s.
      *args: the same.

    Raises:
      RecordError: a stream of `layouts` that sowed nothing.
    """
    tap = _Discovery()

    def traced(params: Any, *args: Any):
        with taps.tapped(tap):
            return collect(apply_fn(params, *args)[1])

    shapes = jax.eval_shape(traced, params, *args)
    streams = {}
    for name, layout in layouts.items():
        if name not in shapes:
            raise RecordError(
                "sowed no attention",
                where=f"stream {name!r}",
                fix=_OPEN_IT,
            )
        layers = shapes[name]
        shape = next(iter(layers.values()))["rows"].shape
        scanned = _SCANNED in layers
        lead = shape[: len(shape) - 4 - scanned]
        streams[name] = Stream(
            layout=layout,
            num_layers=shape[-5] if scanned else 1 + max(int(layer) for layer in layers),
            num_heads=tap.heads[name],
            num_denoise=lead[0] if lead else 1,
        )
    return streams


def record_name(stream: str, reduction: str) -> str:
    """Name of a record: the stream, followed by `.<reduction>` unless it is `full`."""
    return stream if reduction == "full" else f"{stream}.{reduction}"


def to_records(
    captured: Mapping[str, Mapping[str, Any]], plan: Plan | Sequence[Plan]
) -> list[dict[str, AttentionRecord]]:
    """One dict of labelled records per batch item, keyed by `record_name`; one call each.

    Args:
      captured: what the function of `capture` (or `codecs.encode` of it) returned, on host or
        device.
      plan: the plan it was made with, or one for each item.

    Raises:
      RecordError: streams of different batch sizes, or another number of plans than items.
    """
    batch = {
        part.shape[0]
        for reductions in captured.values()
        for maps in reductions.values()
        for part in (maps if isinstance(maps, tuple) else (maps,))
    }
    if len(batch) > 1:
        raise RecordError(f"streams have different batch sizes: {sorted(batch)}")
    count = next(iter(batch), 0)
    plans = [plan] * count if isinstance(plan, Plan) else plan
    if len(plans) != count:
        raise RecordError(f"{len(plans)} plans for {count} items")
    return [
        {
            record_name(stream, name): _record(of_item.streams[stream], name, _one_call(maps, item))
            for stream, reductions in captured.items()
            for name, maps in reductions.items()
        }
        for item, of_item in enumerate(plans)
    ]


def _one_call(maps: Any, item: int) -> Any:
    if isinstance(maps, tuple):
        parts = [_one_call(part, item) for part in maps]
        return concatenated(parts) if isinstance(parts[0], Encoded) else layers_joined(parts)
    if isinstance(maps, Encoded):
        return maps.call(item)
    # A view would keep the whole batch alive, and be written whole by some writers.
    return (
        np.array(maps[item : item + 1]) if isinstance(maps, np.ndarray) else maps[item : item + 1]
    )


def _record(plan: StreamPlan, reduction: str, values: Any) -> AttentionRecord:
    patches = reduction == "patch_map"
    groups = {"group_mass": plan.key_groups, "entropy": (*plan.key_groups, ALL_KEYS)}
    complete = {"full": plan.complete_rows, "head_mean": plan.complete_rows}
    complete["group_mass"] = plan.complete_masses
    layout = plan.patch_layout if patches else plan.layout
    assert layout is not None
    return AttentionRecord(
        stream=plan.stream,
        values=values,
        layout=layout,
        layers=plan.layers,
        heads=() if reduction == "head_mean" else plan.heads,
        denoise=plan.denoise,
        reduction=reduction,
        query_names=plan.query_groups if patches else (),
        key_names=groups.get(reduction, ()),
        complete_rows=complete.get(reduction, False),
    )
