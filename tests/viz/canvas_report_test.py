"""Tests of attn_jax.viz.canvas_report."""

import dataclasses
import json

import pytest

from attn_jax.viz import canvas_report, report
from attn_jax.viz.canvas_report import build_canvas_report
from attn_jax.viz.canvas_verdict import judge
from tests import testing
from tests.viz import canvas_runs
from tests.viz.report_test import Outline

ORDER = [
    "verdict",
    "skill",
    "learning",
    "pictures",
    "counterfactuals",
    "rollouts",
    "attention",
    "configuration",
    "provenance",
]


@pytest.fixture(scope="module")
def run():
    return canvas_runs.run(attention_layers=2)


@pytest.fixture(scope="module")
def built(run):
    return build_canvas_report(run)


def _text(built, section):
    blocks = next(s for s in built.sections if s.name == section).blocks
    return " ".join(" ".join(b.paragraphs) for b in blocks if isinstance(b, report.Text))


def test_sections_are_in_order_and_the_page_is_small(built):
    assert [section.name for section in built.sections] == ORDER
    page = report.render(built)
    assert len(page.encode()) < 2_000_000
    outline = Outline(page)
    assert len(outline.all("img")) == 12
    assert all(len(image["alt"]) > 30 for image in outline.all("img"))
    assert "The model predicts the next frame." in outline.text


def test_the_twin_carries_the_evaluation_under_its_own_names(run, built):
    out = report.twin(built)
    assert out["skill"] == run.evaluation["skill"]
    assert out["rollout"] == run.evaluation["rollout"]
    assert out["counterfactual"] == run.evaluation["counterfactual"]
    assert out["verdict"]["level"] == "good"
    assert len(out["attention"]["decoder"]["stripe_mass"]) == 2
    assert out["config"]["train"]["optim"]["lr"] == 3e-4
    assert out["training"] == run.metrics
    json.dumps(out, allow_nan=False)


def test_the_lowest_error_is_marked_even_when_it_is_a_baseline(run):
    def best(**skill):
        changed = dataclasses.replace(run, evaluation=canvas_runs.evaluation(**skill))
        table = canvas_report.skill_blocks(changed)[0]
        return table.rows[table.best[0]][0]

    rows = {row[0]: row for row in canvas_report.skill_blocks(run)[0].rows}
    assert rows["best constant grey"][1:4] == (0.0194, 17.1, 0.31)
    assert rows["all black"][1:4] == (0.0198, 17.0, 0.94)
    assert best() == "model"
    assert best(plain_mse=0.05) == "copy last frame"


def test_a_useless_model_is_called_so():
    run = canvas_runs.run(wrong=True, plain_mse=0.02, hit_rate_3px=0.02, median_dot_error_px=None)
    verdict = canvas_report.verdict_blocks(judge(run.evaluation))[0]
    assert verdict.emphasis == "bad"
    assert verdict.paragraphs[0] == "The model does not predict the next frame."


def test_the_curve_says_when_it_beats_copying(run):
    def story(metrics):
        return canvas_report.learning_blocks(dataclasses.replace(run, metrics=metrics))[0].alt

    assert "first below copying the last frame after 3\u202f120 samples" in story(run.metrics)
    high = [{"samples": s, "validation/plain_mse": 0.05} for s in (10, 20)]
    assert "never gets below" in story(high)
    assert "20 training samples." in story(high)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ([0.001] * 3 + [0.05] * 5, "From step 4 on it is no better than repeating"),
        ([0.05] * 2 + [0.001] * 6, "At steps 1, 2 it is no better than repeating"),
        ([0.001] * 7 + [0.05], "From step 8 on it is no better than repeating"),
        ([0.001] * 8, "It stays below repeating"),
    ],
)
def test_rollouts_say_when_they_are_of_no_use(run, error, said):
    copied = run.evaluation["rollout"]["copy_last_mse"]
    assert all(0.001 < c < 0.05 for c in copied)
    evaluation = {**run.evaluation, "rollout": {**run.evaluation["rollout"], "plain_mse": error}}
    words = canvas_report.rollout_blocks(dataclasses.replace(run, evaluation=evaluation))[0]
    assert isinstance(words, report.Text) and said in words.paragraphs[0]


def test_parts_that_were_not_evaluated_are_named(run):
    evaluation = {**run.evaluation, "counterfactual": None, "rollout": None, "per_action": {}}
    pictures = {k: run.pictures[k] for k in ("canvas", "prediction", "target")}
    built = build_canvas_report(
        dataclasses.replace(run, evaluation=evaluation, pictures=pictures, records={}, metrics=())
    )
    assert "not evaluated" in _text(built, "counterfactuals")
    assert "not evaluated" in _text(built, "rollouts")
    assert "No whole attention maps were captured" in _text(built, "attention")
    assert "no validation error" in _text(built, "learning")
    report.render(built)


def test_an_unknown_world_has_no_dot_numbers(run):
    unknown = dict.fromkeys(
        (k for k in run.evaluation["skill"] if "hit_rate" in k or "dot_error" in k), None
    )
    evaluation = canvas_runs.evaluation(**unknown)
    evaluation["counterfactual"] |= {"correct_rate": None, "hit_rate_3px": None, "per_action": {}}
    evaluation["rollout"] |= {"hit_rate_3px": [None] * 8, "median_dot_error_px": [None] * 8}
    pictures = {k: v for k, v in run.pictures.items() if k != "counterfactual/truth"}
    built = build_canvas_report(
        dataclasses.replace(run, evaluation=evaluation, pictures=pictures, records={})
    )
    assert "dot" not in _text(built, "rollouts")
    report.render(built)


if __name__ == "__main__":
    testing.main()
