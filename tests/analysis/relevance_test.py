"""Tests of attn_jax.analysis.relevance."""

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from attn_jax.analysis import relevance
from attn_jax.core.errors import ConfigError
from tests import testing

seeds = st.integers(0, 1000)


def random_maps(seed, layers, n):
    return np.random.default_rng(seed).dirichlet(np.ones(n), (layers, n))


def test_rollout_by_hand():
    maps = np.array([[[0.0, 1.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]])
    # Mixed: first [[.5, .5], [0, 1]], second [[1, 0], [.5, .5]]; second @ first.
    np.testing.assert_allclose(relevance.rollout(maps), [[0.5, 0.5], [0.25, 0.75]])
    np.testing.assert_allclose(relevance.rollout(maps, residual=0.0), maps[1] @ maps[0])
    np.testing.assert_allclose(relevance.rollout(maps, residual=1.0), np.eye(2))


@given(seeds)
def test_rollout_keeps_mass(seed):
    np.testing.assert_allclose(relevance.rollout(random_maps(seed, 4, 6)).sum(1), 1, atol=1e-12)


def test_rows_without_mass_stay_themselves():
    maps = random_maps(0, 2, 3)
    maps[:, 1] = 0
    np.testing.assert_allclose(relevance.rollout(maps, residual=0.0)[1], [0, 1, 0])


def linear_flow(maps, query, target):
    """The same flow as a linear program, without rounding."""
    layers, n, _ = maps.shape
    mixed = relevance.with_residual(maps)
    size = layers * n * n  # x[l, i, j]: flow from (l + 1, i) to (l, j)
    balance, right = [], []
    for level in range(layers + 1):
        for node in range(n):
            row = np.zeros((layers, n, n))
            if level < layers:
                row[level, :, node] += 1  # arrives
            if level > 0:
                row[level - 1, node, :] -= 1  # leaves
            is_source = level == layers and node == query
            is_target = level == 0 and node == target
            if not is_source and not is_target:
                balance.append(row.ravel())
                right.append(0.0)
    goal = np.zeros((layers, n, n))
    goal[0, :, target] = -1
    bounds = [(0, w) for w in mixed.ravel()]
    found = scipy.optimize.linprog(goal.ravel(), A_eq=balance, b_eq=right, bounds=bounds)
    assert len(goal.ravel()) == size
    return -found.fun


@settings(max_examples=8)
@given(seeds)
def test_flow_agrees_with_a_linear_program(seed):
    maps = random_maps(seed, 3, 4)
    found = relevance.flow(maps, 2)
    expected = [linear_flow(maps, 2, target) for target in range(4)]
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_flow_of_one_layer_is_attention():
    maps = random_maps(0, 1, 5)
    np.testing.assert_allclose(relevance.flow(maps, 3, residual=0.0), maps[0, 3], atol=2e-9)


def test_pooling_keeps_rows():
    members = np.array([[1.0, 1, 0, 0], [0, 0, 1, 1]])
    maps = random_maps(1, 2, 4)
    pooled = relevance.pool(maps, members)
    np.testing.assert_allclose(pooled.sum(-1), 1)
    assert pooled[1, 0, 1] == pytest.approx(maps[1, :2, 2:].sum() / 2)


def test_full_graph():
    prefix = random_maps(0, 2, 3)
    suffix = np.random.default_rng(1).dirichlet(np.ones(5), (2, 2))
    joint = relevance.full_graph(prefix, suffix)
    np.testing.assert_allclose(joint.sum(-1), 1)
    assert (joint[:, :3, 3:] == 0).all()
    np.testing.assert_array_equal(joint[:, 3:], suffix)
    with pytest.raises(ConfigError, match="suffix is"):
        relevance.full_graph(prefix, suffix[..., :4])


def test_edges_that_speak_against_do_not_count():
    edges = np.random.default_rng(0).normal(size=(5, 2, 3, 4)).astype(np.float32)
    found = relevance.positive_edges(edges)
    np.testing.assert_allclose(found, np.where(edges > 0, edges, 0).mean(1), rtol=1e-6)


def test_prefix_relevance_by_hand():
    edges = np.array([[[[0.0, 1.0], [0.5, -0.5]]], [[[1.0, 0.0], [0.0, 1.0]]]])
    first = np.array([[1.0, 1.0], [0.5, 1.0]])
    np.testing.assert_allclose(relevance.prefix_relevance(edges), [np.eye(2), first, 2 * first])


def test_relevance_through_denoising_by_hand():
    """One action, two prefix tokens, one layer, two steps."""
    edges = np.array([[0.2, 0.3, 0.5], [0.4, 0.1, 0.5]]).reshape(2, 1, 1, 1, 3)
    # Step 1: (.2, .3); step 2 adds (.4, .1) and .5 of what the action already is.
    np.testing.assert_allclose(
        relevance.denoise_relevance(edges), [[0.2 + 0.4 + 0.1, 0.3 + 0.1 + 0.15]]
    )
    through = np.stack([np.eye(2) * 2])
    np.testing.assert_allclose(relevance.denoise_relevance(edges, through), [[1.4, 1.1]])
    assert (relevance.denoise_relevance(-edges) == 0).all()


def test_errors():
    maps = random_maps(0, 1, 3)
    with pytest.raises(ConfigError, match="Pool"):
        relevance.flow(np.zeros((1, 300, 300)), 0)
    with pytest.raises(ConfigError, match="residual"):
        relevance.rollout(maps, residual=1.5)
    with pytest.raises(ConfigError, match="do not fit"):
        relevance.denoise_relevance(np.ones((1, 1, 1, 3, 3)))
    with pytest.raises(ConfigError, match="1 entries for 2 layers"):
        relevance.denoise_relevance(np.ones((1, 2, 1, 1, 3)), np.eye(2)[None])


if __name__ == "__main__":
    testing.main()
