"""Interventions by name: what to change inside a model, and where.

An intervention names token groups, layers, heads and denoising steps as a `Selection` does;
`resolve_edits` turns a list of them into one stack of arrays, which a compiled program takes as an
argument (`attn_jax.probe.edits`). Everything is exact: an edge is removed before the softmax
(the rest of its row renormalises) or its probability is multiplied after it (nothing renormalises).

Axis names: n interventions, r rules of one of them; else as in `attn_jax.probe.edits`.

    streams = discover(apply_fn, layouts, params, *args)
    interventions = [
        Nothing(),
        KnockOut("action", "image/wrist", layers=(0, 1), denoise=(9,)),
        RemoveKeys("image/*"),
        AblateHeads(heads=(3,), layers=(5,), streams=("suffix",)),
    ]
    edits = resolve_edits(interventions, streams)
    outputs = sweep(apply_fn)(edits, None, params, *args)          # every output has a first axis n
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from attn_jax.core.errors import ConfigError, LayoutError
from attn_jax.core.typing import NumpyArray
from attn_jax.probe.edits import ACTIVATIONS, USES, Edits, Patches, Rules
from attn_jax.probe.select import Selection, Stream, StreamPlan, resolve
from attn_jax.probe.select_fields import Numbers

type Names = str | tuple[str, ...]
# The streams of one model, or of every sample of a batch whose layouts differ.
type Streams = Mapping[str, Stream] | Sequence[Mapping[str, Stream]]

_NEUTRAL = {"cut": False, "bias": 0.0, "temperature": 1.0, "factor": 1.0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Where:
    """Where an intervention acts; every field selects all by default.

    Attributes:
      streams: names, or `all`: every stream that has the queries, the keys and the denoising steps.
      layers: "all", "last:n" or layer numbers.
      heads: "all" or head numbers.
      denoise: "all" or denoising steps; a stream without denoising has the one step 0.
      label: how tables call it; a text of its fields when empty.
    """

    streams: Names = "all"
    layers: Numbers = "all"
    heads: Numbers = "all"
    denoise: Numbers = "all"
    label: str = ""

    def __post_init__(self):
        self._selection()

    def __str__(self) -> str:
        """The label, or the type and the fields that are not the default."""
        if self.label:
            return self.label
        shown = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                shown.append(f"{field.name}={value if isinstance(value, str) else repr(value)}")
        return f"{type(self).__name__}({', '.join(shown)})"

    def axes(self) -> tuple[Names, Names]:
        """Query and key groups it concerns."""
        return "all", "all"

    def effect(self) -> dict[str, Any]:
        """What the edges get: some of `cut`, `bias`, `temperature`, `factor`; empty for none."""
        return {}

    def _selection(self, stream: str = "all") -> Selection:
        query, key = (_names(groups) for groups in self.axes())
        return Selection(
            streams=(stream,),
            layers=self.layers,
            heads=self.heads,
            denoise=self.denoise,
            queries=query,
            keys=key,
            reduce=("full",),
        )

    def plans(self, streams: Mapping[str, Stream]) -> dict[str, StreamPlan]:
        """The positions it concerns in every stream that it touches.

        Raises:
          ConfigError: a stream, layer, head or step that the model does not have.
          LayoutError: groups that a named stream, or every stream, lacks.
        """
        names = _names(self.streams)
        if "all" in names:
            names = tuple(name for name in streams if self._fits(streams[name]))
            if not names:
                raise LayoutError(
                    f"no stream has the queries {self.axes()[0]!r} and the keys {self.axes()[1]!r}",
                    where=str(self),
                    fix="; ".join(f"{name}: {s.layout.names}" for name, s in streams.items()),
                )
            # Step 3 is one of the suffix alone, if the prefix has no denoising. Where no stream has
            # it, the error says what steps there are.
            names = tuple(n for n in names if self._has_steps(streams[n])) or names
        return {name: resolve(self._selection(name), streams).streams[name] for name in names}

    def _has_steps(self, stream: Stream) -> bool:
        return isinstance(self.denoise, str) or max(self.denoise, default=0) < stream.num_denoise

    def _fits(self, stream: Stream) -> bool:
        query, key = self.axes()
        try:
            stream.layout.positions(query, "query")
            stream.layout.positions(key, "key")
        except LayoutError:
            return False
        return True


@dataclasses.dataclass(frozen=True)
class Nothing(Where):
    """Changes nothing: the reference run of a stack."""


@dataclasses.dataclass(frozen=True)
class KnockOut(Where):
    """Removes the edges from `query` to `key`.

    Attributes:
      query, key: token groups.
      renormalise: True removes the edges before the softmax, so that what is left of a row sums to
        1 (and a row without any edge left becomes 0); False sets their probabilities to 0, so that
        a row sums to what is left of it.
    """

    query: Names = "all"
    key: Names = "all"
    renormalise: bool = True

    def axes(self) -> tuple[Names, Names]:
        """`query` and `key`."""
        return self.query, self.key

    def effect(self) -> dict[str, Any]:
        """A cut, or the factor 0."""
        return {"cut": True} if self.renormalise else {"factor": 0.0}


@dataclasses.dataclass(frozen=True)
class RemoveKeys(Where):
    """Removes `key` for every query, as if these tokens were masked; other positions stay."""

    key: Names = "all"

    def axes(self) -> tuple[Names, Names]:
        """All queries, and `key`."""
        return "all", self.key

    def effect(self) -> dict[str, Any]:
        """A cut."""
        return {"cut": True}


@dataclasses.dataclass(frozen=True)
class ScaleValues(Where):
    """Multiplies the values of `key` by `factor`, as `query` reads them.

    This is the multiplication of the probabilities' columns without renormalising: softmax(l)
    diag(f) v. What is captured are these products.
    """

    key: Names = "all"
    factor: float = 0.0
    query: Names = "all"

    def axes(self) -> tuple[Names, Names]:
        """`query` and `key`."""
        return self.query, self.key

    def effect(self) -> dict[str, Any]:
        """The factor."""
        return {"factor": _finite(self, "factor", self.factor)}


@dataclasses.dataclass(frozen=True)
class AblateHeads(Where):
    """Makes the output of `heads` 0 for `query`: all of their probabilities become 0."""

    query: Names = "all"

    def axes(self) -> tuple[Names, Names]:
        """`query` and all keys."""
        return self.query, "all"

    def effect(self) -> dict[str, Any]:
        """The factor 0."""
        return {"factor": 0.0}


@dataclasses.dataclass(frozen=True)
class Steer(Where):
    """Adds `bias` (nats) to the logits from `query` to `key`: odds change by exp(bias)."""

    query: Names = "all"
    key: Names = "all"
    bias: float = 0.0

    def axes(self) -> tuple[Names, Names]:
        """`query` and `key`."""
        return self.query, self.key

    def effect(self) -> dict[str, Any]:
        """The bias."""
        return {"bias": _finite(self, "bias", self.bias)}


@dataclasses.dataclass(frozen=True)
class Temper(Where):
    """Divides all logits of the rows of `query` by `temperature`; below 1 attention is sharper."""

    query: Names = "all"
    temperature: float = 1.0

    def axes(self) -> tuple[Names, Names]:
        """`query` and all keys."""
        return self.query, "all"

    def effect(self) -> dict[str, Any]:
        """The temperature."""
        if not _finite(self, "temperature", self.temperature) > 0:
            raise ConfigError(f"temperature {self.temperature} is not above 0", where=str(self))
        return {"temperature": self.temperature}


@dataclasses.dataclass(frozen=True)
class Patch(Where):
    """Replaces an activation of `token` by that of a donor run.

    Attributes:
      activation: one of `attn_jax.probe.edits.ACTIVATIONS`; heads cannot be chosen.
      token: groups on the query axis of the stream, whose activations are replaced.
    """

    activation: str = "attention_out"
    token: Names = "all"

    def __post_init__(self):
        if self.activation not in ACTIVATIONS:
            raise ConfigError(
                f"unknown activation {self.activation!r}",
                fix=f"Use one of {', '.join(ACTIVATIONS)}",
            )
        if self.heads != "all":
            raise ConfigError("an activation has no heads to choose", where=str(self))
        super().__post_init__()

    def axes(self) -> tuple[Names, Names]:
        """`token` and all keys."""
        return self.token, "all"


@dataclasses.dataclass(frozen=True)
class Together:
    """Several interventions at once, as one.

    Attributes:
      parts: temperatures act first, then biases, cuts, and factors; patches on what comes out.
      label: how tables call it.
    """

    parts: tuple[Where, ...]
    label: str = ""

    def __str__(self) -> str:
        """The label, or those of the parts."""
        return self.label or " + ".join(map(str, self.parts))


type Intervention = Where | Together


def patch_sweep(stream: str, source: Stream, activation: str, token: Names = "all") -> list[Patch]:
    """A patch of every single (layer, step), layers outermost.

    Results with a first axis n unfold by `reshape(source.num_layers, source.num_denoise, ...)`.
    """
    return [
        Patch(
            activation=activation, token=token, streams=(stream,), layers=(layer,), denoise=(step,)
        )
        for layer, step in itertools.product(range(source.num_layers), range(source.num_denoise))
    ]


def resolve_edits(
    interventions: Sequence[Intervention], streams: Streams, *, cover: str = "touched"
) -> Edits:
    """A stack of interventions as arrays.

    Args:
      interventions: n of them.
      streams: the model's streams from `discover`; a list of them, one per sample, where the
        samples of a batch have different layouts of the same lengths.
      cover: `touched`: programs contain edits only where some intervention of the stack needs
        them. `all`: everywhere in every stream, so that any stack of the same length and number of
        rules runs in the same program.

    Raises:
      ConfigError: an empty stack, or a stream, layer, head or step that the model does not have.
      LayoutError: a group that is nowhere, or samples whose layouts have different lengths.
    """
    if not interventions:
        raise ConfigError("no interventions were given", fix="Use [Nothing()] for a plain run")
    if cover not in ("touched", "all"):
        raise ConfigError(f"unknown cover {cover!r}", fix="Use touched or all")
    samples = [streams] if isinstance(streams, Mapping) else list(streams)
    attention: dict[str, list[list[dict[str, Any]]]] = {}
    patches: dict[tuple[str, str], list[list[dict[str, Any]]]] = {}
    count = len(interventions)
    for number, intervention in enumerate(interventions):
        parts = intervention.parts if isinstance(intervention, Together) else (intervention,)
        for part in parts:
            if not isinstance(part, Patch) and not part.effect():
                continue
            for stream, rule in _rules_of(part, samples).items():
                if isinstance(part, Patch):
                    lists = patches.setdefault((stream, part.activation), _empty(count))
                else:
                    lists = attention.setdefault(stream, _empty(count))
                lists[number].append(rule)
    if cover == "all":
        for stream in samples[0]:
            attention.setdefault(stream, _empty(count))
    elif not attention and not patches:  # only Nothing: an edit that selects nothing
        attention[next(iter(samples[0]))] = _empty(count)
    made: dict[str, dict[str, Patches]] = {}
    for (stream, activation), lists in patches.items():
        source = samples[0][stream]
        packed = _pack(lists, _blank(source, len(samples)))
        made.setdefault(stream, {})[activation] = Patches(
            packed["layers"], packed["steps"], packed["queries"]
        )
    return Edits(
        {
            stream: _stack_rules(lists, samples[0][stream], len(samples), cover)
            for stream, lists in attention.items()
        },
        made,
    )


def _stack_rules(
    lists: list[list[dict[str, Any]]], source: Stream, batch: int, cover: str
) -> Rules:
    packed = _pack(lists, _blank(source, batch))
    everywhere = cover == "all"
    touched = np.flatnonzero(packed["layers"].any(axis=(0, 1)) | everywhere)
    uses = tuple(use for use in USES if everywhere or np.any(packed[use] != _NEUTRAL[use]))
    return Rules(**packed, touched=tuple(int(layer) for layer in touched), uses=uses)


def _rules_of(part: Where, samples: Sequence[Mapping[str, Stream]]) -> dict[str, dict[str, Any]]:
    """One rule for every stream that `part` touches."""
    plans = [part.plans(streams) for streams in samples]
    if any(set(each) != set(plans[0]) for each in plans):
        raise LayoutError("it concerns other streams in other samples", where=str(part))
    out = {}
    for stream in plans[0]:
        source = samples[0][stream]
        rule = _blank(source, len(samples)) | part.effect()
        first = plans[0][stream]
        for field, places in (
            ("layers", first.layers),
            ("steps", first.denoise),
            ("heads", first.heads),
        ):
            rule[field][list(places)] = True
        for sample, each in enumerate(plans):
            if _sizes(each[stream].source) != _sizes(source):
                raise LayoutError(
                    f"sample {sample} has sizes {_sizes(each[stream].source)}, sample 0"
                    f" {_sizes(source)}",
                    where=f"stream {stream!r}",
                    fix="Pad the samples of a batch to the same lengths",
                )
            rule["queries"][sample, list(each[stream].program_positions("query"))] = True
            rule["keys"][sample, list(each[stream].program_positions("key"))] = True
        out[stream] = rule
    return out


def _sizes(source: Stream) -> tuple[int, ...]:
    tokens = (len(source.program_tokens("query")), len(source.program_tokens("key")))
    return (source.num_layers, source.num_denoise, source.num_heads, *tokens)


def _blank(source: Stream, batch: int) -> dict[str, Any]:
    """A rule that selects nothing."""
    layers, steps, heads, queries, keys = _sizes(source)
    return {
        "layers": np.zeros(layers, bool),
        "steps": np.zeros(steps, bool),
        "heads": np.zeros(heads, bool),
        "queries": np.zeros((batch, queries), bool),
        "keys": np.zeros((batch, keys), bool),
        **_NEUTRAL,
    }


def _empty(count: int) -> list[list[dict[str, Any]]]:
    return [[] for _ in range(count)]


def _pack(lists: list[list[dict[str, Any]]], blank: dict[str, Any]) -> dict[str, NumpyArray]:
    """Arrays (n, r, ...) of rules, filled up with rules that select nothing."""
    most = max(1, *map(len, lists)) if len(lists) > 1 else max(1, len(lists[0]))
    full = [[*rules, *[blank] * (most - len(rules))] for rules in lists]
    out = {}
    for field, value in blank.items():
        values = np.asarray([[rule[field] for rule in rules] for rules in full])
        out[field] = values.astype(np.float32) if isinstance(value, float) else values
    return out


def _names(groups: Names) -> tuple[str, ...]:
    return (groups,) if isinstance(groups, str) else tuple(groups)


def _finite(part: Where, field: str, value: float) -> float:
    if not np.isfinite(value):
        raise ConfigError(f"{field} is {value}", where=str(part), fix="Use a finite number")
    return float(value)
