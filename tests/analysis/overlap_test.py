"""Tests of attn_jax.analysis.overlap."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from attn_jax.analysis import overlap
from attn_jax.core.errors import ConfigError
from tests import testing

seeds = st.integers(0, 10_000)


def one(maps, coverage, **options):
    """All measures of one map and one object as numbers."""
    found = overlap.object_metrics(maps[None], coverage[None, None], **options)
    return {name: float(value[0, 0]) for name, value in found.items()}


def uniform(grid=(16, 16), mass=1.0):
    return np.full(grid, mass / np.prod(grid))


def test_a_hand_computed_case():
    a = np.array([[0.4, 0.1], [0.3, 0.2]])
    f = np.array([[1.0, 0.5], [0.0, 0.0]])
    found = one(a, f, top_share=0.25)
    assert found["overlap"] == pytest.approx(0.45)
    assert found["area_fraction"] == pytest.approx(1.5 / 4)
    assert found["lift"] == pytest.approx(0.45 / (1.5 / 4))
    assert found["mean_inside"] == pytest.approx(0.45 / 1.5)
    assert found["mean_outside"] == pytest.approx(0.55 / 2.5)
    assert found["concentration"] == pytest.approx((0.45 / 1.5) / (0.55 / 2.5))
    # Inside (f >= .5): the upper row. Above .3 * .4 = .12: 0.4, 0.3, 0.2.
    assert found["iou"] == pytest.approx(1 / 4)
    assert found["topk_precision"] == 1.0
    assert found["topk_recall"] == 0.5
    assert found["topk_iou"] == 0.5
    # Pairs inside x outside: .4 beats both, .1 beats none.
    assert found["auroc"] == pytest.approx(0.5)
    assert found["pointing"] == 1.0
    z = (a - a.mean()) / a.std()
    assert found["nss"] == pytest.approx((z[0, 0] + z[0, 1]) / 2)


@given(seeds, st.floats(0.05, 1.0))
def test_a_planted_share_is_returned(seed, share):
    """An object that gets a known share of the mass: overlap, lift and concentration say so."""
    rng = np.random.default_rng(seed)
    inside = np.zeros((16, 16), bool)
    inside[rng.integers(1, 10) :, rng.integers(1, 10) :] = True
    weights = rng.uniform(0.1, 1.0, (16, 16))
    planted = np.where(
        inside,
        weights / weights[inside].sum() * share,
        weights / (weights[~inside].sum() or 1.0) * (1 - share),
    )
    planted *= rng.uniform(0.01, 1.0)  # the camera's mass does not matter
    found = one(planted, inside.astype(float))
    assert found["overlap"] == pytest.approx(share, rel=0.01)
    area = inside.mean()
    assert found["lift"] == pytest.approx(share / area, rel=0.01)
    if share < 1:
        expected = (share / area) / ((1 - share) / (1 - area))
        assert found["concentration"] == pytest.approx(expected, rel=0.01)


@given(seeds)
def test_whole_patches_give_the_sum_of_their_mass(seed):
    rng = np.random.default_rng(seed)
    a = rng.dirichlet(np.ones(256)).reshape(16, 16)
    chosen = rng.random((16, 16)) < 0.3
    mask = np.kron(chosen, np.ones((14, 14))).astype(bool)
    coverage = overlap.patch_coverage(mask, (16, 16), (224, 224))
    np.testing.assert_allclose(one(a, coverage)["overlap"], a[chosen].sum(), atol=1e-12)


@given(seeds, st.integers(20, 90), st.integers(20, 90))
def test_an_even_map_has_lift_one(seed, height, width):
    mask = np.random.default_rng(seed).random((height, width)) < 0.4
    mask[: height // 2, : width // 2] = True
    coverage = overlap.patch_coverage(mask, (16, 16), (224, 224))
    assert one(uniform(mass=0.3), coverage)["lift"] == pytest.approx(1.0, abs=1e-12)
    # The same when only the picture counts and the map is even there.
    content = overlap.content_share((height, width), (16, 16), (224, 224))
    found = one(uniform(), coverage, content=content)
    assert found["lift"] == pytest.approx(1.0, abs=1e-12)
    assert found["concentration"] == pytest.approx(1.0, abs=1e-9)


def test_a_letterboxed_camera_has_its_known_bars():
    content = overlap.content_share((720, 1280), (16, 16), (224, 224))
    assert (content == 0).sum() == 96
    assert np.isclose(content, 0.5, atol=1e-12).sum() == 32
    assert np.isclose(content, 1, atol=1e-12).sum() == 128
    a = uniform()
    assert overlap.bar_mass(a, content) == pytest.approx((96 + 16) / 256)
    # Mass on bars counts against the overlap, unless bars are excluded.
    whole = np.ones((720, 1280), bool)
    coverage = overlap.patch_coverage(whole, (16, 16), (224, 224))
    np.testing.assert_allclose(coverage, content, atol=1e-12)
    assert one(a, coverage)["overlap"] == pytest.approx(144 / 256)
    assert one(a, coverage, content=content)["overlap"] == pytest.approx(1.0)


@given(seeds)
def test_auroc_agrees_with_the_u_statistic(seed):
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 6, (5, 6)).astype(float) + 0.1
    inside = rng.random((5, 6)) < 0.4
    inside[0, 0], inside[0, 1] = True, False
    u = scipy.stats.mannwhitneyu(a[inside], a[~inside]).statistic
    expected = u / (inside.sum() * (~inside).sum())
    assert one(a, inside.astype(float))["auroc"] == pytest.approx(expected, abs=1e-12)


def test_ten_percent_of_256_patches_are_26():
    a = np.arange(256.0).reshape(16, 16)
    inside = (a >= 256 - 26).astype(float)
    found = one(a, inside)
    assert found["topk_precision"] == found["topk_recall"] == found["topk_iou"] == 1.0
    assert one(a, (a >= 256 - 27).astype(float))["topk_recall"] == pytest.approx(26 / 27)


def test_an_object_out_of_sight():
    coverage = np.zeros((2, 1, 4, 4))
    coverage[1, 0, 2, 2] = 1e-3
    assert overlap.in_sight(coverage).tolist() == [[False], [True]]


def test_what_is_undefined_is_nan():
    a = uniform((4, 4))
    empty = one(a, np.zeros((4, 4)))
    assert np.isnan(empty["overlap"]) and empty["area_fraction"] == 0
    assert all(np.isnan(empty[n]) for n in ("lift", "concentration", "iou", "auroc", "nss"))
    assert all(np.isnan(empty[n]) for n in ("topk_precision", "topk_recall", "pointing"))
    lost = one(np.full((4, 4), np.nan), np.eye(4))
    assert all(np.isnan(v) for name, v in lost.items() if name != "area_fraction")
    full = one(a, np.ones((4, 4)))
    assert np.isnan(full["concentration"]) and np.isnan(full["auroc"]) and np.isnan(full["nss"])
    assert full["overlap"] == full["lift"] == full["iou"] == 1
    nothing = one(np.zeros((4, 4)), np.eye(4))
    assert all(np.isnan(v) for name, v in nothing.items() if name != "area_fraction")


def test_pointing_shares_ties():
    assert one(uniform((4, 4)), np.eye(4))["pointing"] == pytest.approx(4 / 16)


def test_many_maps_and_objects_equal_one_at_a_time():
    rng = np.random.default_rng(0)
    maps = rng.dirichlet(np.ones(36), (3, 2, 4)).reshape(3, 2, 4, 6, 6).astype(np.float32)
    coverage = np.clip(rng.normal(0.2, 0.6, (3, 5, 6, 6)), 0, 1)
    content = np.ones((6, 6))
    content[0] = 0.0
    content[1] = 0.5
    for given_content in (None, content):
        together = overlap.object_metrics(maps, coverage, content=given_content)
        for t, i, j, o in [(0, 0, 0, 0), (2, 1, 3, 4), (1, 0, 2, 3)]:
            alone = one(maps[t, i, j], coverage[t, o], content=given_content)
            for name in overlap.METRICS:
                assert together[name].shape == (3, 2, 4, 5)
                np.testing.assert_allclose(together[name][t, i, j, o], alone[name], rtol=1e-12)


def test_bad_arguments():
    a, f = np.ones((1, 4, 4)), np.ones((1, 1, 4, 4))
    with pytest.raises(ConfigError, match="unknown metric 'dice'"):
        overlap.object_metrics(a, f, names=("dice",))
    with pytest.raises(ConfigError, match="out of range"):
        overlap.object_metrics(a, f, tau=1.0)
    with pytest.raises(ConfigError, match="does not fit"):
        overlap.object_metrics(np.ones((1, 4, 5)), f)


if __name__ == "__main__":
    testing.main()
