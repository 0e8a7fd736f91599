"""Tests of attn_jax.analysis.objects on runs with planted attention."""

import numpy as np
import pytest

from attn_jax.analysis import hypotheses
from attn_jax.analysis.options import Options
from tests import testing
from tests.analysis import runs
from tests.analysis.runs import study_of, value

BOTH = Options(streams=("prefix:text", "suffix:action"))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    runs.write_run(run, drift=0.1)
    runs.write_variants(run)
    return study_of(run)


def test_objects_get_their_planted_share(study):
    table = hypotheses.run(study, "h1_1", BOTH)
    text = {"query": "text", "camera": "wrist", "object": "red_cube"}
    assert value(table, metric="overlap", **text) == pytest.approx(0.4, rel=0.01)
    assert value(table, metric="lift", **text) == pytest.approx(0.4 * 16, rel=0.01)
    assert value(table, metric="overlap_picture", **text) == pytest.approx(0.4, rel=0.01)
    assert value(table, metric="pointing", **text) == 1
    ball = {"query": "text", "camera": "wrist", "object": "ball"}
    assert value(table, metric="overlap", **ball) == pytest.approx(0.6 * 2 / 15, rel=0.1)
    # Three actions with 0.4, 0.5 and 0.6.
    action = {"query": "action", "camera": "front", "object": "red_cube"}
    assert value(table, metric="overlap", **action) == pytest.approx(0.5, rel=0.01)
    assert value(table, metric="camera_mass", query="action") == pytest.approx(0.25, rel=0.01)
    assert value(table, metric="bar_mass", query="action") == pytest.approx(0.0, abs=1e-12)


def test_a_planted_drift_along_the_chunk(study):
    table = hypotheses.run(study, "h3", Options())
    labels = {"object": "red_cube", "camera": "wrist"}
    assert value(table, metric="slope_action", **labels) == pytest.approx(0.1 * 0.25, rel=0.02)
    assert value(table, metric="slope_denoise", **labels) == pytest.approx(0, abs=1e-6)
    for number, share in enumerate((0.4, 0.5, 0.6)):
        found = value(table, metric="roi_curve", query=f"action/{number}", **labels)
        assert found == pytest.approx(share * 0.25, rel=0.01)
    assert value(table, metric="roi_mass_last_action", **labels) == pytest.approx(0.15, rel=0.01)


def test_heads_can_be_joined_in_other_ways(study):
    """Both heads look alike, so the more focused one has the mean; each has its own best patch."""
    cube = {"object": "red_cube", "camera": "wrist", "query": "action"}
    found = hypotheses.run(study, "h1_1", Options(heads="focused:1"))
    assert value(found, metric="overlap", **cube) == pytest.approx(0.5, rel=0.01)
    found = hypotheses.run(study, "h1_1", Options(heads="count:0.94"))  # the largest of 16
    assert value(found, metric="overlap", **cube) == 1
    labels = {"object": "red_cube", "camera": "wrist", "metric": "roi_mass"}
    found = hypotheses.run(study, "h3", Options(heads="sum"))
    assert value(found, **labels) == pytest.approx(2 * 0.5 * 0.25, rel=0.01)


def test_the_slope_along_denoising_is_per_step_of_the_sampler(tmp_path):
    """Of ten steps two were kept; 0.02 of the camera's 0.25 moves onto the cube with each step."""
    runs.write_run(tmp_path, share=0.2, denoise=(0, 9), denoise_drift=0.02)
    table = hypotheses.run(study_of(tmp_path), "h3", Options())
    labels = {"object": "red_cube", "camera": "wrist"}
    assert value(table, metric="slope_denoise", **labels) == pytest.approx(0.02 * 0.25, rel=0.01)


def test_frames_that_do_not_show_an_object_do_not_count(tmp_path):
    """Same attention, but the cube is seen in the first of three frames only."""

    def seen():
        out = runs.masks()
        out[1:, 0] = False
        return out

    runs.write_run(tmp_path / "all", drift=0.1)
    runs.write_run(tmp_path / "one", drift=0.1, seen=seen)
    cube = {"object": "red_cube", "camera": "wrist"}
    for name, metrics in (
        ("h1_1", ("overlap", "overlap_picture", "lift", "iou")),
        ("h3", ("slope_action", "slope_denoise", "roi_mass", "roi_mass_first_action")),
    ):
        whole, part = (
            hypotheses.run(study_of(tmp_path / run), name, Options()) for run in ("all", "one")
        )
        for metric in metrics:
            assert value(part, metric=metric, **cube) == pytest.approx(
                value(whole, metric=metric, **cube), rel=0.02, abs=1e-6
            )
            later = part[
                (part.metric == metric) & (part.object == "red_cube") & (part.env_step > 0)
            ]
            assert later.value.isna().all()
        assert value(whole, metric="visible", **cube) == 1
        assert value(part, metric="visible", **cube) == pytest.approx(1 / 3)
        assert value(part, metric="visible", object="ball", role="distractor") == 1
    curve = value(part, metric="roi_curve", query="action/2", **cube)
    assert curve == pytest.approx(0.6 * 0.25, rel=0.01)


def test_the_first_look_is_of_the_first_call_alone(tmp_path):
    """NaN where the first frame does not show the object, however well the others do."""

    def hidden_first():
        out = runs.masks()
        out[0, 0] = False
        return out

    cube = {"object": "red_cube", "camera": "wrist"}
    for name, seen in (("all", runs.masks), ("later", hidden_first)):
        runs.write_run(tmp_path / name, share=0.4, seen=seen)
        table = hypotheses.run(study_of(tmp_path / name), "h1_1", Options())
        first = table[(table.metric == "overlap_picture_first") & (table.object == "red_cube")]
        assert set(first.env_step) == {0} and len(first) == 2 * 2  # cameras and layers
        assert value(table, metric="overlap_picture", **cube) == pytest.approx(0.4, rel=0.01)
        expected = 0.4 if name == "all" else np.nan
        found = value(table, metric="overlap_picture_first", **cube)
        assert found == pytest.approx(expected, rel=0.01, nan_ok=True)


def test_masses_are_those_recorded_where_sinks_are_removed(tmp_path):
    """The ranking of heads leaves out those that hardly look at a camera, by `mass`."""
    runs.write_run(tmp_path, picture=(16, 32), seen=lambda: runs.masks()[:, :, 8:24])
    study = study_of(tmp_path)
    for name, metrics in (("h4", ["mass"]), ("h1_1", ["camera_mass", "bar_mass"])):
        kept, removed = (hypotheses.run(study, name, Options(sinks=s)) for s in ("keep", "remove"))
        for metric in metrics:
            found = value(removed, metric=metric)
            assert found == pytest.approx(value(kept, metric=metric)) and 0 < found < 0.3
    assert value(removed, metric="overlap", object="red_cube") != pytest.approx(
        value(kept, metric="overlap", object="red_cube"), rel=0.1
    )


def test_heads_have_focus_and_lift(study):
    table = hypotheses.run(study, "h4", Options(streams=("prefix:text",)))
    assert set(table["head"]) == {0, 1}
    # 0.4 on one patch, 0.6 on 15 others.
    h = -(0.4 * np.log(0.4) + 0.6 * np.log(0.6 / 15)) / np.log(16)
    assert value(table, metric="normalised_entropy") == pytest.approx(h, rel=0.01)
    assert value(table, metric="max") == pytest.approx(0.4, rel=0.01)
    assert value(table, metric="lift", role="target") == pytest.approx(6.4, rel=0.01)
    assert 1 <= value(table, metric="effective_rank") <= 3


if __name__ == "__main__":
    testing.main()
