"""Trace-time taps: how a caller reaches the attention inside a model it does not know.

A model's attention layer knows its site (stream and layer number). While a program is traced, the
caller may hold a `Tap` open: it decides at which sites probabilities are sown and what of them (so
nothing else leaves the layer), and may edit logits or probabilities. Without a tap everything at an
opened `attn` collection is sown whole; without the opened collection nothing is sown and the
program is unchanged.

    with tapped(tap):
        out, variables = model.apply(params, x, mutable=["attn"])

An `Editor` is a tap that also reaches activations, and that is told where a loop stands: a sampler
or a stack that runs as one traced loop hands `step_inputs` or `layer_numbers` to the loop and holds
`at_step` or `at_layer` open around its body. Without an editor these are None and do nothing.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

COLLECTION = "attn"
PROBS = "probs"
ACTIVATION = "activation_"  # followed by the name of the activation

# Finite, so that a row without any valid key becomes uniform instead of NaN.
MASKED_LOGIT = -2.3819763e38


@dataclasses.dataclass(frozen=True)
class Site:
    """One attention layer of a model.

    Attributes:
      stream: name of the stream, for example `encoder`, `decoder`, `prefix`, `suffix`.
      layer: number of the layer in its stream; None inside `nn.scan`, where every layer is one
        trace.
    """

    stream: str
    layer: int | None


@runtime_checkable
class Tap(Protocol):
    """What a caller may do at an attention site; arrays are (b, h, q, k)."""

    def capture(self, site: Site, probs: Any) -> Any | None:
        """What to sow of `probs`: arrays led by the batch axis, in dicts or not; None for none."""
        ...

    def edit_logits(self, site: Site, logits: Any) -> Any:
        """Logits to use instead, before the softmax."""
        ...

    def edit_probs(self, site: Site, probs: Any) -> Any:
        """Probabilities to use instead, after the softmax."""
        ...

    def edits(self, site: Site) -> bool:
        """Whether this tap changes anything at `site`; False lets the layer use its fast path."""
        ...


@runtime_checkable
class Editor(Tap, Protocol):
    """A tap that depends on the denoising step or reaches activations."""

    def step_inputs(self, num_steps: int) -> Any:
        """Arrays with a first axis `num_steps`, of which each step sees its slice; or None."""
        ...

    def activation(self, site: Site, name: str, value: Any) -> Any:
        """Activation to use instead of `value` (b, n, ...), n tokens of the site's stream."""
        ...

    def keep_activation(self, site: Site, name: str, value: Any) -> Any | None:
        """What to sow of an activation, or None for nothing."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Place:
    """Where the loops around the code being traced stand; None outside of one.

    Attributes:
      layer: number of the layer, a traced integer.
      step: number of the denoising step, a traced integer.
      inputs: this step's slice of what the editor's `step_inputs` gave.
    """

    layer: Any = None
    step: Any = None
    inputs: Any = None


_NOWHERE = Place()
_PLACE: contextvars.ContextVar[Place] = contextvars.ContextVar("attn_jax_place", default=_NOWHERE)
_CURRENT: contextvars.ContextVar[Tap | None] = contextvars.ContextVar("attn_jax_tap", default=None)

# jax caches traces of scan bodies, remat and inner jits by function and shapes; the tap must be
# part of that key, or a program traced without it would be reused with it.
_TRACE_KEY = jax.make_user_context(None)


def current_tap() -> Tap | None:
    """The tap held open around the program being traced, or None."""
    return _CURRENT.get()


@contextlib.contextmanager
def tapped(tap: Tap) -> Iterator[None]:
    """Holds `tap` (hashable) open; nest inside the function that is traced."""
    token = _CURRENT.set(tap)
    try:
        with _TRACE_KEY(tap):
            yield
    finally:
        _CURRENT.reset(token)


def current_place() -> Place:
    """Where the loops stand around the code being traced."""
    return _PLACE.get()


def step_inputs(num_steps: int) -> Any:
    """What a loop over denoising steps takes along for `at_step`; None without an editor."""
    tap = current_tap()
    if not isinstance(tap, Editor):
        return None
    return jnp.arange(num_steps), tap.step_inputs(num_steps)


def at_step(given: Any) -> contextlib.AbstractContextManager[None]:
    """Held open around the body of such a loop, with one step's slice of `step_inputs`."""
    if given is None:
        return contextlib.nullcontext()
    return _placed(step=given[0], inputs=given[1])


def layer_numbers(depth: int) -> Any:
    """What a loop over layers takes along for `at_layer`; None without an editor."""
    return jnp.arange(depth) if isinstance(current_tap(), Editor) else None


def at_layer(number: Any) -> contextlib.AbstractContextManager[None]:
    """Held open around the body of such a loop, with one element of `layer_numbers`."""
    return contextlib.nullcontext() if number is None else _placed(layer=number)


@contextlib.contextmanager
def _placed(**changes: Any) -> Iterator[None]:
    place = dataclasses.replace(_PLACE.get(), **changes)
    token = _PLACE.set(place)
    try:
        # An inner function that was traced at another place holds that place's tracers.
        with _TRACE_KEY((_CURRENT.get(), place)):
            yield
    finally:
        _PLACE.reset(token)
