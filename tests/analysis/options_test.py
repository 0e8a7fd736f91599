"""Tests of attn_jax.analysis.options."""

import dataclasses

import numpy as np
import pytest

from attn_jax.analysis import options
from attn_jax.analysis.options import Options
from attn_jax.analysis.studies import CameraMaps, camera_maps
from attn_jax.core.errors import ConfigError
from tests import testing
from tests.analysis import runs


def test_options_are_checked():
    with pytest.raises(ConfigError, match="denoise is 'middle'"):
        Options(denoise="middle")
    with pytest.raises(ConfigError, match="sinks is 'drop'"):
        Options(sinks="drop")
    with pytest.raises(ConfigError, match="heads is 'each'"):
        Options(heads="each")
    with pytest.raises(ConfigError, match=r"unknown reduction of heads 'best'"):
        Options(heads="best")
    with pytest.raises(ConfigError, match="stream:query"):
        Options(streams=("suffix",))
    for wrong in (
        {"tau": 5.0},
        {"tau": -0.1},
        {"tau": float("nan")},
        {"top_share": 0.0},
        {"top_share": 2.0},
    ):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            Options(**wrong)
    assert list(Options(streams=("prefix:text/word/red",)).pairs()) == [("prefix", "text/word/red")]


def test_heads_are_joined_as_asked(tmp_path):
    source = runs.source(runs.write_run(tmp_path))
    maps = camera_maps(source, "suffix", "action", "wrist")
    values = maps.joined("last")
    for how, expected in (
        ("mean", values.mean(2)),
        ("max", values.max(2)),
        ("count:0.9", (values > np.quantile(values, 0.9, (-2, -1), keepdims=True)).sum(2)),
    ):
        found = options.joined_maps(maps, Options(denoise="last", heads=how))
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    # A run is compared in the heads that are focused in the base, not in its own.
    sharp = maps.values.copy()
    sharp[:, :, 0, 1] = sharp[:, :, 1, 0] = np.eye(16)[3].reshape(4, 4)
    base = dataclasses.replace(maps, values=sharp)
    found = options.joined_maps(maps, Options(heads="focused:1"), like=base)
    values = maps.joined("mean")
    np.testing.assert_allclose(found, np.stack([values[:, 0, 1], values[:, 1, 0]], 1), rtol=1e-12)
    with pytest.raises(ConfigError, match="3 focused heads of 2"):
        options.joined_maps(maps, Options(heads="focused:3"))


def test_sinks_are_removed_as_asked(tmp_path):
    """A wide picture: the upper and the lower row of patches are bars."""
    source = runs.source(runs.write_run(tmp_path, objects=(), picture=(16, 32)))
    where = (source, "suffix", "action", "wrist")
    maps = camera_maps(*where)
    np.testing.assert_array_equal(options.maps_of(*where, Options()).values, maps.values)
    found = options.maps_of(*where, Options(sinks="remove")).values
    assert (found[..., [0, 3], :] == 0).all()
    inside = maps.values[..., 1:3, :].astype(np.float64)
    expected = inside / inside.sum((-2, -1), keepdims=True)
    np.testing.assert_allclose(found[..., 1:3, :], expected, rtol=1e-6)


def test_sink_patches_are_removed(tmp_path):
    """A 16 x 16 camera, one patch of which has a fifth of the mass in every call."""
    rng = np.random.default_rng(0)
    values = rng.dirichlet(np.ones(256), (3, 2, 2)).reshape(3, 1, 2, 2, 16, 16) * 0.8
    values[..., 2, 3] += 0.2
    source = runs.source(runs.write_run(tmp_path, objects=(), attention=False))
    maps = CameraMaps(values, np.arange(3), (0, 1), (0, 1), (0,), (0, 0, 224, 224))
    found = options.without_sinks(source, "wrist", maps).values
    assert (found[..., 2, 3] == 0).all()
    np.testing.assert_allclose(found.sum((-2, -1)), 1.0, rtol=1e-6)
    np.testing.assert_allclose(
        found[..., 9, 9] / found[..., 0, 0], values[..., 9, 9] / values[..., 0, 0]
    )


def test_cameras_with_masks_come_first(tmp_path):
    source = runs.source(runs.write_run(tmp_path, attention=False))
    assert options.chosen_cameras(source, Options()) == ("front", "wrist")
    assert options.chosen_cameras(source, Options(cameras=("wrist",))) == ("wrist",)
    with pytest.raises(ConfigError, match=r"no camera 'left'.*front, wrist"):
        options.chosen_cameras(source, Options(cameras=("left",)))
    assert options.with_masks(source, Options()) == ("front", "wrist")
    bare = runs.source(runs.write_run(tmp_path / "bare", attention=False, objects=()))
    assert options.with_masks(bare, Options()) == ("front", "wrist")  # the error comes later


if __name__ == "__main__":
    testing.main()
