"""Which samples form a batch: by epoch, at random, or weighted by their last loss.

A sampler is a function of (seed, batch number, losses frozen at the last refresh). It keeps no
random generator, so its state is small and a resumed run draws the same batches. b is the batch
axis.

    sampler = make_sampler("loss_weighted", size=100, batch_size=8, seed=0)
    sampler.begin(0)
    indices = sampler.draw(0)               # (8,) int64
    sampler.feedback(indices, losses)
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from attn_jax.core.errors import ConfigError
from attn_jax.core.typing import Float, Int

SAMPLINGS = ("epoch", "random", "loss_weighted")

# First entries of the seed sequences: no two kinds of draws share a stream.
_EPOCH, _RANDOM, _WEIGHTED = 10, 11, 12

_NEVER = 2**62


@runtime_checkable
class Sampler(Protocol):
    """Draws batches of indices."""

    wants_feedback: bool

    def begin(self, batch: int) -> None:
        """Called once before batch number `batch` is handed out."""

    def known_until(self, batch: int) -> int:
        """First batch number after `batch` that must not be drawn yet."""
        ...

    def draw(self, batch: int) -> Int[np.ndarray, " b"]:
        """Indices of batch number `batch`."""
        ...

    def feedback(self, indices: np.ndarray, losses: np.ndarray) -> None:
        """Takes the losses of samples."""

    def get_state(self) -> dict[str, Any]:
        """Plain JSON types."""
        ...

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restores `get_state`; raises ConfigError for another kind of sampler."""


def make_sampler(
    sampling: str,
    *,
    size: int,
    batch_size: int,
    seed: int,
    temperature: float = 0.5,
    refresh_every: int = 50,
) -> Sampler:
    """Sampler by name, see `attn_jax.data.pipeline.make_iterator`; raises ConfigError."""
    if sampling not in SAMPLINGS:
        raise ConfigError(
            f"unknown sampling {sampling!r}", fix=f"Use one of {', '.join(SAMPLINGS)}"
        )
    if min(size, batch_size, refresh_every) < 1 or not 0 < temperature < math.inf or seed < 0:
        raise ConfigError(
            "batch_size, refresh_every and temperature must be positive and seed at least 0, got "
            f"{batch_size}, {refresh_every}, {temperature}, {seed} for {size} samples"
        )
    if sampling == "loss_weighted":
        return LossWeightedSampler(size, batch_size, seed, temperature, refresh_every)
    return IndependentSampler(sampling, size, batch_size, seed)


class IndependentSampler:
    """`epoch` or `random`: batches that do not depend on losses.

    An epoch's order is a permutation of its own; batches run on across the end of an epoch, so none
    is short.
    """

    wants_feedback = False

    def __init__(self, sampling: str, size: int, batch_size: int, seed: int):
        self._sampling = sampling
        self._size = size
        self._batch_size = batch_size
        self._seed = seed
        self._order = functools.lru_cache(maxsize=2)(self._permutation)

    def begin(self, batch: int) -> None:
        """Nothing to prepare."""

    def known_until(self, batch: int) -> int:
        """Everything is known from the start."""
        return _NEVER

    def draw(self, batch: int) -> Int[np.ndarray, " b"]:
        """Indices of batch number `batch`."""
        if self._sampling == "random":
            generator = np.random.default_rng([self._seed, _RANDOM, batch])
            return generator.integers(0, self._size, self._batch_size)
        positions = batch * self._batch_size + np.arange(self._batch_size)
        return np.array([self._order(int(p) // self._size)[p % self._size] for p in positions])

    def _permutation(self, epoch: int) -> Int[np.ndarray, " n"]:
        return np.random.default_rng([self._seed, _EPOCH, epoch]).permutation(self._size)

    def feedback(self, indices: np.ndarray, losses: np.ndarray) -> None:
        """Ignored."""

    def get_state(self) -> dict[str, Any]:
        """Only the kind: the batch number says the rest."""
        return {"sampling": self._sampling, "seed": self._seed, "batch_size": self._batch_size}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Checks that the state is of this sampler."""
        _check_same(self.get_state(), state)


class LossWeightedSampler:
    """Draws with replacement, larger losses more often.

    The probability is softmax(m / temperature), where m is the last loss of each sample scaled to
    [0, 1] over all samples and a sample without a loss takes the mean. Losses are looked at only at
    batch numbers divisible by `refresh_every`.
    """

    wants_feedback = True

    def __init__(
        self, size: int, batch_size: int, seed: int, temperature: float, refresh_every: int
    ):
        self._batch_size = batch_size
        self._seed = seed
        self._temperature = temperature
        self._refresh_every = refresh_every
        self._latest = np.full(size, np.nan)
        self._frozen = self._latest.copy()
        self._probabilities = loss_weights(self._frozen, temperature)

    @property
    def probabilities(self) -> Float[np.ndarray, " n"]:
        """Chance of every sample until the next refresh."""
        return self._probabilities

    def begin(self, batch: int) -> None:
        """Looks at the latest losses when a refresh is due."""
        if batch % self._refresh_every == 0:
            self._frozen = self._latest.copy()
            self._probabilities = loss_weights(self._frozen, self._temperature)

    def known_until(self, batch: int) -> int:
        """The next refresh."""
        return (batch // self._refresh_every + 1) * self._refresh_every

    def draw(self, batch: int) -> Int[np.ndarray, " b"]:
        """Indices of batch number `batch`."""
        generator = np.random.default_rng([self._seed, _WEIGHTED, batch])
        return generator.choice(len(self._latest), self._batch_size, p=self._probabilities)

    def feedback(self, indices: np.ndarray, losses: np.ndarray) -> None:
        """Keeps the finite losses as the last ones of their samples."""
        finite = np.isfinite(losses)
        self._latest[indices[finite]] = losses[finite]

    def get_state(self) -> dict[str, Any]:
        """Latest and frozen losses; None where there is none yet."""
        return {
            "sampling": "loss_weighted",
            "seed": self._seed,
            "batch_size": self._batch_size,
            "temperature": self._temperature,
            "refresh_every": self._refresh_every,
            "latest": [None if np.isnan(x) else float(x) for x in self._latest],
            "frozen": [None if np.isnan(x) else float(x) for x in self._frozen],
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restores losses and probabilities."""
        own = self.get_state()
        _check_same({k: v for k, v in own.items() if k not in ("latest", "frozen")}, state)
        self._latest = np.array([np.nan if x is None else x for x in state["latest"]], float)
        self._frozen = np.array([np.nan if x is None else x for x in state["frozen"]], float)
        self._probabilities = loss_weights(self._frozen, self._temperature)


def loss_weights(losses: Float[np.ndarray, " n"], temperature: float) -> Float[np.ndarray, " n"]:
    """Sampling probabilities from last losses, NaN where unknown; uniform when all are equal."""
    known = losses[~np.isnan(losses)]
    if not len(known) or known.max() == known.min():
        return np.full(len(losses), 1.0 / len(losses))
    filled = np.where(np.isnan(losses), known.mean(), losses)
    scaled = (filled - known.min()) / (known.max() - known.min())
    weights = np.exp((scaled - 1.0) / temperature)  # the largest exponent is 0
    return weights / weights.sum()


def _check_same(own: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    different = {
        key: (state.get(key), value) for key, value in own.items() if state.get(key) != value
    }
    if different:
        raise ConfigError(
            f"data state of another run, (saved, now): {different}",
            fix="Resume with the configuration that the run was started with",
        )
