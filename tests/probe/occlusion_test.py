from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from attn_jax.core.errors import ConfigError
from attn_jax.probe.occlusion import (
    BLUR,
    cell_masks,
    fill,
    occlude,
    occlusion_saliency,
    patch_pixels,
)
from tests import testing


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 32, 16, 3)), jnp.float32)


def test_only_the_covered_patches_change(images):
    mask = np.zeros((4, 2), bool)
    mask[1, 0] = mask[3, 1] = True
    pixels = patch_pixels(mask, (32, 16))
    covered = np.asarray(occlude(images, fill(images, "black"), pixels))
    expected = np.array(images)
    expected[:, 8:16, :8] = -1
    expected[:, 24:, 8:] = -1
    np.testing.assert_array_equal(covered, expected)
    each = jnp.stack([pixels, ~pixels])
    covered = np.asarray(occlude(images, fill(images, "black"), each))
    np.testing.assert_array_equal(covered[0], expected[0])
    np.testing.assert_array_equal(covered[1, 8:16, :8], images[1, 8:16, :8])


def test_fills_are_what_they_say(images):
    mean = np.asarray(fill(images, "mean"))
    np.testing.assert_allclose(mean[1, 3, 4], np.asarray(images)[1].mean((0, 1)), atol=1e-6)
    blur = np.asarray(fill(images, "blur"))
    sigma = BLUR * 32
    expected = scipy.ndimage.gaussian_filter(
        np.asarray(images, np.float64), (0, sigma, sigma, 0), mode="nearest", truncate=3.0
    )
    np.testing.assert_allclose(blur, expected, atol=1e-5)
    one, two = (np.asarray(fill(images, "noise", jax.random.key(n))) for n in (0, 1))
    assert one.min() >= images.min() and one.max() <= images.max()
    assert np.abs(one - two).mean() > 0.1
    np.testing.assert_allclose(one.std(), np.std(images), atol=0.1)


def test_fills_and_masks_are_arguments_of_one_program(images):
    traces = []

    @jax.jit
    def cover(images, filled, masks):
        traces.append(1)
        return jax.vmap(lambda mask: occlude(images, filled, patch_pixels(mask, (32, 16))))(masks)

    for how in ("black", "mean", "blur"):
        out = cover(images, fill(images, how), jnp.asarray(cell_masks(2)))
        assert out.shape == (4, *images.shape)
    assert len(traces) == 1


@pytest.mark.parametrize("chunk", [None, 3])
def test_saliency_is_where_the_output_looks(images, chunk):
    """The output is the mean of one cell; covering it with black moves it by mean + 1."""

    def act(images):
        return jnp.mean(images[:, 8:16, 4:8], axis=(1, 2, 3))[:, None]

    found = occlusion_saliency(act, images, fill(images, "black"), cells=4, chunk=chunk)
    expected = np.zeros((4, 4, 2))
    expected[1, 1] = np.square(np.asarray(images)[:, 8:16, 4:8].mean((1, 2, 3)) + 1)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_what_cannot_be_filled_is_refused(images):
    with pytest.raises(ConfigError, match="unknown fill 'white'"):
        fill(images, "white")
    with pytest.raises(ConfigError, match="needs a random key"):
        fill(images, "noise")
    with pytest.raises(ConfigError, match="does not divide"):
        patch_pixels(np.zeros((3, 3), bool), (32, 16))


if __name__ == "__main__":
    testing.main()
