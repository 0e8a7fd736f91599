"""Tests of attn_jax.analysis.cameras."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_jax.analysis import cameras
from attn_jax.core import geometry
from attn_jax.core.errors import ConfigError
from tests import testing

BOX = (0, 0, 224, 224)
CENTRES = geometry.patch_centres((16, 16), BOX)


def maps(seed, *shape):
    return np.random.default_rng(seed).dirichlet(np.ones(256), shape).reshape(*shape, 16, 16)


def test_shares_of_cameras():
    both = np.stack([maps(0, 3) * 0.3, maps(1, 3) * 0.1], axis=-3)
    np.testing.assert_allclose(cameras.camera_shares(both), [[0.75, 0.25]] * 3)
    assert np.isnan(cameras.camera_shares(np.zeros((2, 4, 4)))).all()


def test_the_same_picture_carries_to_itself():
    for carry in (cameras.transfer, cameras.resample):
        moved = carry(maps(0, 2), CENTRES, grid=(16, 16), box=BOX)
        np.testing.assert_allclose(moved, maps(0, 2), atol=1e-15)
        np.testing.assert_allclose(cameras.agreement(maps(0, 2), moved), 1.0)


def test_an_even_map_stays_even_however_far_it_is_seen_from():
    """The other camera shows all of the picture in a quarter of its own, or a quarter in all."""
    even = np.full((16, 16), 1 / 256)
    for scale in (0.5, 2.0):
        points = 111.5 + (CENTRES - 111.5) * scale
        found = cameras.resample(even, points, grid=(16, 16), box=BOX)
        seen = np.isfinite(found)
        assert seen.any() and seen.all() == (scale == 2.0)
        np.testing.assert_allclose(found[seen], 1 / 256)


def test_agreement_is_of_what_both_see():
    rng = np.random.default_rng(3)
    mine, carried = maps(0, 2), maps(1, 2)
    carried[:, :12] = np.nan
    found = cameras.agreement(mine, carried)
    rows = [np.corrcoef(mine[i, 12:].ravel(), carried[i, 12:].ravel())[0, 1] for i in (0, 1)]
    np.testing.assert_allclose(found, rows)
    mine[:, :12] = rng.random((2, 12, 16))
    np.testing.assert_array_equal(cameras.agreement(mine, carried), found)
    carried[:, :-1] = carried[:, -1, :-2] = np.nan
    assert np.isnan(cameras.agreement(mine, carried)).all()  # two patches make a line


@given(st.integers(0, 1000))
def test_a_shifted_picture_shifts_the_mass(seed):
    """The other camera shows everything 20 px lower and 9 px further right, where it is in view."""
    rng = np.random.default_rng(seed)
    a = np.zeros((16, 16))
    a[2:9, 3:9] = rng.random((7, 6))
    a /= a.sum()
    moved = cameras.transfer(a, CENTRES + np.array([20.0, 9.0]), grid=(16, 16), box=BOX)
    assert moved.sum() == pytest.approx(1.0)
    change = geometry.centroid(moved, BOX) - geometry.centroid(a, BOX)
    np.testing.assert_allclose(change, [20.0, 9.0], atol=1e-9)


def test_what_the_other_camera_does_not_see_is_dropped():
    points = CENTRES.copy()
    points[0] = np.nan
    points[1] = -500.0
    a = maps(0)
    moved = cameras.transfer(a, points, grid=(8, 8), box=BOX)
    assert moved.shape == (8, 8)
    assert moved.sum() == pytest.approx(a[2:].sum())


def test_points_must_fit():
    with pytest.raises(ConfigError, match="points of"):
        cameras.transfer(np.ones((4, 4)), np.zeros((5, 4, 2)), grid=(4, 4), box=BOX)


if __name__ == "__main__":
    testing.main()
