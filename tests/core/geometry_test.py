"""Tests of attn_jax.core.geometry."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_jax.core import geometry
from attn_jax.core.errors import ConfigError
from tests import testing

FULL = (0, 0, 224, 224)
sizes = st.tuples(st.integers(1, 400), st.integers(1, 400))


def _pixel_centroid(heat):
    y, x = np.mgrid[: heat.shape[0], : heat.shape[1]]
    return np.array([(heat * y).sum(), (heat * x).sum()]) / heat.sum()


def _one_hot(row, column, grid=(16, 16)):
    out = np.zeros(grid)
    out[row, column] = 1.0
    return out


def test_letterbox_of_a_720p_camera():
    box = geometry.letterbox((720, 1280), (224, 224))
    assert box.content == (49, 0, 126, 224)
    assert box.bars == (49, 49, 0, 0)
    bars = box.bar_share((16, 16))
    assert np.sum(np.isclose(bars, 1.0)) == 96
    assert np.sum(np.isclose(bars, 0.5)) == 32
    assert np.sum(np.isclose(bars, 0.0, atol=1e-12)) == 128


def test_odd_padding_puts_the_rest_after():
    assert geometry.letterbox((100, 221), (224, 224)).bars == (61, 62, 0, 0)
    assert geometry.letterbox((221, 100), (224, 224)).bars == (0, 0, 61, 62)


def test_sizes_must_be_positive():
    with pytest.raises(ConfigError, match="positive"):
        geometry.letterbox((0, 4), (8, 8))


@given(source=sizes, target=sizes)
def test_letterbox_fits_and_is_centred(source, target):
    box = geometry.letterbox(source, target)
    above, below, left, right = box.bars
    assert min(box.bars) >= 0
    assert 0 <= below - above <= 1
    assert 0 <= right - left <= 1
    assert box.content[2] == target[0] or box.content[3] == target[1]
    points = np.array([[0.0, 0.0], [source[0] - 1.0, source[1] - 1.0]])
    np.testing.assert_allclose(box.to_source(box.to_target(points)), points, atol=1e-9)


def test_letterbox_corners_map_to_content_corners():
    box = geometry.letterbox((720, 1280), (224, 224))
    corners = np.array([[-0.5, -0.5], [719.5, 1279.5]])
    np.testing.assert_allclose(box.to_target(corners), [[48.5, -0.5], [174.5, 223.5]])


def test_letterboxed_image_keeps_dtype_and_level():
    picture = np.full((30, 60, 3), 200, np.uint8)
    out = geometry.letterbox((30, 60), (16, 16)).image(picture)
    assert out.dtype == np.uint8 and out.shape == (16, 16, 3)
    assert np.all(out[4:12] == 200)
    assert np.all(out[:4] == 0) and np.all(out[12:] == 0)
    with pytest.raises(ConfigError, match="letterbox is for"):
        geometry.letterbox((30, 60), (16, 16)).image(picture.transpose(1, 0, 2))


@given(row=st.integers(1, 14), column=st.integers(1, 14))
def test_smooth_upsampling_keeps_the_centroid_of_inner_patches(row, column):
    heat = geometry.upsample(_one_hot(row, column), (224, 224))
    np.testing.assert_allclose(
        _pixel_centroid(heat), [14 * row + 6.5, 14 * column + 6.5], atol=1e-3
    )


@given(row=st.integers(0, 15), column=st.integers(0, 15))
def test_blocky_upsampling_and_centroid_are_exact_everywhere(row, column):
    expected = [14 * row + 6.5, 14 * column + 6.5]
    one_hot = _one_hot(row, column)
    heat = geometry.upsample(one_hot, (224, 224), smooth=False)
    np.testing.assert_allclose(_pixel_centroid(heat), expected, atol=1e-9)
    np.testing.assert_allclose(geometry.centroid(one_hot, FULL), expected, atol=1e-9)


def test_upsampling_reproduces_patch_values_at_odd_patch_centres():
    maps = np.random.default_rng(0).random((2, 4, 5))
    heat = geometry.upsample(maps, (4 * 7, 5 * 7))
    np.testing.assert_allclose(heat[:, 3::7, 3::7], maps, atol=1e-12)


def test_upsampling_equals_opencv_linear():
    import cv2

    maps = np.random.default_rng(1).random((16, 16))
    expected = cv2.resize(maps, (224, 126), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(geometry.upsample(maps, (126, 224)), expected, atol=1e-6)


@given(level=st.floats(0, 10), size=st.tuples(st.integers(1, 40), st.integers(1, 40)))
def test_upsampling_keeps_a_uniform_map(level, size):
    heat = geometry.upsample(np.full((3, 4), level), size)
    np.testing.assert_allclose(heat, level, rtol=1e-12)


def test_centroid_of_nothing_is_undefined():
    assert np.all(np.isnan(geometry.centroid(np.zeros((4, 4)), FULL)))


@given(seed=st.integers(0, 1000))
def test_coverage_of_whole_patches_is_exact(seed):
    chosen = np.random.default_rng(seed).random((4, 6)) > 0.5
    mask = geometry.upsample(chosen.astype(float), (32, 48), smooth=False) > 0.5
    np.testing.assert_array_equal(geometry.coverage(mask, (4, 6)), chosen.astype(float))


@given(height=st.integers(4, 60), width=st.integers(4, 60), seed=st.integers(0, 100))
def test_coverage_keeps_the_area_of_a_mask(height, width, seed):
    mask = np.random.default_rng(seed).random((height, width)) > 0.7
    box = geometry.letterbox((height, width), (28, 28))
    cells = box.coverage(mask, (4, 4))
    assert cells.min() >= 0 and cells.max() <= 1 + 1e-12
    content = box.content[2] * box.content[3] / 28**2
    np.testing.assert_allclose(cells.mean(), mask.mean() * content, atol=1e-12)


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(ConfigError, match="mask is"):
        geometry.letterbox((10, 10), (8, 8)).coverage(np.ones((9, 10), bool), (2, 2))


def test_patch_boxes_and_points_agree():
    box = (10, 20, 32, 48)
    boxes = geometry.patch_boxes((2, 3), box)
    assert boxes[1, 2].tolist() == [26, 52, 16, 16]
    centres = geometry.patch_centres((2, 3), box)
    np.testing.assert_allclose(centres[1, 2], [26 + 7.5, 52 + 7.5])
    numbers = geometry.patch_at(centres, (2, 3), box)
    np.testing.assert_array_equal(numbers, np.arange(6).reshape(2, 3))
    assert geometry.patch_at(np.array([[9.0, 20.0]]), (2, 3), box).tolist() == [-1]
    with pytest.raises(ConfigError, match="divide"):
        geometry.patch_boxes((3, 3), box)


def test_rot180_twice_is_identity():
    picture = np.arange(24).reshape(2, 4, 3)
    turned = geometry.rot180(picture, axes=(0, 1))
    assert turned[0, 0].tolist() == picture[1, 3].tolist()
    np.testing.assert_array_equal(geometry.rot180(turned, axes=(0, 1)), picture)
    box = geometry.rot180_box((1, 2, 3, 4), (10, 12))
    assert box == (6, 6, 3, 4)
    assert geometry.rot180_box(box, (10, 12)) == (1, 2, 3, 4)


if __name__ == "__main__":
    testing.main()
