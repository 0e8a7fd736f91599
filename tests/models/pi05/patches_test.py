"""Smaller patches: what the resampled parameters are, and that the model runs with them."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from attn_jax.core.errors import ConfigError
from attn_jax.models.pi05.patches import with_patch_size, with_patches
from attn_jax.models.pi05.sample import sample
from tests import testing
from tests.models.pi05 import small


def test_shapes_are_those_of_the_new_model():
    smaller = with_patch_size(small.CONFIG, 7)
    assert smaller.architecture.grid == (4, 4) and small.SIZES.grid == (2, 2)
    found = with_patches(small.CONFIG, small.params(), 7)
    shapes = jax.tree.map(lambda leaf: leaf.shape, found)
    assert shapes == jax.tree.map(lambda leaf: leaf.shape, small.params(smaller))
    inputs = small.inputs(smaller)
    noise = np.zeros((2, smaller.chunk_size, smaller.max_action_dim), np.float32)
    result, _ = jax.jit(lambda p, i, n: sample(smaller, p, i, n))(found, inputs, noise)
    assert np.isfinite(result.actions).all()


def test_kernel_and_positions():
    params = small.params()
    vision = with_patches(small.CONFIG, params, 7)["vision"]
    kernel = np.asarray(params["vision"]["patch_embed"]["kernel"])
    mean = (kernel[:7, :7] + kernel[7:, :7] + kernel[:7, 7:] + kernel[7:, 7:]) / 4
    np.testing.assert_allclose(vision["patch_embed"]["kernel"], 2 * mean, atol=1e-6)
    # A patch in the corner of the picture is nearest to the old patch of that corner.
    table = np.asarray(params["vision"]["position_embedding"])
    np.testing.assert_allclose(vision["position_embedding"][0], table[0], atol=1e-6)
    np.testing.assert_allclose(vision["position_embedding"][-1], table[-1], atol=1e-6)


def test_the_same_size_changes_nothing():
    params = small.params()
    found = with_patches(small.CONFIG, params, small.SIZES.patch_size)
    for old, new in zip(jax.tree.leaves(params), jax.tree.leaves(found), strict=True):
        assert new is old


@pytest.mark.parametrize("size", [0, 5, 28])
def test_sizes_that_do_not_divide(size):
    with pytest.raises(ConfigError, match=r"init_patch_size.*divisor of 14"):
        with_patches(small.CONFIG, small.params(), size)


if __name__ == "__main__":
    testing.main()
