"""Pictures for the model: torch's interpolation, bars, order of the cameras."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from attn_jax.bridge.image_resize import (
    arrange_cameras,
    content_box,
    model_image,
    resize_with_pad,
)
from attn_jax.core.errors import InputError
from attn_jax.core.geometry import letterbox
from tests import testing

SIZES = [(48, 64), (64, 48), (30, 90), (224, 224), (360, 640), (97, 61), (720, 1280), (17, 5)]


def pictures(height, width, batch=1):
    return np.random.default_rng(height).random((batch, height, width, 3), np.float32)


def test_boxes():
    assert content_box((720, 1280), (224, 224)) == (49, 0, 126, 224)
    assert content_box((480, 640), (224, 224)) == (28, 0, 168, 224)
    assert content_box((50, 25), (56, 56)) == (0, 14, 56, 28)
    for size in SIZES:
        exact = letterbox(size, (224, 224)).content
        assert np.abs(np.subtract(content_box(size, (224, 224)), exact)).max() <= 1


def test_halving_averages_the_two_middle_samples_only():
    ramp = np.arange(8, dtype=np.float32).reshape(1, 1, 8, 1) / 8
    out = resize_with_pad(np.broadcast_to(ramp, (1, 8, 8, 1)), (2, 2))
    # Samples at 1.5 and 5.5; an antialiasing filter would take all four pixels.
    np.testing.assert_allclose(out[0, 0, :, 0] * 8, [1.5, 5.5], rtol=1e-6)


def test_bars_are_black_and_values_clipped():
    out = resize_with_pad(np.full((1, 4, 8, 3), 1.5, np.float32), (8, 8))
    np.testing.assert_array_equal(out[0, 2:6], 1)
    np.testing.assert_array_equal(out[0, [0, 1, 6, 7]], 0)
    assert (model_image(np.ones((1, 3, 4, 8), np.float32), (8, 8))[0, 0] == -1).all()


def test_odd_padding_has_its_smaller_half_in_front():
    out = resize_with_pad(np.ones((1, 3, 8, 3), np.float32), (8, 8))
    np.testing.assert_array_equal(out[0, :, 0, 0], [0, 0, 1, 1, 1, 0, 0, 0])


def test_both_channel_orders_and_jax_give_the_same():
    last = pictures(48, 64, batch=2)
    first = last.transpose(0, 3, 1, 2)
    expected = model_image(last, (56, 56))
    assert isinstance(expected, np.ndarray) and expected.shape == (2, 56, 56, 3)
    np.testing.assert_array_equal(model_image(first, (56, 56)), expected)
    traced = jax.jit(lambda x: model_image(x, (56, 56)))(first)
    np.testing.assert_allclose(traced, expected, atol=1e-6)


def test_right_size_is_only_scaled():
    picture = pictures(56, 56)
    np.testing.assert_array_equal(model_image(picture, (56, 56)), picture * 2 - 1)


def test_present_cameras_come_first():
    keys = ("a", "b", "c")
    got = arrange_cameras(
        {"c": pictures(10, 20, 2), "a": pictures(20, 20, 2), "state": 0}, keys, (20, 20)
    )
    assert got.keys == ("a", "c", "b")
    assert [mask.tolist() for mask in got.masks] == [[True] * 2, [True] * 2, [False] * 2]
    assert got.boxes == ((0, 0, 20, 20), (5, 0, 10, 20), None)
    assert (got.images[2] == -1).all() and got.images[2].shape == (2, 20, 20, 3)


def test_errors():
    with pytest.raises(InputError, match=r"no camera.*a, b"):
        arrange_cameras({"x": 1}, ("a", "b"), (8, 8))
    with pytest.raises(InputError, match="different batch sizes"):
        arrange_cameras({"a": pictures(8, 8), "b": pictures(8, 8, 2)}, ("a", "b"), (8, 8))
    with pytest.raises(InputError, match="expected floats"):
        model_image(np.zeros((1, 3, 8, 8), np.uint8), (8, 8))
    with pytest.raises(InputError, match="shape"):
        model_image(np.zeros((1, 4, 8, 8), np.float32), (8, 8))
    with pytest.raises(InputError, match="cannot be scaled"):
        model_image(np.zeros((1, 3, 1, 800), np.float32), (8, 8))


@pytest.mark.bridge
@pytest.mark.filterwarnings("ignore")  # of lerobot's imports
@pytest.mark.parametrize("size", SIZES)
def test_equal_to_lerobot(size):
    testing.require_module("lerobot", "torch")
    import torch
    from lerobot.policies.common.vla_utils import resize_with_pad_torch

    for target in ((224, 224), (56, 56)):
        picture = pictures(*size, batch=2)
        expected = resize_with_pad_torch(torch.from_numpy(picture), *target).numpy()
        np.testing.assert_allclose(resize_with_pad(picture, target), expected, rtol=0, atol=1e-6)


if __name__ == "__main__":
    testing.main()
