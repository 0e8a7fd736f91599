"""The loop: order, resume to the bit, stops, guard, feedback."""

import dataclasses
import os
import signal
import threading

import jax
import numpy as np
import pytest

from attn_jax.core.errors import ConfigError, NonFiniteError
from attn_jax.train.checkpoint_files import find_checkpoint
from attn_jax.train.checkpoints import Checkpoints
from attn_jax.train.loop import fit
from attn_jax.train.settings import LoopConfig
from attn_jax.train.step import init_state
from attn_jax.train.stopping import Any, Seconds, Steps, StopFile, StopKind, Target
from attn_jax.train.writers import read_jsonl
from tests import testing
from tests.train import toy

QUIET = LoopConfig(log_every=1, progress=False)
CLOCKS = ("train_s", "wall_s", "samples_per_s")


def without_clocks(lines):
    return [{k: v for k, v in line.items() if k not in CLOCKS} for line in lines]


def assert_same_tree(first, second):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def train(steps, *, data=None, optim=toy.OPTIM, loop=QUIET, **kwargs):
    return fit(toy.ToyTask(), data or toy.ToyData(), optim, None, Steps(steps), loop=loop, **kwargs)


def test_learns():
    result = train(120, optim=dataclasses.replace(toy.OPTIM, decay_steps=120))
    losses = [line["loss"] for line in result.history if "loss" in line]
    assert np.mean(losses[-20:]) < 0.3 * np.mean(losses[:5])
    assert result.metrics["val/mse"] < 0.1


def test_counts_and_reports():
    result = train(7, loop=LoopConfig(log_every=3, eval_every=5, progress=False))
    assert result.reason.kind is StopKind.STEPS
    assert (result.step, result.samples) == (7, 7 * toy.BATCH)
    assert int(result.state.step) == 7
    # Evaluations at 0, 5 and the end; lines of the log at 3 and 6; why it ended.
    assert [line["step"] for line in result.history] == [0, 3, 5, 6, 7, 7]
    assert {k: v for k, v in result.history[-1].items() if k not in CLOCKS} == {
        "step": 7,
        "samples": 7 * toy.BATCH,
        "event": "stopped",
        "kind": "steps",
        "detail": "7 of 7 steps done",
    }
    log = result.history[1]
    # Every step's norm is that of its groups together; the lines have means over three steps.
    assert set(log) >= {"grad_norm", "grad_norm/hidden", "grad_norm/out"}
    assert max(log["grad_norm/hidden"], log["grad_norm/out"]) < log["grad_norm"]
    assert log["grad_norm"] < log["grad_norm/hidden"] + log["grad_norm/out"]
    assert result.timing.compile_s > 0
    assert result.timing.samples_per_s > 0


def test_a_split_run_equals_a_whole_one_to_the_bit(tmp_path):
    whole = toy.run(tmp_path / "whole", 17)
    # 7 is neither a line of the log, nor an evaluation, nor a periodic save.
    for steps in (7, 17):
        split = toy.run(tmp_path / "split", steps)
    assert_same_tree(whole.state, split.state)
    lines = {
        name: {
            line["step"]: line
            for line in without_clocks(read_jsonl(tmp_path / name / "metrics.jsonl"))
            if "loss" in line
        }
        for name in ("whole", "split")
    }
    assert lines["whole"] == lines["split"]
    assert len(lines["whole"]) == 17 // 3


@pytest.mark.slow
def test_killed_anywhere_continues_to_the_bit(tmp_path):
    whole = toy.run(tmp_path / "whole", 21)
    folder = tmp_path / "killed"
    kills = ("step:3", "save:4:0", "save:8:30", "step:18")
    for kill in kills:
        child = testing.run_python(
            "-m", "tests.train.toy", folder, "21", environment={"TOY_KILL": kill}
        )
        assert child.returncode == -signal.SIGKILL, (kill, child.stderr)
    split = toy.run(folder, 21)
    assert_same_tree(whole.state, split.state)
    assert split.best == whole.best
    first = without_clocks(read_jsonl(tmp_path / "whole" / "metrics.jsonl"))
    assert without_clocks(read_jsonl(folder / "metrics.jsonl")) == first
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == sorted(
        p.name for p in (tmp_path / "whole" / "checkpoints").iterdir()
    )


def test_running_a_finished_run_again_does_nothing(tmp_path):
    first = toy.run(tmp_path, 6)
    text = (tmp_path / "metrics.jsonl").read_text()
    again = toy.run(tmp_path, 6)
    assert_same_tree(first.state, again.state)
    assert (tmp_path / "metrics.jsonl").read_text() == text
    assert again.metrics == first.metrics
    assert again.timing.compile_s == 0


def test_the_iterator_advances_only_after_the_save(tmp_path):
    seen = []

    class Watched(Checkpoints):
        def save(self, step, state, *, data=None, **kwargs):
            seen.append((step, data["drawn"]))
            super().save(step, state, data=data, **kwargs)

    with Watched(tmp_path) as checkpoints:
        train(6, checkpoints=checkpoints, loop=LoopConfig(save_every=2, progress=False))
    assert seen == [(2, 2), (4, 4), (6, 6)]


def test_best_is_kept_and_marked(tmp_path):
    values = iter([5.0, 3.0, 1.0, 4.0, 2.0])
    task = toy.ToyTask()
    task.evaluations = {"val": lambda params: {"mse": next(values)}}
    loop = LoopConfig(eval_every=2, best_metric="val/mse", progress=False)
    with Checkpoints(tmp_path, keep_last=1, keep_best=1) as checkpoints:
        result = fit(
            task, toy.ToyData(), toy.OPTIM, None, Steps(8), loop=loop, checkpoints=checkpoints
        )
        assert checkpoints.steps() == [4, 8]
    assert result.best == {"step": 4, "value": 1.0}


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_earliest_of_equal_checkpoints_is_kept_as_the_best(tmp_path, mode):
    values = iter([2.0, 1.0, 1.0, 1.0])
    task = toy.ToyTask()
    task.evaluations = {"val": lambda params: {"hit": next(values)}}
    loop = LoopConfig(
        eval_every=2, eval_at_start=mode == "min", best_metric="val/hit", best_mode=mode
    )
    if mode == "max":
        next(values)  # a hit rate that cannot grow any more
    with Checkpoints(tmp_path, keep_last=1, keep_best=1, best_mode=mode) as checkpoints:
        result = fit(
            task, toy.ToyData(), toy.OPTIM, None, Steps(6), loop=loop, checkpoints=checkpoints
        )
        assert checkpoints.steps() == [2, 6]
    assert result.best == {"step": 2, "value": 1.0}
    assert find_checkpoint(tmp_path, "best").name == "2"


def test_the_start_is_not_the_best_checkpoint(tmp_path):
    values = iter([0.0, 3.0, 2.0, 4.0])
    task = toy.ToyTask()
    task.evaluations = {"val": lambda params: {"mse": next(values)}}
    loop = LoopConfig(eval_every=2, best_metric="val/mse", progress=False)
    with Checkpoints(tmp_path, keep_last=1) as checkpoints:
        result = fit(
            task, toy.ToyData(), toy.OPTIM, None, Steps(6), loop=loop, checkpoints=checkpoints
        )
    assert result.best == {"step": 4, "value": 2.0}
    assert find_checkpoint(tmp_path, "best").name == "4"


def test_target_stops_at_the_evaluation():
    values = iter([5.0, 3.0, 1.0])
    task = toy.ToyTask()
    task.evaluations = {"val": lambda params: {"mse": next(values)}}
    until = Any((Steps(100), Target("val/mse", 2.0)))
    loop = LoopConfig(eval_every=3, progress=False)
    result = fit(task, toy.ToyData(), toy.OPTIM, None, until, loop=loop)
    assert result.reason.kind is StopKind.TARGET
    assert result.step == 6


def test_unknown_metric_fails_before_training():
    with pytest.raises(ConfigError, match=r"val/accuracy.*val/mse"):
        train(5, loop=LoopConfig(best_metric="val/accuracy", progress=False))


def test_seconds_and_stop_file(tmp_path):
    until = Any((Steps(10**9), Seconds(0.05)))
    result = fit(toy.ToyTask(), toy.ToyData(), toy.OPTIM, None, until, loop=QUIET)
    assert result.reason.kind is StopKind.SECONDS
    assert result.step > 0
    until = Any((Steps(10**9), Seconds(1e-9, "wall")))  # over before it began
    with Checkpoints(tmp_path / "checkpoints") as kept:
        task, data = toy.ToyTask(), toy.ToyData()
        result = fit(task, data, toy.OPTIM, None, until, loop=QUIET, checkpoints=kept)
        assert result.reason.kind is StopKind.SECONDS
        assert result.step == 1 and kept.steps() == [1]
    (tmp_path / "stop").touch()
    until = Any((Steps(10**9), StopFile(str(tmp_path / "stop"))))
    result = fit(toy.ToyTask(), toy.ToyData(), toy.OPTIM, None, until, loop=QUIET)
    assert result.reason.kind is StopKind.STOP_FILE
    assert result.step == 0


def test_the_bar_knows_the_time_limit(capsys):
    loop = LoopConfig(progress=True, total_steps=10**9, time_limit=Seconds(1e5))
    fit(toy.ToyTask(), toy.ToyData(), toy.OPTIM, None, Steps(3), loop=loop)
    assert "1 day, 3:46:3" in capsys.readouterr().err  # 99 990 to 99 999 s


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops(tmp_path, number):
    class Data(toy.ToyData):
        def __next__(self):
            if self.drawn == 4:
                os.kill(os.getpid(), number)
            return super().__next__()

    before = signal.getsignal(number)
    with Checkpoints(tmp_path) as checkpoints:
        result = train(100, data=Data(), checkpoints=checkpoints)
        assert checkpoints.steps() == [5]
    assert result.reason.kind is StopKind.INTERRUPTED
    assert number.name in result.reason.detail
    assert signal.getsignal(number) == before


def test_works_outside_the_main_thread():
    results = []
    thread = threading.Thread(target=lambda: results.append(train(2)))
    thread.start()
    thread.join()
    assert results[0].step == 2


def test_a_bad_batch_is_skipped():
    good = train(1).state
    result = train(4, data=toy.ToyData(poison=range(1, 4)))
    assert (int(result.state.skipped), int(result.state.consecutive_skips)) == (3, 3)
    assert_same_tree(result.state.params, good.params)
    assert_same_tree(result.state.opt_state, good.opt_state)
    assert [line.get("skipped_steps") for line in result.history if line["step"]][:4] == [
        None,
        1.0,
        1.0,
        1.0,
    ]


def test_too_many_bad_batches_are_reported(tmp_path):
    data = toy.ToyData(poison=range(5, 100))
    loop = LoopConfig(save_every=2, log_every=4, max_skips=3, progress=False)
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(NonFiniteError) as error:
            train(50, data=data, checkpoints=checkpoints, loop=loop)
        # The save of step 6 lies in the streak and is left out.
        assert checkpoints.steps()[-1] == 4
    text = str(error.value)
    assert "first of them step 6" in text
    assert "loss nan" in text
    assert "hidden" in text and "out" in text
    assert "last good checkpoint: step 4" in text
    indices = []
    data = toy.ToyData()
    train(5, data=data)
    indices = next(data)["index"].tolist()
    assert f"6: {indices}" in text


def test_restores_the_last_good_checkpoint(tmp_path):
    data = toy.ToyData(poison=range(5, 9))
    loop = LoopConfig(save_every=2, log_every=4, max_skips=3, max_restores=1, progress=False)
    with Checkpoints(tmp_path) as checkpoints:
        result = train(12, data=data, checkpoints=checkpoints, loop=loop)
    events = [(line["step"], line["event"]) for line in result.history if "event" in line]
    assert events == [(8, "restored step 4"), (12, "stopped")]
    assert int(result.state.step) == 12
    # Four updates before the checkpoint; batches 9 to 12 after it, of which the first is bad.
    assert int(result.state.step - result.state.skipped) == 4 + 3
    assert np.isfinite(result.history[-1].get("loss", 0.0))


def test_feedback_reaches_the_data_in_order():
    calls = []

    class Data(toy.ToyData):
        def feedback(self, indices, per_sample):
            calls.append((self.drawn, indices.tolist(), per_sample.copy()))

    data = Data()
    twin = Data()
    train(3, data=data)
    assert [drawn for drawn, _, _ in calls] == [1, 2, 3]
    assert calls[0][1] == next(twin)["index"].tolist()
    assert calls[0][2].shape == (toy.BATCH,) and (calls[0][2] > 0).all()


def test_feedback_needs_per_sample_losses():
    class Task(toy.ToyTask):
        def loss(self, params, batch, rng):
            loss, aux = super().loss(params, batch, rng)
            return loss, dataclasses.replace(aux, per_sample=None)

    with pytest.raises(ConfigError, match="per-sample"):
        fit(Task(), toy.ToyData(), toy.OPTIM, None, Steps(2), loop=QUIET)


def test_starts_from_a_given_state():
    state = init_state(toy.ToyTask(), toy.OPTIM, 0)
    same = train(3).state
    given = fit(toy.ToyTask(), toy.ToyData(), toy.OPTIM, state, Steps(3), loop=QUIET).state
    assert_same_tree(same, given)
    other = init_state(toy.ToyTask(), dataclasses.replace(toy.OPTIM, ema=0.0), 0)
    with pytest.raises(ConfigError, match="another task"):
        fit(toy.ToyTask(), toy.ToyData(), toy.OPTIM, other, Steps(3), loop=QUIET)


if __name__ == "__main__":
    testing.main()
