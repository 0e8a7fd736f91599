"""Tests of attn_jax.analysis.fidelity."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_jax.analysis import fidelity, overlap
from attn_jax.core.errors import ConfigError
from tests import testing

seeds = st.integers(0, 10_000)


def test_top_patches_are_the_largest():
    maps = np.arange(512.0).reshape(2, 16, 16)
    high = fidelity.top_patches(maps)
    assert high.sum((1, 2)).tolist() == [26, 26]
    assert high[0].ravel()[-26:].all()
    content = overlap.content_share((720, 1280), (16, 16), (224, 224))
    high = fidelity.top_patches(maps, content=content)
    assert not high[:, content == 0].any()
    assert high[0].sum() == 16  # 10 % of the 160 patches with picture
    with pytest.raises(ConfigError, match="share"):
        fidelity.top_patches(maps, share=0.0)


@given(seeds, st.integers(1, 40), st.booleans())
def test_the_control_hides_as_much_elsewhere(seed, count, bars):
    rng = np.random.default_rng(seed)
    allowed = np.ones((16, 16), bool)
    if bars:
        allowed[:3] = allowed[-3:] = False
    high = np.zeros((16, 16), bool)
    places = np.flatnonzero(allowed)
    high.ravel()[rng.choice(places, count, replace=False)] = True
    control = fidelity.matched_control(high, seed=seed, allowed=allowed)
    assert control.mask.sum() == count
    assert not (control.mask & high).any()
    assert not (control.mask & ~allowed).any()
    if control.matched:
        np.testing.assert_array_equal(np.roll(high, control.shift, (0, 1)), control.mask)


@given(seeds, st.integers(1, 5), st.integers(1, 5))
def test_a_block_stays_a_block(seed, height, width):
    """A set that fits elsewhere in one piece is not torn at the border."""
    rng = np.random.default_rng(seed)
    top, left = rng.integers(0, 16 - height), rng.integers(0, 16 - width)
    high = np.zeros((16, 16), bool)
    high[top : top + height, left : left + width] = True
    control = fidelity.matched_control(high, seed=seed)
    rows, columns = (np.flatnonzero(control.mask.any(axis)) for axis in (1, 0))
    assert control.matched
    assert np.ptp(rows) == height - 1 and np.ptp(columns) == width - 1


def test_the_control_depends_on_the_seed_only():
    high = np.zeros((8, 8), bool)
    high[2:4, 2:5] = True
    same = [fidelity.matched_control(high, seed=3).shift for _ in range(3)]
    assert len(set(same)) == 1
    assert len({fidelity.matched_control(high, seed=s).shift for s in range(20)}) > 5


def test_no_room_for_a_control():
    with pytest.raises(ConfigError, match="Hide a smaller share"):
        fidelity.matched_control(np.ones((4, 4), bool), seed=0)
    with pytest.raises(ConfigError, match="0 patches"):
        fidelity.matched_control(np.zeros((4, 4), bool), seed=0)


def test_a_set_that_fits_nowhere_is_filled_up():
    checkers = np.indices((4, 4)).sum(0) % 2 == 0
    allowed = np.ones((4, 4), bool)
    control = fidelity.matched_control(checkers, seed=0, allowed=allowed)
    assert control.matched  # one step aside
    lines = np.zeros((4, 4), bool)
    lines[0, :2] = lines[2, 2:] = True
    allowed = lines.copy()
    allowed[1] = True
    control = fidelity.matched_control(lines, seed=0, allowed=allowed)
    assert not control.matched
    assert control.mask[1].all() and control.mask.sum() == 4


def test_score_by_hand():
    clean = np.zeros((2, 1, 2, 2))  # seeds, batch, horizon, dimensions
    high, control = clean + np.array([0.2, 0.0]), clean + np.array([0.1, 0.0])
    variance = np.array([0.01, 0.04])
    # ((.04 - .01) / .01 + 0) / 2
    np.testing.assert_allclose(fidelity.fidelity_score(clean, high, control, variance), 1.5)
    still = np.array([0.01, 0.0])  # a dimension that never moves is left out
    np.testing.assert_allclose(fidelity.fidelity_score(clean, high, control, still), 3.0)
    assert np.isnan(fidelity.fidelity_score(clean, high, control, np.zeros(2))).all()


def test_pairs_that_do_not_count_by_hand():
    errors = np.array([[1.0, 2.0, 3.0], [5.0, 6.0, 7.0]])
    used = np.array([[True, False, False], [True, True, False]])
    found = fidelity.mean_over_seeds(errors, used)
    np.testing.assert_array_equal(found, [3.0, 6.0, np.nan])
    clean = np.zeros((2, 3, 1, 1))
    high = clean + np.sqrt(errors)[..., None, None]
    score = fidelity.fidelity_score(clean, high, clean, np.ones(1), used)
    np.testing.assert_allclose(score, [3.0, 6.0, np.nan])


@given(seeds)
def test_identical_masks_have_fidelity_zero(seed):
    rng = np.random.default_rng(seed)
    clean, masked = rng.normal(size=(2, 3, 4, 5, 6))
    score = fidelity.fidelity_score(clean, masked, masked.copy(), rng.uniform(0.1, 1, 6))
    np.testing.assert_array_equal(score, np.zeros(4))


def test_null_floor_is_the_mean_over_pairs_of_seeds():
    clean = np.array([0.0, 1.0, 3.0]).reshape(3, 1, 1, 1)
    np.testing.assert_allclose(fidelity.null_floor(clean, np.ones(1)), (1 + 9 + 4) / 3)
    assert np.isnan(fidelity.null_floor(clean[:1], np.ones(1))).all()


if __name__ == "__main__":
    testing.main()
