"""Gradient times attention: how much every edge of every layer moved a number of the output.

A tap multiplies the probabilities of every (denoising step, layer, head) by ones, and one backward
pass through the whole program, all denoising steps included, differentiates by these: d y / d m at
m = 1 is p * d y / d p, to first order what y loses when the edge is cut without renormalising. It
is signed, in units of y, and adds up over keys, queries and heads.

Axis names: b batch, s denoising steps, l layers, h heads, q queries, k keys.

    plan = resolve(Selection.parse("layers=all;reduce=group_mass"), streams)
    run = jax.jit(relevance(apply_fn, plan, lambda sample: sample.actions[:, 0, 2]))
    outputs, maps = run(params, inputs, noise)
    records = relevance_records(maps, plan)               # records[item]["suffix.relevance_mass"]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from attn_jax.core import taps
from attn_jax.core.errors import ConfigError, RecordError
from attn_jax.core.record import AttentionRecord
from attn_jax.core.typing import Array
from attn_jax.probe.capture import Captured, capture, record_name, reduce, to_records
from attn_jax.probe.edits import InnerTap
from attn_jax.probe.select import Plan, StreamPlan

# What a reduction of attention is called when it is one of relevance.
NAMES = {"full": "relevance", "patch_map": "relevance_map", "group_mass": "relevance_mass"}


@dataclasses.dataclass(frozen=True, eq=False)
class _FactorTap(InnerTap):
    """Multiplies probabilities by given factors, and sows nothing.

    Attributes:
      plan: which layers have factors.
      factors: stream -> (s, l, b, h, q, k).
    """

    plan: Plan
    factors: Mapping[str, Array]

    def capture(self, site: taps.Site, probs: Any) -> Any | None:
        return None

    def edits(self, site: taps.Site) -> bool:
        plan = self.plan.streams.get(site.stream)
        ours = plan is not None and (site.layer is None or site.layer in plan.layers)
        return ours or super().edits(site)

    def step_inputs(self, num_steps: int) -> Any:
        # As inputs of the loop, their gradients are its stacked outputs.
        own = {name: each for name, each in self.factors.items() if len(each) == num_steps}
        return own, super().step_inputs(num_steps)

    def edit_probs(self, site: taps.Site, probs: Any) -> Any:
        plan = self.plan.streams.get(site.stream)
        if plan is None or (site.layer is not None and site.layer not in plan.layers):
            return super().edit_probs(site, probs)
        place = taps.current_place()
        if place.step is None:
            if len(self.factors[site.stream]) != 1:
                raise RecordError(
                    "has denoising steps, but its loop does not say which one runs",
                    where=f"stream {site.stream!r}",
                    fix="Use flow.sampler.euler, or taps.step_inputs and taps.at_step",
                )
            factors = self.factors[site.stream][0]
        else:
            factors = place.inputs[0][site.stream]
        if site.layer is None:
            if place.layer is None or len(plan.layers) != plan.source.num_layers:
                raise RecordError(
                    "scanned layers need layers=all, and a loop that says which one runs",
                    where=f"stream {site.stream!r}",
                )
            return super().edit_probs(site, probs * factors[place.layer])
        return super().edit_probs(site, probs * factors[plan.layers.index(site.layer)])


def relevance(
    apply_fn: Callable[..., tuple[Any, Any]], plan: Plan, objective: Callable[[Any], Array]
) -> Callable[..., tuple[Any, Captured]]:
    """A function to be jitted: outputs, and the relevance of what `plan` selects.

    Args:
      apply_fn: (params, *args) -> (outputs, variables), as for `capture`.
      plan: streams, layers, heads, steps, queries, keys, and reductions out of `full`, `patch_map`
        (mean over the queries of a group) and `group_mass` (sum over the keys of a group).
      objective: outputs -> the number that is explained, () or one per sample (b,): chosen action
        dimensions of chosen actions, say. Samples do not influence each other, so one backward pass
        serves the batch.

    Returns:
      (params, *args) -> (outputs, {stream: {reduction: (batch, denoise, layer, head, query, key)}})
      float32, as `capture` returns attention. Memory is that of the selected layers' whole maps of
      all steps, and of the activations that the backward pass needs.

    Raises:
      ConfigError: another reduction.
      RecordError: on tracing, a stream or layer that sows nothing, or loops that do not say where
        they are.
    """
    wrong = [name for name in plan.selection.reduce if name not in NAMES]
    if wrong:
        raise ConfigError(
            f"there is no relevance of the reduction {wrong[0]!r}",
            where="reduce",
            fix=f"Use {', '.join(NAMES)}",
        )

    def run(params: Any, *args: Any) -> tuple[Any, Captured]:
        # The shapes of what would be captured have the batch, and the checks are capture's.
        shapes = jax.eval_shape(lambda *a: capture(apply_fn, plan)(*a)[1], params, *args)
        factors = {}
        for name, each in plan.streams.items():
            batch = next(iter(shapes[name].values())).shape[0]
            tokens = tuple(len(each.source.program_tokens(axis)) for axis in ("query", "key"))
            lead = (each.source.num_denoise, len(each.layers), batch, each.source.num_heads)
            factors[name] = jnp.ones((*lead, *tokens))

        def total(factors: dict[str, Array]) -> tuple[Array, Any]:
            with taps.tapped(_FactorTap(taps.current_tap(), plan, factors)):
                outputs, _ = apply_fn(params, *args)
            return jnp.sum(objective(outputs)), outputs

        gradients, outputs = jax.grad(total, has_aux=True)(factors)
        return outputs, {
            name: _reduced(gradients[name], each) for name, each in plan.streams.items()
        }

    return run


def _reduced(gradients: Array, plan: StreamPlan) -> dict[str, Array]:
    """Reductions (b, s, l, h, q, k) of gradients (s, l, b, h, q, k)."""
    gradients = gradients[jnp.asarray(plan.denoise)]
    out = {}
    for name in plan.reductions:
        maps = jax.vmap(jax.vmap(lambda x, name=name: reduce(name, x, plan)))(gradients)
        out[name] = jnp.moveaxis(maps, 2, 0)
    return out


def relevance_records(
    maps: Mapping[str, Mapping[str, Any]], plan: Plan
) -> list[dict[str, AttentionRecord]]:
    """One dict of labelled records per batch item, as `to_records` makes them of attention.

    Their reductions are `relevance`, `relevance_map` and `relevance_mass`, and so their names; the
    store keeps them lossless.
    """
    return [
        {
            record_name(record.stream, NAMES[record.reduction]): dataclasses.replace(
                record, reduction=NAMES[record.reduction], complete_rows=False
            )
            for record in records.values()
        }
        for records in to_records(maps, plan)
    ]
