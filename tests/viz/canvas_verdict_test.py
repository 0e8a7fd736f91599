"""Tests of attn_jax.viz.canvas_verdict."""

import math

import pytest

from attn_jax.viz.canvas_verdict import HEADLINES, in_words, judge, percent
from tests import testing
from tests.viz import canvas_runs


def _level(counterfactual=..., **skill):
    evaluation = canvas_runs.evaluation(**skill)
    if counterfactual is not ...:
        evaluation["counterfactual"] = counterfactual
    return judge(evaluation).level


UNKNOWN = {"hit_rate_3px": None, "copy_last_hit_rate_3px": None}


def test_a_good_model_predicts_and_the_words_carry_its_numbers():
    verdict = judge(canvas_runs.evaluation())
    assert (verdict.level, verdict.headline) == ("good", HEADLINES["good"])
    words = " ".join(check.sentence for check in verdict.checks)
    for number in ("0.00071", "0.0147", "0.0194", "20.7 times smaller", "97.6", "98.4", "297"):
        assert number in words
    assert all(check.passed for check in verdict.checks)


@pytest.mark.parametrize(
    ("changes", "level"),
    [
        ({"plain_mse": 0.0147}, "mixed"),  # no better than copying, but the dot is found
        ({"plain_mse": 0.0147, **UNKNOWN}, "bad"),
        ({"plain_mse": 0.0196, "copy_last_mse": 0.03, **UNKNOWN}, "bad"),  # grey is as good
        ({"plain_mse": 0.0147, "hit_rate_3px": 0.3}, "bad"),
        ({"hit_rate_3px": 0.49}, "bad"),  # low error, but the dot is where copying has it
        ({"hit_rate_3px": 0.0}, "bad"),
        ({"hit_rate_3px": 0.7}, "mixed"),
        ({"plain_mse": math.nan, "hit_rate_3px": 0.0}, "bad"),
        (UNKNOWN, "good"),
    ],
)
def test_the_verdict_follows_the_numbers(changes, level):
    assert _level(**changes) == level


def test_a_model_that_ignores_actions_predicts_only_in_part():
    ignoring = {"correct_rate": 0.5, "per_action": {"a": {}, "b": {}}}
    assert _level(ignoring) == "mixed"
    sentence = judge({**canvas_runs.evaluation(), "counterfactual": ignoring}).checks[2].sentence
    assert "50\u202f%" in sentence and "by chance 50\u202f%" in sentence


def test_tests_that_were_not_made_are_named_and_do_not_count():
    evaluation = canvas_runs.evaluation(**UNKNOWN)
    evaluation["counterfactual"] = {"correct_rate": None}
    verdict = judge(evaluation)
    assert verdict.level == "good"
    assert [check.passed for check in verdict.checks] == [True, None, None]
    assert all("not tested" in check.sentence for check in verdict.checks[1:])
    assert _level(None) == "good"


def test_a_worse_error_is_told_as_worse():
    words = judge(canvas_runs.evaluation(plain_mse=0.0294)).checks[0].sentence
    assert "2.0 times larger than that of repeating the last frame" in words
    words = judge(canvas_runs.evaluation(plain_mse=0.0147)).checks[0].sentence
    assert "no better than that of repeating the last frame" in words


@pytest.mark.parametrize(
    ("trained_on", "words"),
    [
        ([], "on 297 held-out canvases is"),
        (None, "on 297 canvases is"),
        (["dot", "far"], "on 297 canvases (trained on in part or whole: dot, far) is"),
    ],
)
def test_only_canvases_that_training_did_not_see_are_held_out(trained_on, words):
    evaluation = {**canvas_runs.evaluation(), "trained_on": trained_on}
    assert words in judge(evaluation).checks[0].sentence


def test_a_dot_that_is_not_found_has_no_distance():
    words = judge(canvas_runs.evaluation(hit_rate_3px=0.1, median_dot_error_px=None)).checks[1]
    assert "no dot is found" in words.sentence and "median" not in words.sentence


def test_percentages():
    shown = [percent(x).replace("\u202f", " ") for x in (0.5, 0.976, 0.0123, 1, 0.9999, 0, None)]
    assert shown == ["50 %", "97.6 %", "1.2 %", "100 %", "100 %", "0 %", "n/a"]
    assert in_words(4.0) == "4"


if __name__ == "__main__":
    testing.main()
