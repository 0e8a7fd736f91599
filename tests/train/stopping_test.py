"""Conditions as pure functions: golden traces, order, states that survive JSON."""

import itertools
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_jax.core.errors import ConfigError
from attn_jax.train.stopping import (
    Any,
    Divergence,
    Evaluation,
    Plateau,
    Progress,
    Samples,
    Seconds,
    Steps,
    StopFile,
    StopKind,
    Target,
)
from tests import testing


def trace(condition, values, train_ema=0.1, field="count"):
    """The value of a field of the state after each evaluation."""
    state, seen = condition.init(), []
    for value in values:
        state = condition.evaluated(state, Evaluation({"val": value}, train_ema))
        state = json.loads(json.dumps(state))  # as a checkpoint would keep it
        seen.append(state[field])
    return seen


def stops_at(condition, values, train_ema=0.1):
    """Number of the evaluation after which the condition stops, or None."""
    state = condition.init()
    for number, value in enumerate(values, start=1):
        state = condition.evaluated(state, Evaluation({"val": value}, train_ema))
        if condition.check(state, Progress()):
            return number
    return None


class TestDivergence:
    def test_gap_counts_in_a_row_and_one_good_value_resets(self):
        rule = Divergence("val", gap=0.25, ratio=100.0, patience=3, min_updates=0)
        values = [0.25, 0.5, 0.75, 0.49, 0.5, 1.0, 0.5]
        assert trace(rule, values, train_ema=0.25) == [0, 1, 2, 0, 1, 2, 3]
        assert stops_at(rule, values, train_ema=0.25) == 7

    def test_ratio(self):
        rule = Divergence("val", gap=100.0, ratio=1.5, patience=2, min_updates=0)
        assert trace(rule, [0.149, 0.151, 0.16]) == [0, 1, 2]
        # A training loss of zero does not divide by zero.
        assert trace(rule, [1e-9, 2e-8], train_ema=0.0) == [0, 1]

    def test_the_first_updates_do_not_count(self):
        rule = Divergence("val", gap=0.0, ratio=100.0, patience=2, min_updates=3)
        assert trace(rule, [0.5] * 5) == [0, 0, 0, 1, 2]

    def test_spikes_need_a_full_window(self):
        rule = Divergence(
            "val",
            gap=100.0,
            ratio=1e9,
            patience=1,
            min_updates=0,
            spike_threshold=2.0,
            spike_window=4,
            spike_frequency=0.75,
        )
        # Best is 1.0; 2.0 is not above twice the best, 2.1 is.
        assert trace(rule, [1.0, 2.1, 2.1, 2.1], field="spikes")[-1] == [0, 1, 1, 1]
        assert stops_at(rule, [1.0, 2.1, 2.1, 2.1]) == 4
        assert stops_at(rule, [1.0, 2.1, 2.1]) is None
        assert stops_at(rule, [1.0, 2.0, 2.0, 2.0, 2.0]) is None
        assert stops_at(rule, [1.0, 2.1, 1.0, 2.1, 1.0, 2.1]) is None

    def test_not_finite_is_divergent(self):
        rule = Divergence("val", gap=100.0, ratio=1e9, patience=2, min_updates=0)
        assert trace(rule, [math.nan, math.inf, 1.0]) == [1, 2, 0]

    def test_no_training_loss_yet(self):
        assert trace(Divergence("val", min_updates=0), [3.0], train_ema=math.nan) == [0]

    @given(st.lists(st.floats(0, 10), max_size=30))
    def test_counts_go_up_by_one_or_to_zero(self, values):
        counts = [0, *trace(Divergence("val", min_updates=0), values)]
        assert all(b in (a + 1, 0) for a, b in itertools.pairwise(counts))


class TestPlateau:
    def test_golden_trace(self):
        rule = Plateau("val", smoothing=0.5, threshold=0.1, patience=3)
        # E: 1, 0.9 (exactly 10 %: no), 0.7 (yes), 0.7, 0.65, 0.635
        assert trace(rule, [1.0, 0.8, 0.5, 0.7, 0.6, 0.62]) == [0, 1, 0, 1, 2, 3]
        assert trace(rule, [1.0, 0.8, 0.5, 0.7], field="smooth") == pytest.approx(
            [1.0, 0.9, 0.7, 0.7]
        )
        assert stops_at(rule, [1.0, 0.8, 0.5, 0.7, 0.6, 0.62]) == 6

    def test_slow_progress_adds_up(self):
        rule = Plateau("val", smoothing=1.0, threshold=0.05, patience=3)
        values = [0.98**n for n in range(40)]  # 2 % per evaluation, counted every third
        assert stops_at(rule, values) is None

    def test_not_finite_does_not_enter_the_average(self):
        rule = Plateau("val", smoothing=1.0, threshold=0.0, patience=9)
        assert trace(rule, [math.nan, 1.0, math.nan, 0.5]) == [1, 0, 1, 0]

    @given(st.floats(0.1, 10), st.integers(1, 6))
    def test_a_flat_metric_stops_after_patience(self, value, patience):
        rule = Plateau("val", patience=patience)
        assert stops_at(rule, [value] * 20) == patience + 1


def test_limits():
    at = Progress(step=5, samples=40, train_s=2.0, wall_s=3.0)
    kinds = {
        StopKind.STEPS: (Steps(5), Steps(6)),
        StopKind.SAMPLES: (Samples(40), Samples(41)),
        StopKind.SECONDS: (Seconds(2.0), Seconds(2.5)),
    }
    for kind, (reached, open_) in kinds.items():
        assert reached.check({}, at).kind is kind
        assert open_.check({}, at) is None
    assert Seconds(2.5, "wall").check({}, at).kind is StopKind.SECONDS
    assert Seconds(2.5, "wall").check({}, Progress(step=0, wall_s=3.0)) is None


def test_a_target_is_a_lower_or_an_upper_bound():
    with pytest.raises(ConfigError, match=r"stop.target mode is 'high'. It must be min or max"):
        Target("val", 2.0, "high")


@pytest.mark.parametrize(("mode", "expected"), [("min", 3), ("max", 1)])
def test_target(mode, expected):
    assert stops_at(Target("val", 2.0, mode), [3.0, 2.5, 2.0]) == expected
    assert stops_at(Target("val", 2.0, mode), [math.nan]) is None
    assert Target("val", 2.0, mode).check({}, Progress()) is None


def test_stop_file(tmp_path):
    rule = StopFile(str(tmp_path / "stop"))
    assert rule.check({}, Progress()) is None
    (tmp_path / "stop").touch()
    assert rule.check({}, Progress()).kind is StopKind.STOP_FILE


def test_any_takes_the_first_in_order_and_keeps_states_apart():
    until = Any((Plateau("val", patience=1), Plateau("val", patience=2), Steps(3)))
    state = until.init()
    for _ in range(2):
        state = until.evaluated(state, Evaluation({"val": 1.0}, 0.1))
    assert [entry.get("count") for entry in state.values()] == [1, 1, None]
    assert until.check(state, Progress(step=3)).kind is StopKind.PLATEAU
    assert until.check(until.init(), Progress(step=3)).kind is StopKind.STEPS
    assert until.check(until.init(), Progress(step=2)) is None


def test_shared_only_leaves_out_clocks_and_files(tmp_path):
    (tmp_path / "stop").touch()
    until = Any((Seconds(0.0), StopFile(str(tmp_path / "stop")), Steps(3)))
    state = until.init()
    assert until.check(state, Progress(step=3)).kind is StopKind.SECONDS
    assert until.check(state, Progress(step=3), shared_only=True).kind is StopKind.STEPS
    assert until.check(state, Progress(step=2), shared_only=True) is None


def test_errors():
    with pytest.raises(ConfigError, match="nothing ends"):
        Any(())
    with pytest.raises(ConfigError, match="train or wall"):
        Seconds(1.0, "cpu")
    nan, inf = math.nan, math.inf
    for rule, fields in (
        (Seconds, {"seconds": nan}),
        (Seconds, {"seconds": inf}),
        (Target, {"metric": "val", "value": nan}),
        (Target, {"metric": "val", "value": inf}),
        *((Divergence, {"metric": "val", name: nan}) for name in ("gap", "ratio")),
        *((Divergence, {"metric": "val", f"spike_{n}": nan}) for n in ("threshold", "frequency")),
        (Divergence, {"metric": "val", "spike_window": 0}),
        *((Plateau, {"metric": "val", "smoothing": value}) for value in (nan, 0.0, 1.5)),
        *((Plateau, {"metric": "val", "threshold": value}) for value in (nan, inf, -0.1)),
    ):
        with pytest.raises(ConfigError, match=r"train\.[a-z_.]+ is .*It must be"):
            rule(**fields)
    with pytest.raises(ConfigError, match=r"no metric 'loss'.*val"):
        Plateau("loss").evaluated(Plateau("loss").init(), Evaluation({"val": 1.0}, 0.1))


if __name__ == "__main__":
    testing.main()
