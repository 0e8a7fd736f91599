"""What `fit` takes and returns: the data protocol, intervals, the result.

Usage:

    LoopConfig(eval_every=100, save_every=500, best_metric="val/loss")
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from attn_jax.core.errors import ConfigError
from attn_jax.train.step import TrainState
from attn_jax.train.stopping import Seconds, StopReason


@runtime_checkable
class Data(Protocol):
    """An endless, resumable source of batches.

    More members are optional. `close()` ends background work. `feedback(indices, per_sample)`
    receives `batch["index"]` and the task's per-sample losses before the next batch is drawn; a
    false `wants_feedback` turns it off. The same state and the same calls must lead to the same
    batches.
    """

    def __next__(self) -> Mapping[str, Any]:
        """The next batch: name -> NumPy array whose leading axis is this process's samples."""
        ...

    def get_state(self) -> Any:
        """Position before the next batch: nested dicts, lists, numbers, strings, bytes, arrays."""
        ...

    def set_state(self, state: Any) -> None:
        """Goes back to a position."""
        ...


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """When the loop does what.

    Attributes:
      eval_every: steps between evaluations, 0 = only at the end.
      eval_at_start: evaluate before the first step too.
      save_every: steps between checkpoints, 0 = only at the end.
      log_every: steps per line of the log.
      best_metric: `<evaluation>/<metric>` that ranks checkpoints, or None; of equal ones the
        earliest is the best.
      best_mode: `min` or `max`.
      max_skips: steps in a row without a finite update that end the run (or restore, see below).
      max_restores: how often the last good checkpoint is restored instead; data and keys move on.
      progress: progress bar; None = only on a terminal.
      total_steps: where the bar ends, if known.
      time_limit: what else may end it, for the time left.

    Raises:
      ConfigError: a value is out of range.
    """

    eval_every: int = 0
    eval_at_start: bool = True
    save_every: int = 0
    log_every: int = 50
    best_metric: str | None = None
    best_mode: str = "min"
    max_skips: int = 10
    max_restores: int = 0
    progress: bool | None = None
    total_steps: int | None = None
    time_limit: Seconds | None = None

    def __post_init__(self):
        for name in ("eval_every", "save_every", "max_restores"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}", fix="It must be at least 0")
        for name in ("log_every", "max_skips"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}", fix="It must be at least 1")
        if self.best_mode not in ("min", "max"):
            raise ConfigError(f"best_mode is {self.best_mode!r}", fix="Use min or max")


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of this call of `fit`, except `samples_per_s`.

    Attributes:
      compile_s: compiling steps.
      train_s: steps and waiting for their data.
      eval_s: evaluations, their compiling included.
      save_s: writing checkpoints.
      wall_s: everything.
      samples_per_s: samples of this call / train_s; 0 when no step was taken.
    """

    compile_s: float
    train_s: float
    eval_s: float
    save_s: float
    wall_s: float
    samples_per_s: float


@dataclasses.dataclass(frozen=True)
class FitResult:
    """What `fit` returns.

    Attributes:
      state: device state at the end.
      reason: why it ended.
      step: steps taken over all restarts.
      samples: samples seen over all restarts.
      history: lines written by this call, as dicts.
      metrics: the last evaluation, by name.
      best: {"step", "value"} of `best_metric` after the first step or later, or None.
      timing: where the time of this call went.
    """

    state: TrainState
    reason: StopReason
    step: int
    samples: int
    history: tuple[dict[str, Any], ...]
    metrics: dict[str, float]
    best: dict[str, Any] | None
    timing: Timing
