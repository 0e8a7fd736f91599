"""Edits: interventions as arrays, and the tap that applies them while a program is traced.

An edit is a set of rules. A rule says where (masks over layers, steps, heads, queries, keys) and
what (cut, bias, temperature, factor); nothing of it is static but the streams and layers that any
rule touches, so one compiled program runs every intervention of a stack, and `jax.vmap` runs many
at once while what stands before the first edited layer runs once. Names become masks in
`attn_jax.probe.intervene`.

Axis names: r rules of one intervention (n interventions in front of it in a stack), l layers, s
denoising steps, h heads, b batch or 1, q queries, k keys, t tokens whose activation is patched.

    run = intervened(apply_fn)                                  # (edits, *args) -> outputs
    many = sweep(apply_fn, chunk=16)                            # the same for a stack, compiled
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from attn_jax.core import taps
from attn_jax.core.errors import ConfigError, RecordError
from attn_jax.core.typing import AnyArray, Array
from attn_jax.probe.capture import collect
from attn_jax.probe.select import Stream

ACTIVATIONS = ("attention_out", "mlp_out", "residual", "keys", "values")
USES = ("cut", "bias", "temperature", "factor")

# Activations of a donor run: stream -> name -> (s, l, b, n, features).
type Donor = Mapping[str, Mapping[str, Any]]


@flax.struct.dataclass
class Rules:
    """Attention edits of one stream.

    Attributes:
      layers: (r, l) bool.
      steps: (r, s) bool.
      heads: (r, h) bool.
      queries: (r, b, q) bool.
      keys: (r, b, k) bool.
      cut: (r,) bool, whether the edges are removed before the softmax.
      bias: (r,) float32, added to the logits of the edges.
      temperature: (r,) float32, divides the logits of the queries' rows.
      factor: (r,) float32, multiplies the probabilities of the edges, without renormalising.
      touched: layers that any rule of the stack edits.
      uses: which of `USES` any rule of the stack needs.
    """

    layers: Any
    steps: Any
    heads: Any
    queries: Any
    keys: Any
    cut: Any
    bias: Any
    temperature: Any
    factor: Any
    touched: tuple[int, ...] = flax.struct.field(pytree_node=False)
    uses: tuple[str, ...] = flax.struct.field(pytree_node=False)


@flax.struct.dataclass
class Patches:
    """Replacements of one activation of one stream by a donor's.

    Attributes:
      layers: (r, l) bool.
      steps: (r, s) bool.
      tokens: (r, b, t) bool.
    """

    layers: Any
    steps: Any
    tokens: Any


@flax.struct.dataclass
class Edits:
    """One intervention, or a stack of them with a first axis on every array.

    Attributes:
      rules: by stream.
      patches: by stream and activation.
    """

    rules: dict[str, Rules]
    patches: dict[str, dict[str, Patches]]

    def __getitem__(self, index: int | slice) -> Edits:
        """One intervention of a stack, or a shorter stack; runs in the same program."""
        return jax.tree.map(lambda x: x[index], self)

    def __len__(self) -> int:
        """Number of interventions of a stack."""
        return len(jax.tree.leaves(self)[0])


@dataclasses.dataclass(frozen=True, eq=False)
class InnerTap:
    """A `core.taps.Editor` that passes everything on to the tap around it.

    Attributes:
      outer: the tap that was open before; None when there was none.
    """

    outer: taps.Tap | None

    def capture(self, site: taps.Site, probs: Any) -> Any | None:
        """What the outer tap keeps; everything without one."""
        return probs if self.outer is None else self.outer.capture(site, probs)

    def edits(self, site: taps.Site) -> bool:
        """Whether the outer tap edits."""
        return self.outer is not None and self.outer.edits(site)

    def edit_logits(self, site: taps.Site, logits: Any) -> Any:
        """The outer tap's edit."""
        if self.outer is None or not self.outer.edits(site):
            return logits
        return self.outer.edit_logits(site, logits)

    def edit_probs(self, site: taps.Site, probs: Any) -> Any:
        """The outer tap's edit."""
        if self.outer is None or not self.outer.edits(site):
            return probs
        return self.outer.edit_probs(site, probs)

    def step_inputs(self, num_steps: int) -> Any:
        """What the outer tap asks for."""
        return self.outer.step_inputs(num_steps) if isinstance(self.outer, taps.Editor) else None

    def activation(self, site: taps.Site, name: str, value: Any) -> Any:
        """The outer tap's edit."""
        if isinstance(self.outer, taps.Editor):
            return self.outer.activation(site, name, value)
        return value

    def keep_activation(self, site: taps.Site, name: str, value: Any) -> Any | None:
        """What the outer tap keeps."""
        if isinstance(self.outer, taps.Editor):
            return self.outer.keep_activation(site, name, value)
        return None


@dataclasses.dataclass(frozen=True, eq=False)
class EditTap(InnerTap):
    """Applies one intervention; what an outer tap captures is what was really used.

    Attributes:
      made: the intervention.
      donor: activations to patch in.
    """

    made: Edits
    donor: Donor

    def edits(self, site: taps.Site) -> bool:
        """Whether any rule of the stack concerns this layer."""
        return self._rules(site) is not None or super().edits(site)

    def edit_logits(self, site: taps.Site, logits: Any) -> Any:
        """Temperature, then bias, then cuts."""
        logits = super().edit_logits(site, logits)
        rules = self._rules(site)
        if rules is None:
            return logits
        _check_sizes(site, rules, logits)
        for rows, edges, rule in _where(site, rules):
            if "temperature" in rules.uses:
                cooler = jnp.where(rows, 1.0 / rules.temperature[rule], 1.0)
                # A masked logit must not become infinite.
                logits = jnp.maximum(logits * cooler, taps.MASKED_LOGIT)
            if "bias" in rules.uses:
                logits = logits + jnp.where(edges, rules.bias[rule], 0.0)
        if "cut" in rules.uses:
            logits = jnp.where(_cut(site, rules), taps.MASKED_LOGIT, logits)
        return logits

    def edit_probs(self, site: taps.Site, probs: Any) -> Any:
        """Factors; and rows of which nothing is left become 0 instead of uniform."""
        rules = self._rules(site)
        if rules is not None and "cut" in rules.uses:
            # A cut key has exactly 0, unless no key of its row was left.
            empty = jnp.any(_cut(site, rules) & (probs > 0), axis=-1, keepdims=True)
            probs = jnp.where(empty, 0.0, probs)
        if rules is not None and "factor" in rules.uses:
            for _, edges, rule in _where(site, rules):
                probs = probs * jnp.where(edges, rules.factor[rule], 1.0)
        return super().edit_probs(site, probs)

    def activation(self, site: taps.Site, name: str, value: Any) -> Any:
        """The donor's activation where a patch says so."""
        value = super().activation(site, name, value)
        patches = self.made.patches.get(site.stream, {}).get(name)
        if patches is None:
            return value
        try:
            stored = self.donor[site.stream][name]
        except KeyError:
            raise ConfigError(
                f"the donor has no {name!r} of stream {site.stream!r}",
                fix="Make it with donate(apply_fn, streams, activations)",
            ) from None
        layer, step = _indices(site, *patches.layers.shape[-1:], *patches.steps.shape[-1:])
        theirs = jnp.asarray(stored)[step, layer]
        if theirs.size != value.size or patches.tokens.shape[-1] != value.shape[1]:
            raise RecordError(
                f"{name} is {value.shape}, the donor's {theirs.shape}, the patch has"
                f" {patches.tokens.shape[-1]} tokens",
                where=f"stream {site.stream!r}",
                fix="Run donor and recipient with the same batch and token counts",
            )
        on = patches.layers[:, layer] & patches.steps[:, step]
        chosen = jnp.any(on[:, None, None] & patches.tokens, axis=0)
        chosen = chosen.reshape(*chosen.shape, *(1,) * (value.ndim - 2))
        return jnp.where(chosen, theirs.reshape(value.shape).astype(value.dtype), value)

    def _rules(self, site: taps.Site) -> Rules | None:
        rules = self.made.rules.get(site.stream)
        if rules is None or (site.layer is not None and site.layer not in rules.touched):
            return None
        return rules


def _indices(site: taps.Site, layers: int, steps: int) -> tuple[Any, Any]:
    """Layer and step of this site, static or traced."""
    place = taps.current_place()
    where = f"stream {site.stream!r}"
    layer = place.layer if site.layer is None else site.layer
    if layer is None:
        raise RecordError(
            "its layers run in a loop that does not say which one runs",
            where=where,
            fix="Scan over taps.layer_numbers(depth) and hold taps.at_layer(number) open",
        )
    if isinstance(layer, int) and layer >= layers:
        raise RecordError(f"has layer {layer}, the edits know {layers} layers", where=where)
    if place.step is None and steps != 1:
        raise RecordError(
            f"has {steps} denoising steps, but its loop does not say which one runs",
            where=where,
            fix="Use flow.sampler.euler, or scan over taps.step_inputs and hold taps.at_step open",
        )
    return layer, 0 if place.step is None or steps == 1 else place.step


def _where(site: taps.Site, rules: Rules) -> list[tuple[AnyArray, AnyArray, int]]:
    """(rows (b, h, q, 1), edges (b, h, q, k), number) of every rule, at this place."""
    layer, step = _indices(site, *rules.layers.shape[-1:], *rules.steps.shape[-1:])
    out = []
    for rule in range(rules.layers.shape[0]):
        on = jnp.asarray(rules.layers)[rule, layer] & jnp.asarray(rules.steps)[rule, step]
        heads = rules.heads[rule][None, :, None, None]
        rows = on & heads & rules.queries[rule][:, None, :, None]
        out.append((rows, rows & rules.keys[rule][:, None, None, :], rule))
    return out


def _cut(site: taps.Site, rules: Rules) -> AnyArray:
    found = [edges & rules.cut[rule] for _, edges, rule in _where(site, rules)]
    return jnp.any(jnp.stack(found), axis=0) if len(found) > 1 else found[0]


def _check_sizes(site: taps.Site, rules: Rules, logits: AnyArray) -> None:
    expected = (rules.heads.shape[-1], rules.queries.shape[-1], rules.keys.shape[-1])
    if logits.shape[1:] != expected:
        raise RecordError(
            f"attention (head, query, key) is {logits.shape[1:]}, the edits were made for"
            f" {expected}",
            where=f"stream {site.stream!r}",
            fix="Resolve the interventions with the layouts of this very input",
        )


def intervened(apply_fn: Callable[..., Any], donor: Donor | None = None) -> Callable[..., Any]:
    """A function (edits, *args) -> what `apply_fn(*args)` returns under that one intervention.

    Args:
      apply_fn: any function that applies a model; traced under the edits. It may be one that
        `capture` watches: then what is captured is the attention after the edits.
      donor: activations for patches, from `donate`; traced arrays of the caller's program.

    Raises:
      RecordError: on tracing, when the model's sizes are not those of the edits, or a loop does not
        tell its layer or step.
      ConfigError: a patch without its donor.
    """

    def run(edits: Edits, *args: Any) -> Any:
        with taps.tapped(EditTap(taps.current_tap(), edits, {} if donor is None else donor)):
            return apply_fn(*args)

    return run


def sweep(apply_fn: Callable[..., Any], *, chunk: int | None = None) -> Callable[..., Any]:
    """A compiled function (edits, donor, *args) -> outputs with a first axis of interventions.

    Args:
      apply_fn: as for `intervened`.
      chunk: how many interventions run at once, for memory; None is all of them.

    Returns:
      A jitted function; `edits` is a stack, `donor` None where nothing is patched. It compiles once
      for stacks of the same size, streams, touched layers and uses.
    """

    @jax.jit
    def run(edits: Edits, donor: Donor | None, *args: Any) -> Any:
        def one(edit: Edits) -> Any:
            return intervened(apply_fn, donor)(edit, *args)

        if chunk is None or chunk >= len(edits):
            return jax.vmap(one)(edits)
        return jax.lax.map(one, edits, batch_size=chunk)

    return run


@dataclasses.dataclass(frozen=True, eq=False)
class _DonorTap(InnerTap):
    """Sows activations of some streams, and no attention."""

    wanted: Mapping[str, tuple[str, ...]]

    def capture(self, site: taps.Site, probs: Any) -> Any | None:
        return None

    def keep_activation(self, site: taps.Site, name: str, value: Any) -> Any | None:
        if name not in self.wanted.get(site.stream, ()):
            return None
        mark = f"{site.stream}@{'scan' if site.layer is None else site.layer}"
        return {mark: {"all": value.reshape(*value.shape[:2], -1)}}


def donate(
    apply_fn: Callable[..., tuple[Any, Any]],
    streams: Mapping[str, Stream],
    activations: Mapping[str, tuple[str, ...]],
) -> Callable[..., tuple[Any, dict[str, dict[str, Array]]]]:
    """A function (*args) -> (outputs, donor): a run whose activations are kept.

    Args:
      apply_fn: (*args) -> (outputs, variables) that opens the collection `attn`.
      streams: the model's streams, from `discover`.
      activations: stream -> names out of `ACTIVATIONS`.

    Returns:
      A function to be jitted. The donor has arrays (s, l, b, n, features).

    Raises:
      ConfigError: an unknown stream or activation.
      RecordError: on tracing, an activation that the model did not show.
    """
    for stream, names in activations.items():
        if stream not in streams:
            raise ConfigError(f"the model has no stream {stream!r}", fix=f"It has {[*streams]}")
        unknown = [name for name in names if name not in ACTIVATIONS]
        if unknown:
            raise ConfigError(
                f"unknown activation {unknown[0]!r}", fix=f"Use one of {', '.join(ACTIVATIONS)}"
            )

    def run(*args: Any) -> tuple[Any, dict[str, dict[str, Array]]]:
        with taps.tapped(_DonorTap(taps.current_tap(), activations)):
            outputs, variables = apply_fn(*args)
        return outputs, {
            stream: {name: _stored(variables, stream, name, streams[stream]) for name in names}
            for stream, names in activations.items()
        }

    return run


def _stored(variables: Any, stream: str, name: str, source: Stream) -> Array:
    layers = collect(variables, taps.ACTIVATION + name).get(stream, {})
    wanted = ["scan"] if "scan" in layers else [str(i) for i in range(source.num_layers)]
    missing = [layer for layer in wanted if layer not in layers]
    if missing:
        raise RecordError(
            f"layer {missing[0]} showed no activation {name!r}",
            where=f"stream {stream!r}",
            fix="apply_fn must return what was sown; the layer must call nn.attention.activation",
        )
    values = [layers[layer]["all"] for layer in wanted]
    # Now ([s,] [l,] b, n, features).
    stacked = values[0] if wanted == ["scan"] else jnp.stack(values, axis=-4)
    return stacked[None] if stacked.ndim == 4 else stacked
