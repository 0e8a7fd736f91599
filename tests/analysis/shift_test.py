"""Tests of attn_jax.analysis.shift."""

import numpy as np
import pytest
import scipy.spatial
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from attn_jax.analysis import shift
from attn_jax.core.errors import ConfigError
from tests import testing

BOX = (0, 0, 224, 224)
seeds = st.integers(0, 10_000)


def maps(seed, *shape):
    return np.random.default_rng(seed).dirichlet(np.ones(256), shape).reshape(*shape, 16, 16)


def test_a_hand_computed_case():
    base = np.array([[0.5, 0.5], [0.0, 0.0]])
    other = np.array([[0.25, 0.25], [0.5, 0.0]])
    found = shift.shift_metrics(base, other, box=(0, 0, 28, 28))
    expected = {
        "mean_diff": 0.0,
        "mean_abs_diff": 1.0 / 4,
        "max_increase": 0.5,
        "max_decrease": -0.25,
        "l2": np.sqrt(0.25**2 * 2 + 0.5**2),
        "relative_l2": np.sqrt(0.375 / 0.5),
        "pearson": np.corrcoef(base.ravel(), other.ravel())[0, 1],
        # m = (.375, .375, .25, 0): KL(p||m) = log2(4/3); KL(q||m) = .5 log2(2/3) + .5 log2(2)
        "jsd": (np.log2(4 / 3) + 0.5 * np.log2(2 / 3) + 0.5) / 2,
        # Centroid (6.5, 13.5) -> (13.5, (6.5 * .75 + 20.5 * .25)) = (13.5, 10)
        "centroid_shift_px": np.hypot(7.0, 3.5),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-12, err_msg=name)


@given(seeds, st.floats(1e-6, 1.0))
def test_identical_maps_do_not_differ_at_all(seed, scale):
    base = maps(seed, 3) * scale
    found = shift.shift_metrics(base, base.copy(), box=BOX)
    for name, value in found.items():
        np.testing.assert_array_equal(value, 1.0 if name == "pearson" else 0.0, err_msg=name)


@given(seeds)
def test_scipy_agrees(seed):
    x, y = maps(seed, 2).reshape(2, 256)
    assert float(shift.pearson(x, y)) == pytest.approx(scipy.stats.pearsonr(x, y)[0], abs=1e-12)
    distance = scipy.spatial.distance.jensenshannon(x, y, base=2)
    assert float(shift.jsd(x, y)) == pytest.approx(distance**2, abs=1e-12)


def test_divergence_of_disjoint_maps_is_one_and_ignores_mass():
    x, y = np.array([1.0, 0, 0]), np.array([0, 0.01, 0.03])
    assert float(shift.jsd(x, y)) == pytest.approx(1.0)
    assert np.isnan(shift.jsd(x, np.zeros(3)))


@given(st.integers(0, 15), st.integers(0, 15), st.integers(0, 15), st.integers(0, 15))
def test_a_moved_patch_moves_the_centroid_by_its_distance(r, c, r2, c2):
    base, other = np.zeros((16, 16)), np.zeros((16, 16))
    base[r, c], other[r2, c2] = 1.0, 0.5
    moved = shift.shift_metrics(base, other, box=BOX, names=("centroid_shift_px",))
    expected = 14 * np.hypot(r - r2, c - c2)
    np.testing.assert_allclose(moved["centroid_shift_px"], expected, atol=1e-3)


def test_constant_maps_have_no_correlation():
    even = np.full(256, 1 / 256)
    assert np.isnan(shift.pearson(even, maps(0).ravel()))
    assert np.isnan(shift.pearson(even, even))


def test_layer_similarity_and_stability():
    stack = maps(1, 4, 3)  # 4 frames, 3 layers
    alike = shift.layer_similarity(stack)
    assert alike.shape == (4, 2)
    expected = np.corrcoef(stack[2, 1].ravel(), stack[2, 2].ravel())[0, 1]
    assert alike[2, 1] == pytest.approx(expected)
    steady = shift.stability(stack)
    pairs = [shift.jsd(stack[i, 1].ravel(), stack[i + 1, 1].ravel()) for i in range(3)]
    assert steady[1] == pytest.approx(1 - np.mean(pairs))
    assert shift.stability(np.stack([stack[0]] * 2)).tolist() == [1, 1, 1]
    assert np.isnan(shift.stability(stack[:1])).all()
    gap = stack.copy()
    gap[0, 0] = 0
    assert shift.stability(gap)[0] == pytest.approx(
        1 - np.mean([shift.jsd(stack[i, 0].ravel(), stack[i + 1, 0].ravel()) for i in (1, 2)])
    )


def test_actions_differ_in_standard_deviations():
    base = np.zeros((2, 3, 2))
    other = base + np.array([0.3, 0.8])
    norm, dims = shift.action_delta(base, other, np.array([0.1, 0.2]))
    np.testing.assert_allclose(norm, 5.0)  # (3, 4) in units of std
    np.testing.assert_allclose(dims, [[3.0, 4.0]] * 2)
    norm, dims = shift.action_delta(base, other, np.array([0.1, 0.0]))
    np.testing.assert_allclose(norm, 3.0)
    assert np.isnan(dims[:, 1]).all()
    assert np.isnan(shift.action_delta(base, other, np.zeros(2))[0]).all()


def test_one_spread_for_a_run():
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=(4, 3, 3)), 5 + 2 * rng.normal(size=(6, 3, 3))
    one[..., 2], two[..., 2] = 0.5, 1.0  # a gripper, open in one episode and closed in the other
    rows = np.concatenate([one.reshape(-1, 3), two.reshape(-1, 3)])
    np.testing.assert_allclose(shift.action_std([one, two]), rows.std(0), rtol=1e-12)
    # Where it rests for good, the spread that is left is rounding or noise, and no unit.
    two[..., 2] = 0.5
    still = [x + 1e-6 * rng.normal(size=x.shape) for x in (one, two)]
    for chunks in ([one, two], still):
        assert shift.action_std(chunks)[2] == 0 and shift.action_std(chunks)[0] > 1
    # One dimension of constants that float32 does not hold exactly.
    assert shift.action_std([np.full((9, 7, 1), 0.1, np.float32)]).tolist() == [0.0]
    # Small is not still: millimetres beside radians.
    assert (shift.action_std([rng.normal(size=(50, 1, 2)) * [1.0, 1e-3]]) > 0).all()
    with pytest.raises(ConfigError, match=r"\[2, 3\] dimensions"):
        shift.action_std([one, one[..., :2]])
    with pytest.raises(ConfigError, match="no dimensions"):
        shift.action_std([])


def test_bad_arguments():
    with pytest.raises(ConfigError, match="different shapes"):
        shift.shift_metrics(maps(0), maps(0, 1), box=BOX)
    with pytest.raises(ConfigError, match="unknown metric"):
        shift.shift_metrics(maps(0), maps(0), box=BOX, names=("l1",))
    with pytest.raises(ConfigError, match="with std of"):
        shift.action_delta(np.zeros((3, 2)), np.zeros((3, 2)), np.ones(3))


if __name__ == "__main__":
    testing.main()
