"""`fit`: the one training loop, for every task.

The order within a turn is evaluate, save, next batch, step, write. The data iterator advances only
after a save, so a checkpoint always means "the state before the next batch", and a run killed at
any point continues with the same batches, keys and losses.

    result = fit(task, data, OptimConfig(), None, Steps(1000), seed=0,
                 loop=LoopConfig(eval_every=100, best_metric="val/loss"),
                 checkpoints=Checkpoints(workdir / "checkpoints"),
                 writer=JsonlWriter(workdir / "metrics.jsonl"))
    result.state.params, result.reason.kind, result.best
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh

from attn_jax.core.errors import ConfigError
from attn_jax.core.interrupts import Interrupts
from attn_jax.train import interrupts as interrupts_lib
from attn_jax.train.checkpoints import Checkpoints
from attn_jax.train.optim import OptimConfig
from attn_jax.train.progress import ProgressBar
from attn_jax.train.runstate import RunState
from attn_jax.train.settings import Data, FitResult, LoopConfig, Timing
from attn_jax.train.sharding import Rule, place_batch, state_shardings, whole
from attn_jax.train.step import (
    CompiledStep,
    StepOutput,
    TrainState,
    abstract_state,
    init_state,
    make_train_step,
    nonfinite_report,
)
from attn_jax.train.stopping import Condition, Evaluation, StopKind, StopReason
from attn_jax.train.task import Task
from attn_jax.train.writers import Writer

# Steps that may be queued on the device: enough to hide the host's work, few enough that a time
# limit and a signal are obeyed promptly.
_MAX_IN_FLIGHT = 2


def fit(
    task: Task,
    data: Data,
    optim: OptimConfig,
    state: TrainState | None,
    until: Condition,
    *,
    seed: int = 0,
    loop: LoopConfig | None = None,
    checkpoints: Checkpoints | None = None,
    writer: Writer | None = None,
    mesh: Mesh | None = None,
    rules: Sequence[Rule] = (),
) -> FitResult:
    """Trains until a condition says stop.

    Args:
      task: model, loss and evaluations.
      data: batches; its position is part of every checkpoint.
      optim: how updates are made.
      state: where to start; None = fresh parameters from `seed`. A checkpoint has precedence. The
        state is donated: do not use it afterwards.
      until: when to stop, for example `Any((Steps(1000), Seconds(60)))`.
      seed: seed of fresh parameters and of every step's key.
      loop: intervals and limits.
      checkpoints: where to save and from where to continue; None = neither.
      writer: destination of metrics besides the returned history.
      mesh: devices to use; None = the default device.
      rules: where parameters live on the mesh, see `sharding.state_shardings`.

    Raises:
      NonFiniteError: `max_skips` steps in a row gave no finite update.
      ConfigError: a metric that `until` or `loop` name does not exist, or a batch does not divide.
      CheckpointError: the latest checkpoint is damaged or of another configuration.
      DiskFullError: a checkpoint cannot be written; earlier ones are intact.
    """
    like = abstract_state(task, optim)
    shardings = None if mesh is None else state_shardings(like, mesh, rules)
    if shardings is not None:
        like = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), like, shardings
        )
    restored = checkpoints.restore(like) if checkpoints else None
    if restored is not None:
        data.set_state(restored.data)
        run = RunState.from_json(restored.host["run"], until.init())
        state = restored.state
        logging.info("continuing from step %d", restored.step)
    else:
        run = RunState(conditions=until.init())
        if state is None:
            state = init_state(task, optim, seed, shardings=shardings)
        elif jax.tree.structure(state) != jax.tree.structure(like):
            raise ConfigError("the state was made for another task or optim", fix="Use init_state")
        elif shardings is not None:
            state = jax.device_put(state, shardings)
    if writer is not None:
        writer.truncate(run.step if restored else -1)
    step = make_train_step(task, optim, shardings=shardings)
    parts = _Parts(task, data, until, loop or LoopConfig(), checkpoints, writer, mesh, like)
    assert state is not None
    return _Fit(parts, CompiledStep(step), state, run).until_stopped()


@dataclasses.dataclass(frozen=True)
class _Parts:
    task: Task
    data: Data
    until: Condition
    loop: LoopConfig
    checkpoints: Checkpoints | None
    writer: Writer | None
    mesh: Mesh | None
    like: TrainState


class _Fit:
    """One call of `fit`: device state, host state, and what is still in flight between them."""

    def __init__(self, parts: _Parts, step: CompiledStep, state: TrainState, run: RunState):
        self.parts, self.step, self.state, self.run = parts, step, state, run
        self.history: list[dict[str, Any]] = []
        self.spent = {"train": 0.0, "eval": 0.0, "save": 0.0}
        self._in_flight: collections.deque[tuple[int, Any, StepOutput]] = collections.deque()
        self._bad: list[tuple[int, Any]] = []  # steps of the present streak of skips, data indices
        self._saved_at = run.step if run.step else -1
        self._clock = self._started = time.monotonic()
        self._first_samples = run.samples
        feedback = getattr(parts.data, "feedback", None)
        self._feedback = feedback if getattr(parts.data, "wants_feedback", True) else None

    def until_stopped(self) -> FitResult:
        loop = self.parts.loop
        shown = loop.progress if jax.process_index() == 0 else False
        bar = ProgressBar(loop.total_steps, enabled=shown)
        with Interrupts() as interrupts, bar:
            while True:
                reason = self._reason(interrupts)
                if self._evaluation_due(reason):
                    improved = self._evaluate()
                    reason = reason or self._reason(interrupts)
                else:
                    improved = False
                if reason is not None:
                    self._note_stop(reason)
                if self._save_due(reason, improved):
                    self._save(reason is not None or improved)
                if reason is not None:
                    break
                self._advance()
                if self.run.step % loop.log_every == 0:
                    self._log(bar)
                else:
                    bar.update(step=self.run.step, seconds_left=self._seconds_left())
        self._settle()
        logging.info("stopped at step %d: %s", self.run.step, reason.detail)
        return self._result(reason)

    # --- the parts of a turn, in order ---

    def _reason(self, interrupts: Interrupts) -> StopReason | None:
        self._tick()
        parts, run = self.parts, self.run
        check = parts.until.check
        if jax.process_count() == 1:
            return interrupts_lib.reason(interrupts) or check(run.conditions, run.progress)
        # What does not depend on this machine's clock or files is the same everywhere; about the
        # rest the processes must talk, which they do once per line of the log.
        shared = check(run.conditions, run.progress, shared_only=True)
        if shared is not None or run.step % parts.loop.log_every:
            return shared
        mine = interrupts_lib.reason(interrupts) or check(run.conditions, run.progress)
        return interrupts_lib.agree(mine)

    def _evaluation_due(self, reason: StopReason | None) -> bool:
        run, loop = self.run, self.parts.loop
        if not self.parts.task.evaluations or run.evaluated_at == run.step:
            return False
        if reason is not None:
            return reason.kind is not StopKind.INTERRUPTED  # then there may be little time left
        if run.step == 0:
            return loop.eval_at_start
        return bool(loop.eval_every) and run.step % loop.eval_every == 0

    def _evaluate(self) -> bool:
        """Evaluates, writes the line, tells `until`; True when the best metric improved."""
        self._settle()
        run, loop = self.run, self.parts.loop
        with self._timed("eval"):
            metrics = {}
            for name, evaluation in self.parts.task.evaluations.items():
                for key, value in evaluation(self.state.eval_params).items():
                    metrics[f"{name}/{key}"] = float(value)
        run.metrics = metrics
        ema = float("nan") if run.train_ema is None else run.train_ema
        run.conditions = self.parts.until.evaluated(run.conditions, Evaluation(metrics, ema))
        run.evaluated_at = run.step
        self._write({**run.position(), **metrics})
        if loop.best_metric is None:
            return False
        if loop.best_metric not in metrics:
            raise ConfigError(
                f"best_metric {loop.best_metric!r} was not evaluated",
                fix=f"Evaluated: {', '.join(sorted(metrics))}",
            )
        if run.step == 0:
            return False  # the start has no checkpoint, so the best one is another
        return run.improves(metrics[loop.best_metric], loop.best_mode)

    def _note_stop(self, reason: StopReason) -> None:
        """Writes why the run ends, before the save: lines after a checkpoint are written again."""
        if self.run.step == self._saved_at:
            return  # a finished run that was started again
        self._settle()
        fields = {"event": "stopped", "kind": reason.kind.value, "detail": reason.detail}
        self._write({**self.run.position(), **fields})

    def _save_due(self, reason: StopReason | None, improved: bool) -> bool:
        run, loop, checkpoints = self.run, self.parts.loop, self.parts.checkpoints
        if checkpoints is None or run.step == 0 or run.step == self._saved_at:
            return False
        if reason is not None or (improved and checkpoints.keeps_best):
            return True
        return bool(loop.save_every) and run.step % loop.save_every == 0

    def _save(self, wanted: bool) -> None:
        """Saves; during a streak of skipped steps only when `wanted`, not for the interval."""
        self._settle()
        run, checkpoints = self.run, self.parts.checkpoints
        assert checkpoints is not None
        if self._bad and not wanted:
            # Keep the last checkpoint from before the trouble as the one to go back to.
            logging.warning("no checkpoint at step %d: updates are being skipped", run.step)
            return
        metric = None
        if run.evaluated_at == run.step and self.parts.loop.best_metric is not None:
            metric = run.metrics.get(self.parts.loop.best_metric)
            metric = None if metric != metric else metric
        with self._timed("save"):
            host = {"run": dataclasses.asdict(run), "best": run.best}
            checkpoints.save(
                run.step, self.state, host=host, data=self.parts.data.get_state(), metric=metric
            )
        self._saved_at = run.step

    def _advance(self) -> None:
        """Draws a batch and queues its step."""
        with self._timed("train"):
            batch = next(self.parts.data)
            indices = batch.get("index")
            rows = _rows(batch) * (1 if self.parts.mesh is None else jax.process_count())
            placed = place_batch(batch, self.parts.mesh)
        program = self.step.prepare(self.state, placed)
        with self._timed("train"):
            self.state, output = program(self.state, placed)
            self.run.step += 1
            self.run.samples += rows
            self.run.window_samples += rows
            self._in_flight.append((self.run.step, indices, output))
            if self._feedback is not None:
                self._feed_back(placed.get("index"), output)
            elif len(self._in_flight) > _MAX_IN_FLIGHT:
                jax.block_until_ready(self._in_flight[-1 - _MAX_IN_FLIGHT][2].loss)

    def _log(self, bar: ProgressBar) -> None:
        self._settle()
        values = self.run.take_window()
        self._write({**self.run.position(), **values})
        shown = {name: values[name] for name in ("loss", "learning_rate") if name in values}
        bar.update(
            step=self.run.step,
            seconds_left=self._seconds_left(),
            samples_per_s=values.get("samples_per_s"),
            values=shown,
        )

    def _seconds_left(self) -> float | None:
        limit = self.parts.loop.time_limit
        return None if limit is None else limit.left(self.run.progress)

    # --- between host and device ---

    def _feed_back(self, indices: Any, output: StepOutput) -> None:
        if indices is None or output.per_sample is None:
            raise ConfigError(
                "the data ask for per-sample losses, but "
                + ("batches have no 'index'" if indices is None else "the task reports none"),
                fix="Use a sampling that needs none, or report them in Aux.per_sample",
            )
        # The next draw may depend on them, and every process must draw the same.
        losses = whole(output.per_sample)
        if np.isfinite(losses).all():
            assert self._feedback is not None
            self._feedback(whole(indices), losses)

    def _settle(self) -> None:
        """Waits for queued steps and takes their values, in order."""
        with self._timed("train"):
            arrived = [
                (s, i, jax.device_get(dataclasses.replace(o, per_sample=None)))
                for s, i, o in self._in_flight
            ]
            self._in_flight.clear()
        too_many = None
        for step, indices, output in arrived:
            loss = float(output.loss)
            values = {name: float(value) for name, value in output.metrics.items()}
            values["loss"] = loss
            values["grad_norm"] = float(output.grad_norm)
            for group, norm in output.group_norms.items():
                values[f"grad_norm/{group}"] = float(norm)
            values["learning_rate"] = float(output.learning_rate)
            finite = bool(output.finite)
            self.run.add_step(loss=loss, values=values, finite=finite)
            if finite:
                self._bad.clear()
            else:
                self._bad.append((step, indices))
                if int(output.consecutive_skips) >= self.parts.loop.max_skips:
                    too_many = (output, step, list(self._bad))
        if too_many is not None:
            self._recover(*too_many)

    def _recover(self, output: StepOutput, step: int, bad: list[tuple[int, Any]]) -> None:
        """Goes back to the last good checkpoint when allowed, otherwise raises the report."""
        run, loop, checkpoints = self.run, self.parts.loop, self.parts.checkpoints
        steps = checkpoints.steps() if checkpoints else []
        if run.restores < loop.max_restores and checkpoints is not None and steps:
            restored = checkpoints.restore(self.parts.like)
            assert restored is not None
            self.state = dataclasses.replace(
                restored.state,
                step=self.state.step,
                # Updates applied stay what the schedule counts.
                skipped=self.state.step - (restored.state.step - restored.state.skipped),
                consecutive_skips=restored.state.consecutive_skips * 0,
            )
            run.restores += 1
            self._bad.clear()
            self._write({**run.position(), "event": f"restored step {restored.step}"})
            logging.warning("step %d: restored the checkpoint of step %d", run.step, restored.step)
            return
        raise nonfinite_report(output, step, bad, steps)

    def _write(self, line: dict[str, Any]) -> None:
        self.history.append(line)
        if self.parts.writer is not None and jax.process_index() == 0:
            self.parts.writer.write(line)

    def _tick(self) -> None:
        now = time.monotonic()
        self.run.wall_s += now - self._clock
        self._clock = now

    @contextlib.contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - started
            self.spent[what] += seconds
            if what == "train":
                self.run.train_s += seconds
                self.run.window_s += seconds
            self._tick()

    def _result(self, reason: StopReason) -> FitResult:
        samples = self.run.samples - self._first_samples
        train_s = self.spent["train"]
        timing = Timing(
            compile_s=self.step.seconds,
            train_s=train_s,
            eval_s=self.spent["eval"],
            save_s=self.spent["save"],
            wall_s=time.monotonic() - self._started,
            samples_per_s=samples / train_s if samples else 0.0,
        )
        return FitResult(
            state=self.state,
            reason=reason,
            step=self.run.step,
            samples=self.run.samples,
            history=tuple(self.history),
            metrics=self.run.metrics,
            best=self.run.best,
            timing=timing,
        )


def _rows(batch: Mapping[str, Any]) -> int:
    return len(next(iter(batch.values())))
