"""Tests of attn_jax.analysis.temporal."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from attn_jax.analysis import temporal
from attn_jax.core.errors import ConfigError, RecordError
from attn_jax.core.layout import TokenGroup, TokenLayout
from attn_jax.core.record import AttentionRecord
from tests import testing
from tests.analysis import records

LAYOUT = TokenLayout(
    9,
    (
        TokenGroup("image/wrist", (0, 1, 2, 3), (2, 2), (0, 0, 28, 28)),
        TokenGroup("text", (4, 5)),
        TokenGroup("action", (6, 7, 8)),
    ),
    queries=(6, 7, 8),
)


def test_mass_of_regions_is_weighted_by_area():
    maps = np.array([[0.4, 0.3], [0.2, 0.1]])
    half = np.array([[0.5, 0.5], [0.5, 0.5]])
    left = np.array([[1.0, 0.0], [1.0, 0.0]])
    np.testing.assert_allclose(temporal.roi_mass(maps, np.stack([half, left])), [0.5, 0.6])


@given(st.integers(0, 1000))
def test_disjoint_regions_sum_to_the_whole(seed):
    rng = np.random.default_rng(seed)
    maps = rng.dirichlet(np.ones(16)).reshape(4, 4) * 0.7
    part = rng.random((4, 4))
    mass = temporal.roi_mass(maps, np.stack([part, 1 - part]))
    assert mass.sum() == pytest.approx(maps.sum(), abs=1e-12)


def test_curves_of_a_record():
    record = records.record(LAYOUT, stream="suffix", calls=2, layers=2, heads=3)
    coverage = np.random.default_rng(1).random((2, 2, 2, 2))
    curves = temporal.roi_curves(record, "image/wrist", coverage)
    assert curves.shape == (2, 1, 2, 3, 2)
    maps = record.select(query="action", key="image/wrist").astype(np.float64).mean(3)
    expected = (maps[1, 0, 1, 2] * coverage[1, 0]).sum()
    assert curves[1, 0, 1, 2, 0] == pytest.approx(expected, rel=1e-9)


def test_a_planted_drift_has_its_slope():
    """The wrist's upper left patch gains 0.1 per action."""
    values = np.zeros((1, 1, 1, 1, 3, 9), np.float32)
    for step in range(3):
        values[..., step, 0] = 0.2 + 0.1 * step
        values[..., step, 4] = 0.8 - 0.1 * step
    record = AttentionRecord("suffix", values, LAYOUT, (0,), (0,))
    coverage = np.zeros((1, 1, 2, 2))
    coverage[..., 0, 0] = 1
    curves = temporal.roi_curves(record, "image/wrist", coverage)
    np.testing.assert_allclose(temporal.slope(curves, axis=3), 0.1, atol=1e-6)


def test_means_of_what_is_known():
    values = np.array([[1.0, np.nan], [3.0, np.nan]])
    np.testing.assert_array_equal(temporal.mean_known(values, axis=0), [2.0, np.nan])


@given(st.integers(2, 20), st.integers(0, 1000))
def test_slope_agrees_with_scipy(count, seed):
    rng = np.random.default_rng(seed)
    y, x = rng.normal(size=(2, count, 3)), np.cumsum(rng.uniform(0.1, 5, count))
    expected = scipy.stats.linregress(np.arange(count), y[1, :, 2]).slope
    assert temporal.slope(y, axis=1)[1, 2] == pytest.approx(expected, abs=1e-9)
    expected = scipy.stats.linregress(x, y[1, :, 2]).slope
    assert temporal.slope(y, axis=1, x=x)[1, 2] == pytest.approx(expected, abs=1e-9)


def test_one_point_has_no_slope():
    assert np.isnan(temporal.slope(np.ones((2, 1)), axis=1)).all()
    assert np.isnan(temporal.slope(np.ones((2, 2)), axis=1, x=np.array([3.0, 3.0]))).all()
    with pytest.raises(ConfigError, match="2 places for an axis of 3"):
        temporal.slope(np.ones(3), axis=0, x=np.arange(2.0))


def test_errors():
    record = records.record(LAYOUT, stream="suffix", calls=2)
    regions = np.ones((2, 1, 2, 2))
    with pytest.raises(RecordError, match="2 calls, regions for 1"):
        temporal.roi_curves(record, "image/wrist", regions[:1])
    with pytest.raises(RecordError, match="4 patches"):
        temporal.roi_curves(record, "image/wrist", np.ones((2, 1, 3, 3)))
    with pytest.raises(ConfigError, match="joined"):
        temporal.roi_curves(record, "image/wrist", regions, heads="each")
    masses = AttentionRecord(
        "suffix",
        np.ones((2, 1, 1, 1, 3, 1), np.float32),
        LAYOUT,
        (0,),
        (0,),
        reduction="group_mass",
        key_names=("text",),
    )
    with pytest.raises(RecordError, match="reduce=full"):
        temporal.roi_curves(masses, "image/wrist", regions)


if __name__ == "__main__":
    testing.main()
