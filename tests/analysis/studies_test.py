"""Tests of attn_jax.analysis.studies."""

import numpy as np
import pytest

from attn_jax.analysis import studies
from attn_jax.core.errors import MissingInputError
from attn_jax.data.episodes import read_episode
from attn_jax.probe.store import RecordReader
from tests import testing
from tests.analysis import runs


def source(folder, key=""):
    return studies.Source(read_episode(folder), RecordReader(folder), key)


def test_maps_of_whole_records(tmp_path):
    base = source(runs.write_run(tmp_path))
    maps = studies.camera_maps(base, "suffix", "action", "wrist")
    assert maps.values.shape == (3, 2, 2, 2, 4, 4)
    whole = base.reader.record("suffix").select(query="action", key="image/wrist")
    np.testing.assert_allclose(maps.values, whole.mean(4), rtol=1e-5)
    assert maps.env_step.tolist() == [0, 5, 10]
    assert (maps.layers, maps.heads, maps.denoise) == ((2, 5), (0, 1), (0, 1))
    assert maps.target == (32, 32) and maps.grid == (4, 4)
    np.testing.assert_allclose(maps.joined("last"), maps.values[:, 1])
    np.testing.assert_allclose(maps.joined("mean"), maps.values.mean(1), rtol=1e-6)


@pytest.mark.parametrize(
    ("stream", "query"), [("prefix", "text"), ("suffix", "action"), ("prefix", "text/word/cube")]
)
def test_reduced_records_give_the_same_maps_and_masses(tmp_path, stream, query):
    whole = source(runs.write_run(tmp_path / "whole"))
    less = source(runs.write_run(tmp_path / "less", only_reduced=True))
    one, two = (studies.camera_maps(s, stream, query, "front") for s in (whole, less))
    np.testing.assert_allclose(one.values, two.values, rtol=1e-5)
    masses = [studies.group_masses(s, stream, query) for s in (whole, less)]
    order = [masses[1].names.index(name) for name in masses[0].names]
    np.testing.assert_allclose(masses[0].values, masses[1].values[..., order], rtol=1e-5)
    np.testing.assert_allclose(masses[0].values.sum(-1), 1, atol=1e-5)


def test_what_is_missing_is_named_with_its_selection(tmp_path):
    less = source(runs.write_run(tmp_path, only_reduced=True))
    with pytest.raises(MissingInputError, match="queries=text/word/banana;reduce=patch_map"):
        studies.camera_maps(less, "prefix", "text/word/banana", "front")
    with pytest.raises(MissingInputError, match=r"no camera 'left'.*front"):
        studies.camera_maps(less, "prefix", "text", "left")
    with pytest.raises(MissingInputError, match="streams=decoder"):
        studies.group_masses(less, "decoder", "text")
    nothing = studies.Source(less.episode, None)
    with pytest.raises(MissingInputError, match="--capture"):
        studies.camera_maps(nothing, "prefix", "text", "front")
    whole = source(runs.write_run(tmp_path / "whole"))
    with pytest.raises(MissingInputError, match="reduce=patch_map"):
        studies.camera_maps(whole, "prefix", "text/word/banana", "front")


def test_coverage_is_of_the_recorded_calls(tmp_path):
    base = source(runs.write_run(tmp_path))
    coverage = base.coverage("wrist", (4, 4), (32, 32))
    assert coverage.shape == (3, 2, 4, 4)
    assert coverage[0, 0, 1, 1] == 1 and coverage[0, 0].sum() == 1
    assert coverage[2, 1, 3, 2:].tolist() == [1, 1]
    assert base.coverage("wrist", (4, 4), (32, 32)) is coverage
    bare = source(runs.write_run(tmp_path / "bare", objects=()))
    with pytest.raises(MissingInputError, match="no object masks of camera 'wrist'"):
        bare.coverage("wrist", (4, 4), (32, 32))


def test_kinds_and_outcomes(tmp_path):
    runs.write_run(tmp_path)
    runs.write_variants(tmp_path)
    variants = {
        key: source(tmp_path / "variants" / key / "episodes" / "episode_00000", key)
        for key in ("noise_1", "please", "ball", "empty")
    }
    base = source(tmp_path / "episodes" / "episode_00000")
    study = studies.Study("e", base, variants)
    assert [v.kind for v in variants.values()] == ["noise", "paraphrase", "counterfactual", "empty"]
    assert base.kind == "" and study.outcome == "success"
    assert list(study.of_kind("noise", "empty")) == ["noise_1", "empty"]
    for success, outcome in ((False, "failure"), (None, "unknown")):
        other = source(runs.write_run(tmp_path / outcome, success=success, attention=True))
        assert studies.Study("e", other).outcome == outcome


if __name__ == "__main__":
    testing.main()
