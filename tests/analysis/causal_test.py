"""Tests of attn_jax.analysis.causal."""

import dataclasses

import numpy as np
import pytest

from attn_jax.analysis import aggregate, causal, hypotheses, shift, tables
from attn_jax.analysis.options import Options
from attn_jax.core.errors import RecordError
from configs.analysis import h2_2_answers
from launch import aggregate as aggregate_launcher
from tests import testing
from tests.analysis import runs
from tests.analysis.runs import study_of, value

SHAPE = (len(runs.STEPS), runs.HORIZON, 4)


def occluded(run, key, which, actions, noise="", **facts):
    info = {
        "intervention": {
            "set": which,
            "camera": "wrist",
            "layer": 5,
            "fill": "mean",
            "noise": noise,
            **facts,
        }
    }
    runs.write_run(run / "variants" / key, info=info, actions=actions, attention=False)


def test_fidelity_of_two_seeds_by_hand(tmp_path):
    base = np.random.default_rng(0).normal(size=SHAPE)
    std = base.reshape(-1, 4).std(0)
    runs.write_run(tmp_path, actions=base)
    other = base + 0.5 * std
    runs.write_run(tmp_path / "variants" / "noise_1", actions=other, info={"method": "none"})
    occluded(tmp_path, "high_0", "high", base + 2 * std)
    occluded(tmp_path, "control_0", "control", base + std)
    occluded(tmp_path, "high_1", "high", other + 3 * std, noise="noise_1")
    occluded(tmp_path, "control_1", "control", other, noise="noise_1")
    table = hypotheses.run(study_of(tmp_path), "h1", Options())
    labels = {"camera": "wrist", "layer": 5, "variant": "mean", "kind": "occlusion"}
    # ((4 - 1) + (9 - 0)) / 2
    assert value(table, metric="fidelity", **labels) == pytest.approx(6.0, rel=1e-4)
    assert value(table, metric="mse_high", **labels) == pytest.approx(6.5, rel=1e-4)
    assert value(table, metric="null_floor") == pytest.approx(0.25, rel=1e-4)


def test_controls_of_another_shape_do_not_count(tmp_path):
    """The second of three calls has no control of its shape; there the control does more harm."""
    base = np.random.default_rng(0).normal(size=SHAPE)
    std = base.reshape(-1, 4).std(0)
    runs.write_run(tmp_path, actions=base)
    moved = base + std
    moved[1] += 9 * std
    occluded(tmp_path, "high_0", "high", base + 2 * std, matched=[True, False, True])
    occluded(tmp_path, "control_0", "control", moved, matched=[True, False, True])
    study = study_of(tmp_path)
    table = hypotheses.run(study, "h1", Options())
    labels = {"camera": "wrist", "variant": "mean"}
    assert value(table, metric="matched_share", **labels) == pytest.approx(2 / 3)
    assert value(table, metric="fidelity", **labels) == pytest.approx(4 - 1, rel=1e-4)
    assert value(table, metric="mse_control", **labels) == pytest.approx(1, rel=1e-4)
    kept = hypotheses.run(study, "h1", Options(keep_unmatched=True))
    assert value(kept, metric="matched_share", **labels) == pytest.approx(2 / 3)
    assert value(kept, metric="fidelity", **labels) == pytest.approx(
        4 - (1 + 100 + 1) / 3, rel=1e-4
    )


def test_what_was_not_said_of_a_control_is_not_held_against_it(tmp_path):
    runs.write_run(tmp_path)
    occluded(tmp_path, "high_0", "high", np.ones(SHAPE))
    occluded(tmp_path, "control_0", "control", np.ones(SHAPE))
    table = hypotheses.run(study_of(tmp_path), "h1", Options())
    assert table.value[table.metric == "matched_share"].isna().all()
    assert value(table, metric="fidelity") == 0
    occluded(tmp_path, "control_0", "control", np.ones(SHAPE), matched=[True])
    with pytest.raises(RecordError, match="no list of 3 calls"):
        hypotheses.run(study_of(tmp_path), "h1", Options())
    occluded(tmp_path, "control_0", "control", np.ones((3, 2, 4)))
    with pytest.raises(RecordError, match=r"control_0: actions of shape \(3, 2, 4\)"):
        hypotheses.run(study_of(tmp_path), "h1", Options())


def test_identical_masks_have_fidelity_zero(tmp_path):
    runs.write_run(tmp_path)
    hidden = np.random.default_rng(3).normal(size=SHAPE)
    occluded(tmp_path, "high_0", "high", hidden)
    occluded(tmp_path, "control_0", "control", hidden)
    table = hypotheses.run(study_of(tmp_path), "h1", Options())
    assert (table.value[table.metric == "fidelity"] == 0).all()


def test_the_unit_is_the_spread_of_the_run(tmp_path):
    """A gripper that rests in one episode: closing it by 0.01 of its range is a small change."""
    rng = np.random.default_rng(0)
    base, other = rng.normal(size=(2, *SHAPE))
    base[..., 3] = 0.5 + 1e-6 * rng.normal(size=SHAPE[:2])
    other[..., 3] = rng.random(SHAPE[:2])
    moved = base + np.array([0, 0, 0, 0.01])
    runs.write_run(tmp_path, actions=base)
    runs.write_run(tmp_path, 1, actions=other)
    occluded(tmp_path, "high_0", "high", moved)
    occluded(tmp_path, "control_0", "control", base)
    std = np.concatenate([base, other]).reshape(-1, 4).std(0)
    table = hypotheses.run(study_of(tmp_path), "h1", Options())
    expected = (0.01 / std[3]) ** 2 / 4  # the mean over four dimensions
    assert expected < 1e-3
    assert value(table, metric="fidelity") == pytest.approx(expected, rel=1e-3)
    # Alone, the episode says nothing of the gripper: it is left out.
    alone = dataclasses.replace(study_of(tmp_path), action_std=shift.action_std([base]))
    assert value(hypotheses.run(alone, "h1", Options()), metric="fidelity") == 0
    with pytest.raises(RecordError, match=r"shift.action_std"):
        hypotheses.run(dataclasses.replace(alone, action_std=None), "h1", Options())
    with pytest.raises(RecordError, match="4 action dimensions, the run has 3"):
        hypotheses.run(dataclasses.replace(alone, action_std=std[:3]), "h1", Options())


def test_incomplete_occlusions_are_named(tmp_path):
    runs.write_run(tmp_path)
    with pytest.raises(RecordError, match="no runs with hidden patches"):
        hypotheses.run(study_of(tmp_path), "h1", Options())
    occluded(tmp_path, "high_0", "high", np.zeros(SHAPE))
    with pytest.raises(RecordError, match=r"\['high'\] instead of high and control"):
        hypotheses.run(study_of(tmp_path), "h1", Options())
    occluded(tmp_path, "control_0", "control", np.zeros(SHAPE), noise="noise_7")
    with pytest.raises(RecordError, match="no run 'noise_7'"):
        hypotheses.run(study_of(tmp_path), "h1", Options())


def test_a_set_that_is_there_twice_is_named(tmp_path):
    runs.write_run(tmp_path)
    for key in ("high_0", "high_of_another_share"):
        occluded(tmp_path, key, "high", np.zeros(SHAPE))
    with pytest.raises(RecordError, match="high_of_another_share: a second high run of"):
        hypotheses.run(study_of(tmp_path), "h1", Options())


def test_a_turned_map_without_mass_has_no_top_patches(tmp_path):
    def blind(made):
        values = np.array(made["prefix"].values)
        values[..., 16:32] = 0  # the wrist camera
        return {"prefix": dataclasses.replace(made["prefix"], values=values)}

    runs.write_run(tmp_path, extra=blind)
    info = {"rotation": {"degrees": 180, "camera": ["wrist", "front"]}}
    runs.write_run(tmp_path / "variants" / "turned", info=info, extra=blind)
    table = hypotheses.run(study_of(tmp_path), "rotation", Options(streams=("prefix:text",)))
    found = table[table.metric == "topk_iou"]
    assert found.value[found.camera == "wrist"].isna().all()
    assert found.value[found.camera == "front"].notna().all()


def test_a_turned_run_of_other_layers_is_named(tmp_path):
    runs.write_run(tmp_path)
    info = {"rotation": {"degrees": 180, "camera": "wrist"}}
    runs.write_run(tmp_path / "variants" / "turned", info=info, layers=(2, 4))
    with pytest.raises(RecordError, match=r"turned: layers \[2, 4\] were recorded"):
        hypotheses.run(study_of(tmp_path), "rotation", Options())


def test_actions_of_another_shape_are_named(tmp_path):
    runs.write_run(tmp_path)
    occluded(tmp_path, "high_0", "high", np.zeros((3, 2, 4)))
    occluded(tmp_path, "control_0", "control", np.zeros((3, 2, 4)))
    with pytest.raises(RecordError, match=r"high_0: actions of shape \(3, 2, 4\).*\(3, 3, 4\)"):
        hypotheses.run(study_of(tmp_path), "h1", Options())


def test_an_intervention_that_says_too_little(tmp_path):
    runs.write_run(tmp_path)
    for facts in ({"set": "high", "camera": "wrist"}, "high"):
        runs.write_run(tmp_path / "variants" / "odd", info={"intervention": facts}, attention=False)
        with pytest.raises(RecordError, match="odd: `intervention` lacks"):
            hypotheses.run(study_of(tmp_path), "h1", Options())


def test_answers(tmp_path):
    runs.write_run(tmp_path)
    facts = {"question": "what colour is the cube?", "answer": "The Red.", "expected": "red"}
    runs.write_run(tmp_path / "variants" / "q1", info={"vqa": {**facts, "object": "red_cube"}})
    runs.write_run(
        tmp_path / "variants" / "q2", info={"vqa": {**facts, "answer": "blue"}}, attention=False
    )
    table = hypotheses.run(study_of(tmp_path), "h2_2", Options(streams=("prefix:text",)))
    assert value(table, metric="correct", variant="q1") == 1
    assert value(table, metric="correct", variant="q2") == 0
    assert value(table, metric="lift", variant="q1", role="target") == pytest.approx(6.4, rel=0.01)
    assert len(table[(table.metric == "lift") & (table.variant == "q2")]) == 0
    with pytest.raises(RecordError, match="no runs with questions"):
        runs.write_run(tmp_path / "bare")
        hypotheses.run(study_of(tmp_path / "bare"), "h2_2", Options())


@pytest.mark.parametrize(
    ("facts", "correct"),
    [
        ({"answer": ["red", "blue", "a red", "Red!"], "expected": "red"}, 0.75),
        ({"answer": [], "expected": "red"}, np.nan),
        ({"answer": "", "expected": "red"}, 0.0),
        ({"answer": ["red"]}, np.nan),
    ],
)
def test_shares_of_right_answers(tmp_path, facts, correct):
    runs.write_run(tmp_path)
    info = {"vqa": {"question": "which?", **facts}}
    runs.write_run(tmp_path / "variants" / "q", info=info, attention=False)
    table = hypotheses.run(study_of(tmp_path), "h2_2", Options(streams=("prefix:text",)))
    np.testing.assert_array_equal(table.value[table.metric == "correct"], [correct])
    # Nothing could be set against a mask: the family has a test, and no number.
    assert table.value[table.metric == "lift"].isna().tolist() == [True]
    families = aggregate_launcher.families_of(h2_2_answers.get_config("tiny").to_dict())
    tested = aggregate.aggregate(tables.episode_table(table), families, resamples=99)
    tested = tested.set_index("metric")
    assert tested.n["lift"] == 0 and tested.reason["lift"]
    assert tested.n["correct"] == np.isfinite(correct)


def test_a_question_about_an_unknown_object_is_an_error(tmp_path):
    runs.write_run(tmp_path)
    info = {"vqa": {"question": "where?", "answer": "left", "object": "duck"}}
    runs.write_run(tmp_path / "variants" / "q", info=info)
    with pytest.raises(RecordError, match=r"variant q.*'duck', the episode has red_cube"):
        hypotheses.run(study_of(tmp_path), "h2_2", Options(streams=("prefix:text",)))
    # An episode without masks has no names to compare with; its answers still count.
    runs.write_run(tmp_path / "bare", objects=())
    runs.write_run(tmp_path / "bare" / "variants" / "q", info=info, objects=())
    table = hypotheses.run(study_of(tmp_path / "bare"), "h2_2", Options(streams=("prefix:text",)))
    assert set(table.metric) == {"correct", "lift"}


def test_a_question_that_is_none(tmp_path):
    runs.write_run(tmp_path)
    runs.write_run(tmp_path / "variants" / "q1", info={"vqa": "red"}, attention=False)
    with pytest.raises(RecordError, match="q1: `vqa`"):
        hypotheses.run(study_of(tmp_path), "h2_2", Options())


def test_plain_answers():
    assert causal.plain("A red  Cube!") == "red cube"
    assert causal.plain("the") == ""
    assert causal.plain("2") == "2"


def test_rotation(tmp_path):
    """The planted cube stays at its place while the picture turns: equivariance fails."""
    runs.write_run(tmp_path)
    info = {"rotation": {"degrees": 180, "camera": "wrist"}}
    runs.write_run(tmp_path / "variants" / "turned", info=info)
    options = Options(streams=("prefix:text",))
    table = hypotheses.run(study_of(tmp_path), "rotation", options)
    # (1, 1) turns to (2, 2): root 2 patches away, weighted by the 0.4 that is there.
    moved = value(table, metric="centroid_shift_patches")
    assert moved == pytest.approx(np.sqrt(2) * (0.4 - 0.6 / 15), rel=0.1)
    assert value(table, metric="topk_iou") < 0.5
    # Its masks were not turned here, so the mass on the cube is the same.
    assert value(table, metric="overlap_drop", object="red_cube") == pytest.approx(0, abs=1e-3)
    runs.write_run(
        tmp_path / "variants" / "odd", info={"rotation": {"degrees": 45, "camera": "wrist"}}
    )
    with pytest.raises(RecordError, match="45 degrees"):
        hypotheses.run(study_of(tmp_path), "rotation", options)


@pytest.mark.parametrize(
    "facts", [{"degrees": 90}, {"degrees": "ninety", "camera": "wrist"}, "ninety"]
)
def test_a_rotation_that_says_too_little(tmp_path, facts):
    runs.write_run(tmp_path)
    runs.write_run(tmp_path / "variants" / "odd", info={"rotation": facts})
    with pytest.raises(RecordError, match=r"odd: `rotation` is .*It needs `degrees`"):
        hypotheses.run(study_of(tmp_path), "rotation", Options())


if __name__ == "__main__":
    testing.main()
