"""Tests of attn_jax.analysis.structure on runs with planted attention."""

import numpy as np
import pytest

from attn_jax.analysis import hypotheses
from attn_jax.analysis.options import Options
from attn_jax.core.calibration import Calibration
from attn_jax.core.errors import MissingInputError
from tests import testing
from tests.analysis import runs
from tests.analysis.runs import study_of, value


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    runs.write_run(run, drift=0.1)
    runs.write_variants(run)
    return study_of(run)


def test_the_budget_sums_to_one(study):
    table = hypotheses.run(study, "budget", Options())
    assert value(table, metric="mass:vision") == pytest.approx(0.5, rel=0.01)
    assert value(table, metric="mass:language") == pytest.approx(0.5 * 7 / 10, rel=0.01)
    assert value(table, metric="mass:action") == pytest.approx(0.5 * 3 / 10, rel=0.01)
    groups = ("image/front", "image/wrist", "bos", "text", "state", "pad", "action")
    total = sum(value(table, metric=f"mass:{name}") for name in groups)
    assert total == pytest.approx(1.0, abs=1e-4)


def test_a_part_of_the_keys_has_no_budget(tmp_path):
    """What was not recorded has no mass of 0."""

    def images(made):
        return {"suffix": runs.part(made["suffix"], keys="image/*")}

    runs.write_run(tmp_path, extra=images)
    study = study_of(tmp_path)
    with pytest.raises(MissingInputError, match=r"only image/front, image/wrist were.*group_mass"):
        hypotheses.run(study, "budget", Options())
    layers = hypotheses.run(study, "layers", Options())
    assert "bos_mass" not in set(layers.metric) and len(layers[layers.metric == "stability"])


def test_cameras_share_the_attention_on_pictures(study):
    table = hypotheses.run(study, "cameras", Options(streams=("prefix:text", "suffix:action")))
    for camera in ("front", "wrist"):
        for query in ("text", "action"):
            found = value(table, metric="camera_share", camera=camera, query=query)
            assert found == pytest.approx(0.5, rel=0.01)


def wall(*, right_px=0.0):
    """A camera one metre before a wall, held so that all lies so many pixels further left."""
    pose = np.tile(np.eye(4), (3, 1, 1))
    pose[:, 0, 3] = right_px / 40
    intrinsics = np.array([[40.0, 0, 16], [0, 40, 16], [0, 0, 1]])
    return Calibration(np.ones((3, 32, 32)), pose, intrinsics)


@pytest.mark.parametrize(("right_px", "shared"), [(0.0, 1.0), (8.0, 0.75)])
def test_cameras_agree_where_they_show_the_same(tmp_path, right_px, shared):
    """Both look at patch (1, 1) of their pictures: the same place, or one beside it."""
    runs.write_run(tmp_path, calibration={"front": wall(), "wrist": wall(right_px=right_px)})
    table = hypotheses.run(study_of(tmp_path), "agreement", Options())
    assert set(table.camera) == {"wrist in front", "front in wrist"}
    assert set(table.layer) == {2, 5} and set(table.env_step) == {0, 5, 10}
    for camera in set(table.camera):
        assert value(table, metric="shared_patches", camera=camera) == pytest.approx(shared)
        found = value(table, metric="agreement", camera=camera)
        assert found > 0.95 if shared == 1 else -0.3 < found < 0.1


def test_agreement_needs_two_calibrated_cameras(tmp_path):
    runs.write_run(tmp_path, calibration={"front": wall()})
    with pytest.raises(MissingInputError, match=r"calibrated cameras: front, comparing.*--env"):
        hypotheses.run(study_of(tmp_path), "agreement", Options())


def test_layers_and_frames(study):
    table = hypotheses.run(study, "layers", Options())
    assert value(table, metric="similarity_to_previous_layer", layer=5) > 0.9
    assert value(table, metric="stability") > 0.99
    # BOS is one of seven tokens of the prompt and three actions that share the other half.
    assert value(table, metric="bos_mass", query="action") == pytest.approx(0.05, rel=0.01)
    assert value(table, metric="sink_patches") == 0  # 16 patches cannot exceed 5 sd


if __name__ == "__main__":
    testing.main()
