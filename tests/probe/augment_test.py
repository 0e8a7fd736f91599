"""Disturbances that spare what is looked at."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attn_jax.core.errors import ConfigError
from attn_jax.probe.augment import SIGMA, disturb, weights
from attn_jax.probe.occlusion import fill
from tests import testing

ATTENTION = np.array([[[4.0, 2.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]], np.float32)


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(0).uniform(-0.2, 0.2, (2, 64, 64, 3)), jnp.float32)


def test_weights():
    expected = np.array([[[0.0, 0.5], [1.0, 0.75]], [[1.0, 1.0], [1.0, 1.0]]])
    np.testing.assert_allclose(weights(ATTENTION), expected)
    np.testing.assert_allclose(weights(ATTENTION * 1e-3), expected, rtol=1e-6)


def test_noise_grows_with_the_weight(images):
    changed = jax.jit(lambda key: disturb(images, ATTENTION, "noise", key))(jax.random.key(0))
    moved = np.asarray(changed - images)
    assert not moved[0, :32, :32].any()
    for patch, weight in (
        (moved[0, :32, 32:], 0.5),
        (moved[0, 32:, :32], 1.0),
        (moved[1], 1.0),
    ):
        assert np.std(patch) == pytest.approx(weight * SIGMA * 2, rel=0.05)
    half = disturb(images, ATTENTION, "noise", jax.random.key(0), limits=(0.0, 1.0))
    assert half.min() == 0.0


def test_blur_mixes_by_the_weight(images):
    changed = np.asarray(disturb(images, ATTENTION, "blur"))
    blurred, plain = np.asarray(fill(images, "blur")), np.asarray(images)
    np.testing.assert_allclose(changed[0, :32, :32], plain[0, :32, :32], atol=1e-6)
    np.testing.assert_allclose(changed[1], blurred[1], atol=1e-6)
    middle = (plain + blurred)[0, :32, 32:] / 2
    np.testing.assert_allclose(changed[0, :32, 32:], middle, atol=1e-6)


def test_bad_arguments(images):
    with pytest.raises(ConfigError, match="unknown way 'dark'"):
        disturb(images, ATTENTION, "dark")
    with pytest.raises(ConfigError, match="needs a random key"):
        disturb(images, ATTENTION, "noise")
    with pytest.raises(ConfigError, match="does not divide"):
        disturb(images, np.ones((2, 3, 3), np.float32), "blur")


if __name__ == "__main__":
    testing.main()
