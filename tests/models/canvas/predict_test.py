"""Prediction programs against the model applied by hand."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from attn_jax.core.canvas import CanvasGeometry, patchify, unpatchify
from attn_jax.models.canvas import predict as predicting
from attn_jax.models.canvas.model import CanvasConfig
from tests import testing
from tests.models.canvas.model_test import GEOMETRY, TINY, random_params


def canvases(count: int = 2, geometry: CanvasGeometry = GEOMETRY) -> np.ndarray:
    rng = np.random.default_rng(3)
    return rng.integers(0, 256, (count, *geometry.canvas_size, 3), np.uint8)


def test_target_frames_inverts_patchify_of_the_target_slot():
    canvas = canvases()
    patches = patchify(canvas, GEOMETRY.patch)[:, GEOMETRY.target_patches()]
    frames = predicting.target_frames(jnp.asarray(patches, jnp.float32), GEOMETRY)
    np.testing.assert_array_equal(frames, predicting.crop_target(canvas, GEOMETRY))


def test_target_frames_cuts_off_what_is_no_part_of_the_slot():
    # The slot starts at column 20, in the middle of a patch.
    geometry = CanvasGeometry((8, 8), history=3, separator=4, patch=8)
    canvas = canvases(geometry=geometry)
    assert geometry.frame_columns(2)[0] % 8 == 0
    odd = CanvasGeometry((8, 12), history=2, separator=8, patch=8)
    canvas = canvases(geometry=odd)
    patches = patchify(canvas, 8)[:, odd.target_patches()]
    frames = predicting.target_frames(jnp.asarray(patches, jnp.float32), odd)
    np.testing.assert_array_equal(frames, predicting.crop_target(canvas, odd))


def test_uint8_and_float_canvases_agree():
    params, canvas = random_params(TINY), canvases()
    predict = predicting.make_predict(TINY)
    np.testing.assert_allclose(
        predict(params, canvas), predict(params, canvas.astype(np.float32) / 255), atol=1e-6
    )


def test_counterfactual_equals_prediction_on_repainted_canvases():
    params, canvas = random_params(TINY), canvases()
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    frames = predicting.make_counterfactual(TINY)(params, canvas, colours)
    assert frames.shape == (2, 3, 16, 16, 3)
    start, stop = GEOMETRY.separator_columns(1)
    for number, colour in enumerate(colours):
        painted = canvas.copy()
        painted[:, :, start:stop] = colour
        expected = predicting.make_predict(TINY)(params, painted)
        np.testing.assert_allclose(frames[:, number], expected, atol=1e-5)


def test_rollout_equals_a_loop_that_feeds_back_predictions():
    params, canvas = random_params(TINY), canvases()
    colours = np.random.default_rng(0).integers(0, 256, (2, 3, 3), np.uint8)
    frames = predicting.make_rollout(TINY)(params, canvas, colours)
    assert frames.shape == (2, 3, 16, 16, 3)
    state = canvas.astype(np.float32) / 255
    predict = predicting.make_predict(TINY)
    size, step = 16, 16 + 8
    for t in range(3):
        start, stop = GEOMETRY.separator_columns(1)
        state[:, :, start:stop] = colours[:, t, None, None, :].astype(np.float32) / 255
        frame = np.clip(np.asarray(predict(params, state)), 0, 1)
        np.testing.assert_allclose(frames[:, t], frame, atol=1e-4)
        state = state.copy()
        state[:, :, : step + size] = np.concatenate(
            [state[:, :, step : step + size], state[:, :, stop - 8 : stop], frame], axis=2
        )


def test_recordable_configuration_computes_the_same():
    last = dataclasses.replace(TINY, decode="last_layer")
    assert predicting.recordable(last) == TINY
    slot = dataclasses.replace(TINY, decode="slot")
    assert predicting.recordable(slot) is slot


@pytest.mark.parametrize("decode", ["full", "last_layer", "slot"])
def test_changing_the_last_stripe_changes_only_stripe_patches_of_the_input(decode):
    config: CanvasConfig = dataclasses.replace(TINY, decode=decode)
    canvas = jnp.asarray(canvases(1))
    painted = predicting.paint_stripe(canvas, GEOMETRY, 1, jnp.asarray([1, 2, 3], jnp.uint8))
    changed = np.flatnonzero(
        (patchify(np.asarray(canvas), 8) != patchify(np.asarray(painted), 8)).any(axis=(0, 2))
    )
    stripe = GEOMETRY.layout.tokens("sep1") - 1
    assert set(changed) == set(stripe.tolist())
    back = unpatchify(patchify(painted, 8), 8, GEOMETRY.grid)
    np.testing.assert_array_equal(back, painted)
    assert config.decode == decode


if __name__ == "__main__":
    testing.main()
