"""What a training run knows on the host: counters, running averages, the state of `until`.

It is saved with every checkpoint as JSON, whose numbers are exact, so a run that continues writes
the same lines as one that was never interrupted.

    run = RunState()
    run.add_step(loss=0.5, values={"loss": 0.5, "grad_norm": 1.0}, finite=True)
    line = run.take_window()
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from attn_jax.core.errors import CheckpointError
from attn_jax.train.metrics import Mean, compute_all, merge_all
from attn_jax.train.stopping import Progress

TRAIN_EMA = 0.1  # weight of the newest loss in `train_ema`


@dataclasses.dataclass
class RunState:
    """Host state of a run; all fields JSON-able.

    Attributes:
      step: steps taken.
      samples: samples seen.
      train_s: seconds of steps and waiting for data.
      wall_s: seconds since the run began, restarts excluded.
      train_ema: running average of the loss of applied steps, None before the first.
      window: metric name -> [total, count] since the last line of the log.
      window_skipped: skipped steps since then.
      window_samples: samples since then.
      window_s: seconds of training since then.
      conditions: state of `until`.
      best: {"step", "value"} of the best evaluation, or None.
      metrics: the last evaluation, by name.
      evaluated_at: step of the last evaluation, -1 before the first.
      restores: how often the last good checkpoint was restored after non-finite steps.
    """

    step: int = 0
    samples: int = 0
    train_s: float = 0.0
    wall_s: float = 0.0
    train_ema: float | None = None
    window: dict[str, Any] = dataclasses.field(default_factory=dict)
    window_skipped: int = 0
    window_samples: int = 0
    window_s: float = 0.0
    conditions: dict[str, Any] = dataclasses.field(default_factory=dict)
    best: dict[str, Any] | None = None
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    evaluated_at: int = -1
    restores: int = 0

    @classmethod
    def from_json(cls, fields: Mapping[str, Any], conditions: Mapping[str, Any]) -> RunState:
        """The state that was saved as `dataclasses.asdict`.

        Args:
          fields: what was saved.
          conditions: initial state of this run's `until`; conditions that the saved run did not
            have start afresh.

        Raises:
          CheckpointError: fields are missing or unknown.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        if set(fields) != names:
            raise CheckpointError(
                f"the run state has other fields: {sorted(names.symmetric_difference(fields))}",
                fix="Continue with the version of this package that made the checkpoint",
            )
        run = cls(**fields)
        run.conditions = {
            **conditions,
            **{k: run.conditions.get(k, v) for k, v in conditions.items()},
        }
        return run

    @property
    def progress(self) -> Progress:
        """Position for `until`."""
        return Progress(self.step, self.samples, self.train_s, self.wall_s)

    def position(self) -> dict[str, Any]:
        """The fields that every line of the log starts with."""
        return {
            "step": self.step,
            "samples": self.samples,
            "train_s": round(self.train_s, 3),
            "wall_s": round(self.wall_s, 3),
        }

    def add_step(self, *, loss: float, values: Mapping[str, float], finite: bool) -> None:
        """Takes the values of one step, in the order of steps; a skipped step only counts."""
        if not finite:
            self.window_skipped += 1
            return
        means = {name: Mean(*total) for name, total in self.window.items()}
        merged = merge_all(means, {name: Mean(value, 1.0) for name, value in values.items()})
        self.window = {name: [mean.total, mean.count] for name, mean in merged.items()}
        old = loss if self.train_ema is None else self.train_ema
        self.train_ema = TRAIN_EMA * loss + (1.0 - TRAIN_EMA) * old

    def take_window(self) -> dict[str, float]:
        """Means since the last call, with the rate in samples/s; empties the window."""
        values = compute_all({name: Mean(*total) for name, total in self.window.items()})
        if self.window_s > 0:
            values["samples_per_s"] = self.window_samples / self.window_s
        if self.window_skipped:
            values["skipped_steps"] = float(self.window_skipped)
        self.window, self.window_skipped, self.window_samples, self.window_s = {}, 0, 0, 0.0
        return values

    def improves(self, value: float, mode: str) -> bool:
        """Records `value` of the present step when it is the best so far; says whether it is."""
        best = None if self.best is None else self.best["value"]
        better = best is None or (value < best if mode == "min" else value > best)
        if not better or value != value:
            return False
        self.best = {"step": self.step, "value": value}
        return True
