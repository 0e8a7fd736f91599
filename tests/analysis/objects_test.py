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


def test_the_slope_along_denoising_is_per_step_of_the_sampler(tmp_path):
    """Of ten steps two were kept; 0.02 of the camera's 0.25 moves onto the cube with each step."""
    runs.write_run(tmp_path, share=0.2, denoise=(0, 9), denoise_drift=0.02)
    table = hypotheses.run(study_of(tmp_path), "h3", Options())
    labels = {"object": "red_cube", "camera": "wrist"}
    assert value(table, metric="slope_denoise", **labels) == pytest.approx(0.02 * 0.25, rel=0.01)


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
