"""When to stop: small conditions that combine into `until`, each with a typed reason.

A condition is a frozen dataclass with pure functions. Its state is a dict of plain numbers, so that
it travels in a checkpoint. Conditions that read a clock or a file say so by `local`: processes of
one run must agree on them before they stop.

    until = Any((Steps(10_000), Seconds(120), Plateau("val/loss")))
    state = until.init()
    state = until.evaluated(state, evaluation)           # after every evaluation
    reason = until.check(state, progress)                # before every step; None = go on
"""

from __future__ import annotations

import abc
import dataclasses
import enum
import math
import os
from collections.abc import Mapping
from typing import Any as AnyType
from typing import ClassVar, Protocol, runtime_checkable

from attn_jax.core.errors import ConfigError

ConditionState = dict[str, AnyType]


class StopKind(enum.Enum):
    """Why training ended."""

    STEPS = "steps"
    SAMPLES = "samples"
    SECONDS = "seconds"
    DIVERGENCE = "divergence"
    PLATEAU = "plateau"
    TARGET = "target"
    STOP_FILE = "stop_file"
    INTERRUPTED = "interrupted"


@dataclasses.dataclass(frozen=True)
class StopReason:
    """Why and how training ended.

    Attributes:
      kind: the condition that fired.
      detail: one sentence with its numbers.
    """

    kind: StopKind
    detail: str


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
      step: steps taken, over all restarts of the run.
      samples: samples seen.
      train_s: seconds spent in steps and waiting for their data; no compiling, evaluating or
        saving.
      wall_s: seconds since the run began, over all restarts, time between restarts excluded.
    """

    step: int = 0
    samples: int = 0
    train_s: float = 0.0
    wall_s: float = 0.0


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What a condition sees of an evaluation.

    Attributes:
      metrics: scalars by name, `<evaluation>/<metric>`.
      train_ema: running average of the training loss, 0.1 * new + 0.9 * old per step.
    """

    metrics: Mapping[str, float]
    train_ema: float


@runtime_checkable
class Condition(Protocol):
    """What `fit` asks of `until`."""

    def init(self) -> ConditionState:
        """State before the first evaluation."""
        ...

    def evaluated(self, state: ConditionState, evaluation: Evaluation) -> ConditionState:
        """State after an evaluation; pure."""
        ...

    def check(
        self, state: ConditionState, progress: Progress, *, shared_only: bool = False
    ) -> StopReason | None:
        """The reason to stop now, or None; `shared_only` leaves out clocks and files."""
        ...


@dataclasses.dataclass(frozen=True)
class _Base(abc.ABC):
    local: ClassVar[bool] = False

    def init(self) -> ConditionState:
        """State before the first evaluation."""
        return {}

    def evaluated(self, state: ConditionState, evaluation: Evaluation) -> ConditionState:
        """State after an evaluation; pure."""
        return state

    def check(
        self, state: ConditionState, progress: Progress, *, shared_only: bool = False
    ) -> StopReason | None:
        """The reason to stop now, or None."""
        return None if shared_only and self.local else self._check(state, progress)

    @abc.abstractmethod
    def _check(self, state: ConditionState, progress: Progress) -> StopReason | None:
        """The reason of this condition alone."""


@dataclasses.dataclass(frozen=True)
class Steps(_Base):
    """Stops after `n` steps."""

    n: int

    def _check(self, state: ConditionState, progress: Progress) -> StopReason | None:
        if progress.step >= self.n:
            return StopReason(StopKind.STEPS, f"{progress.step} of {self.n} steps done")
        return None


@dataclasses.dataclass(frozen=True)
class Samples(_Base):
    """Stops once at least `n` samples were seen."""

    n: int

    def _check(self, state: ConditionState, progress: Progress) -> StopReason | None:
        if progress.samples >= self.n:
            return StopReason(StopKind.SAMPLES, f"{progress.samples} of {self.n} samples seen")
        return None


@dataclasses.dataclass(frozen=True)
class Seconds(_Base):
    """Stops after `seconds`; clock `train` counts steps only, `wall` everything.

    Never before the first step: a run whose compiling takes longer than its limit still ends with a
    checkpoint that says how far it came.

    Raises:
      ConfigError: unknown clock, or a limit that never comes.
    """

    seconds: float
    clock: str = "train"
    local: ClassVar[bool] = True

    def __post_init__(self):
        if self.clock not in ("train", "wall"):
            raise ConfigError(f"clock {self.clock!r} is unknown", fix="Use train or wall")
        _require(0 <= self.seconds < math.inf, "seconds", self.seconds, "at least 0 and finite")

    def left(self, progress: Progress) -> float:
        """Seconds that remain; negative afterwards."""
        return self.seconds - self._spent(progress)

    def _spent(self, progress: Progress) -> float:
        return progress.train_s if self.clock == "train" else progress.wall_s

    def _check(self, state: ConditionState, progress: Progress) -> StopReason | None:
        spent = self._spent(progress)
        if spent >= self.seconds and progress.step:
            detail = f"{spent:.1f} of {self.seconds:g} s of {self.clock} time spent"
            return StopReason(StopKind.SECONDS, detail)
        return None


@dataclasses.dataclass(frozen=True)
class StopFile(_Base):
    """Stops when the file `path` exists."""

    path: str
    local: ClassVar[bool] = True

    def _check(self, state: ConditionState, progress: Progress) -> StopReason | None:
        if os.path.exists(self.path):
            return StopReason(StopKind.STOP_FILE, f"{os.path.basename(self.path)} exists")
        return None


@dataclasses.dataclass(frozen=True)
class Target(_Base):
    """Stops when an evaluation reaches `value`.

    Attributes:
      metric: name of the metric.
      value: bound, itself included.
      mode: `min`, at or below the bound; `max`, at or above.

    Raises:
      ConfigError: the bound is not finite, or the mode another one.
    """

    metric: str
    value: float
    mode: str = "min"

    def __post_init__(self):
        _require(math.isfinite(self.value), "stop.target", self.value, "finite")
        _require(self.mode in ("min", "max"), "stop.target mode", self.mode, "min or max")

    def evaluated(self, state: ConditionState, evaluation: Evaluation) -> ConditionState:
        """Remembers the value of the metric."""
        return {"value": metric_of(evaluation, self.metric)}

    def _check(self, state: ConditionState, progress: Progress) -> StopReason | None:
        value = state.get("value", math.nan)
        if value <= self.value if self.mode == "min" else value >= self.value:
            detail = f"{self.metric} = {value:.6g} reached {self.value:g}"
            return StopReason(StopKind.TARGET, detail)
        return None


@dataclasses.dataclass(frozen=True)
class Divergence(_Base):
    """Stops when validation moves away from training for too long.

    An evaluation is divergent when val - train >= `gap`, or val / max(train, 1e-8) >= `ratio`, or
    the share of spikes in a full window reaches `spike_frequency`. A spike is a value above
    `spike_threshold` times the best one so far. `patience` divergent evaluations in a row stop the
    run; one good evaluation resets the count. The first `min_updates` evaluations fill the window
    but never count. A value that is not finite is a divergent spike.

    Attributes:
      metric: validation metric; lower is better.
      gap: allowed difference to the running training loss.
      ratio: allowed quotient.
      patience: divergent evaluations in a row that stop.
      min_updates: evaluations before any counts.
      spike_threshold: multiple of the best value.
      spike_window: evaluations looked at.
      spike_frequency: share of spikes in the window.

    Raises:
      ConfigError: a value with which a rule would never or always hold; infinity turns one off.
    """

    metric: str
    gap: float = 0.002
    ratio: float = 1.5
    patience: int = 50
    min_updates: int = 10
    spike_threshold: float = 2.0
    spike_window: int = 15
    spike_frequency: float = 0.75

    def __post_init__(self):
        for name in ("gap", "ratio", "spike_threshold", "spike_frequency"):
            value = getattr(self, name)
            _require(value >= 0, f"stop.divergence.{name}", value, "at least 0")
        window = self.spike_window
        _require(window >= 1, "stop.divergence.spike_window", window, "at least 1")

    def init(self) -> ConditionState:
        """No evaluation yet."""
        return {"updates": 0, "best": None, "spikes": [], "count": 0}

    def evaluated(self, state: ConditionState, evaluation: Evaluation) -> ConditionState:
        """Judges one evaluation."""
        value, train = metric_of(evaluation, self.metric), evaluation.train_ema
        best = state["best"]
        finite = math.isfinite(value)
        if finite:
            best = value if best is None else min(best, value)
        spike = not finite or value > self.spike_threshold * (value if best is None else best)
        spikes = [*state["spikes"], int(spike)][-self.spike_window :]
        spiky = (
            len(spikes) == self.spike_window
            and sum(spikes) / self.spike_window >= self.spike_frequency
        )
        diverged = (
            not finite
            or value - train >= self.gap
            or value / max(train, 1e-8) >= self.ratio
            or spiky
        )
        updates = state["updates"] + 1
        count = state["count"] + 1 if diverged and updates > self.min_updates else 0
        return {"updates": updates, "best": best, "spikes": spikes, "count": count}

    def _check(self, state: ConditionState, progress: Progress) -> StopReason | None:
        if state["count"] >= self.patience:
            detail = (
                f"{self.metric} diverged from the training loss {state['count']} times in a row"
            )
            return StopReason(StopKind.DIVERGENCE, detail)
        return None


@dataclasses.dataclass(frozen=True)
class Plateau(_Base):
    """Stops when a smoothed validation metric no longer improves.

    The smoothed value is E = smoothing * val + (1 - smoothing) * E, starting at the first value. An
    evaluation improves when (best - E) / |best| > threshold; best then becomes E and the count is
    reset, otherwise the count grows by one. Slow progress therefore adds up until it counts. A
    value that is not finite does not enter E and does not improve.

    Attributes:
      metric: validation metric; lower is better.
      smoothing: weight of the new value.
      threshold: relative improvement that counts.
      patience: evaluations without improvement that stop.

    Raises:
      ConfigError: a value with which nothing or everything would count as improvement.
    """

    metric: str
    smoothing: float = 0.85
    threshold: float = 0.0015
    patience: int = 25

    def __post_init__(self):
        good = 0 < self.smoothing <= 1
        _require(good, "stop.plateau.smoothing", self.smoothing, "above 0 and at most 1")
        good = 0 <= self.threshold < math.inf
        _require(good, "stop.plateau.threshold", self.threshold, "at least 0 and finite")

    def init(self) -> ConditionState:
        """No evaluation yet."""
        return {"smooth": None, "best": None, "count": 0}

    def evaluated(self, state: ConditionState, evaluation: Evaluation) -> ConditionState:
        """Smooths and counts one evaluation."""
        value = metric_of(evaluation, self.metric)
        if not math.isfinite(value):
            return {**state, "count": state["count"] + 1}
        if state["smooth"] is None:
            return {"smooth": value, "best": value, "count": 0}
        smooth = self.smoothing * value + (1.0 - self.smoothing) * state["smooth"]
        best = state["best"]
        if best - smooth > self.threshold * abs(best):
            return {"smooth": smooth, "best": smooth, "count": 0}
        return {"smooth": smooth, "best": best, "count": state["count"] + 1}

    def _check(self, state: ConditionState, progress: Progress) -> StopReason | None:
        if state["count"] >= self.patience:
            detail = f"{self.metric} has not improved for {state['count']} evaluations"
            return StopReason(StopKind.PLATEAU, detail)
        return None


@dataclasses.dataclass(frozen=True)
class Any:
    """Stops as soon as one of `conditions` does; the first in order names the reason.

    Raises:
      ConfigError: no condition.
    """

    conditions: tuple[AnyType, ...]

    def __post_init__(self):
        if not self.conditions:
            raise ConfigError("nothing ends the training", fix="Give steps, seconds or samples")

    def init(self) -> ConditionState:
        """States of all conditions, by position and name."""
        return {self._key(i): c.init() for i, c in enumerate(self.conditions)}

    def evaluated(self, state: ConditionState, evaluation: Evaluation) -> ConditionState:
        """Passes an evaluation to all."""
        return {
            self._key(i): c.evaluated(state[self._key(i)], evaluation)
            for i, c in enumerate(self.conditions)
        }

    def check(
        self, state: ConditionState, progress: Progress, *, shared_only: bool = False
    ) -> StopReason | None:
        """The first reason, or None."""
        for i, condition in enumerate(self.conditions):
            reason = condition.check(state[self._key(i)], progress, shared_only=shared_only)
            if reason is not None:
                return reason
        return None

    def _key(self, index: int) -> str:
        return f"{index}:{type(self.conditions[index]).__name__}"


def _require(good: bool, name: str, value: AnyType, expected: str) -> None:
    if not good:
        raise ConfigError(f"train.{name} is {value!r}", fix=f"It must be {expected}")


def metric_of(evaluation: Evaluation, name: str) -> float:
    """The named metric.

    Raises:
      ConfigError: there is no such metric; the message lists what there is.
    """
    if name not in evaluation.metrics:
        known = ", ".join(sorted(evaluation.metrics)) or "none: this task has no evaluation"
        raise ConfigError(f"there is no metric {name!r}", fix=f"Evaluated metrics: {known}")
    return float(evaluation.metrics[name])
