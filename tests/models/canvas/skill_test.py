"""Skill numbers against their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from attn_jax.core.errors import InputError, NonFiniteError
from attn_jax.models.canvas.skill import SkillMeter, constant_likeness
from tests import testing


def frames(seed: int, count: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).random((count, 16, 16, 3)).astype(np.float32)


def test_numbers_follow_their_definitions_and_do_not_depend_on_batches():
    prediction, target, last = frames(0), frames(1), frames(2)
    prediction = prediction * 1.5 - 0.2
    whole, parts = SkillMeter(), SkillMeter()
    whole.update(prediction, target, last)
    for rows in (slice(0, 2), slice(2, 5)):
        parts.update(prediction[rows], target[rows], last[rows])
    a, b = whole.compute(), parts.compute()
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-5)
    e = np.square(prediction.astype(np.float64) - target)
    w = np.exp(5.0 * e)
    np.testing.assert_allclose(a["plain_mse"], e.mean(), rtol=1e-5)
    np.testing.assert_allclose(
        a["hybrid"], 0.1 * e.mean() + 0.9 * (w * e).sum() / w.sum(), rtol=1e-5
    )
    np.testing.assert_allclose(a["copy_last_mse"], np.square(last - target).mean(), rtol=1e-5)
    np.testing.assert_allclose(a["black_mse"], np.square(target).mean(), rtol=1e-5)
    np.testing.assert_allclose(a["best_constant_mse"], target.var(), rtol=1e-4)
    np.testing.assert_allclose(a["best_constant"], target.mean(), rtol=1e-5)
    assert a["canvases"] == 5
    clamped = np.clip(prediction, 0, 1)
    psnr = -10 * np.log10(np.square(clamped - target).mean(axis=(1, 2, 3)))
    np.testing.assert_allclose(a["psnr_db"], psnr.mean(), rtol=1e-4)
    np.testing.assert_allclose(whole.per_frame_mse(), e.mean(axis=(1, 2, 3)), rtol=1e-5)


def test_likeness_of_a_constant_answer():
    target, grey = frames(1), 0.4
    found = constant_likeness([target[:2], target[2:]], grey)
    error = np.square(target.astype(np.float64) - grey).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(found["psnr_db"], (-10 * np.log10(error)).mean(), rtol=1e-5)
    # Nothing of the answer varies, so that the structure term is c2 / (variance + c2), within a
    # Gaussian window of 11 pixels and deviation 1.5.
    x = np.arange(11) - 5.0
    window = np.exp(-np.square(x) / (2 * 1.5**2))
    window = np.outer(window, window) / np.square(window.sum())
    patches = np.lib.stride_tricks.sliding_window_view(target.astype(np.float64), (11, 11), (1, 2))
    mean = (patches * window).sum((-2, -1))
    variance = (np.square(patches) * window).sum((-2, -1)) - np.square(mean)
    c1, c2 = 0.01**2, 0.03**2
    likeness = (2 * grey * mean + c1) / (grey**2 + mean**2 + c1) * c2 / (variance + c2)
    np.testing.assert_allclose(found["ssim"], likeness.mean(), rtol=1e-3)


def test_a_perfect_prediction():
    target = frames(3)
    meter = SkillMeter()
    meter.update(target, target, frames(4))
    numbers = meter.compute()
    assert numbers["plain_mse"] == numbers["hybrid"] == 0.0
    assert numbers["psnr_db"] == 100.0
    assert numbers["ssim"] == pytest.approx(1.0, abs=1e-4)


def test_huge_errors_do_not_overflow():
    meter = SkillMeter()
    meter.update(frames(0) + 1000, frames(1), frames(2))
    assert np.isfinite(meter.compute()["hybrid"])


def test_bad_predictions_are_named():
    prediction = frames(0)
    prediction[3, 0, 0, 0] = np.nan
    with pytest.raises(NonFiniteError, match="predicted frame 3"):
        SkillMeter().update(prediction, frames(1), frames(2))
    with pytest.raises(InputError, match="no frame"):
        SkillMeter().compute()


if __name__ == "__main__":
    testing.main()
