"""Host state: averages, windows, best, and the trip through a checkpoint."""

import dataclasses

import pytest

from attn_jax.core.errors import CheckpointError
from attn_jax.train.host_text import json_text, json_value
from attn_jax.train.runstate import RunState
from tests import testing


def add(run, *losses):
    for loss in losses:
        run.add_step(loss=loss, values={"loss": loss}, finite=True)


def test_train_ema_by_hand():
    run = RunState()
    add(run, 1.0, 2.0, 0.0)
    # 1, then 0.1 * 2 + 0.9 * 1, then 0.9 * 1.1
    assert run.train_ema == pytest.approx(0.99)


def test_window_is_a_mean_and_empties():
    run = RunState()
    add(run, 1.0, 2.0)
    run.add_step(loss=float("nan"), values={"loss": float("nan")}, finite=False)
    run.window_samples, run.window_s = 30, 2.0
    assert run.take_window() == {"loss": 1.5, "samples_per_s": 15.0, "skipped_steps": 1.0}
    assert run.take_window() == {}
    assert run.train_ema == pytest.approx(1.1)


@pytest.mark.parametrize(("mode", "expected"), [("min", [1, 0, 1, 0]), ("max", [1, 1, 0, 0])])
def test_best(mode, expected):
    run = RunState()
    assert [int(run.improves(v, mode)) for v in (2.0, 3.0, 1.0, float("nan"))] == expected


def test_nan_is_never_the_best():
    run = RunState()
    assert not run.improves(float("nan"), "min")
    assert run.best is None


def test_interrupted_anywhere_the_numbers_are_the_same():
    whole = RunState()
    add(whole, 0.1, 0.2, 0.3, 0.4)
    for cut in range(4):
        part = RunState()
        add(part, *[0.1, 0.2, 0.3, 0.4][:cut])
        part = RunState.from_json(json_value(json_text(dataclasses.asdict(part))), {})
        add(part, *[0.1, 0.2, 0.3, 0.4][cut:])
        assert part == whole


def test_new_conditions_start_afresh_and_old_ones_continue():
    saved = dataclasses.asdict(RunState(conditions={"0:Steps": {}, "1:Plateau": {"count": 3}}))
    run = RunState.from_json(saved, {"1:Plateau": {"count": 0}, "2:Target": {"value": None}})
    assert run.conditions == {"1:Plateau": {"count": 3}, "2:Target": {"value": None}}


def test_fields_of_another_version():
    saved = dataclasses.asdict(RunState())
    del saved["restores"]
    with pytest.raises(CheckpointError, match="restores"):
        RunState.from_json(saved, {})


if __name__ == "__main__":
    testing.main()
