"""The hybrid loss: equal to its unshifted form, and safe where that overflows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_jax.core.errors import ConfigError
from attn_jax.models.canvas.losses import (
    LossConfig,
    canvas_loss,
    focal_weights,
    hybrid_loss,
    pixel_weights,
)
from tests import testing

errors = st.lists(st.floats(0, 10, width=32), min_size=1, max_size=20)


@given(errors, st.floats(0, 1), st.floats(0.1, 5))
def test_equals_the_unshifted_formula_where_that_is_finite(values, alpha, beta):
    e = np.asarray(values, np.float64)
    w = np.exp(beta * e)
    expected = alpha * e.mean() + (1 - alpha) * (w * e).sum() / w.sum()
    loss, plain, _ = hybrid_loss(
        jnp.asarray(e, jnp.float32), jnp.ones(len(e), jnp.float32), alpha, beta
    )
    np.testing.assert_allclose(loss, expected, rtol=2e-4, atol=1e-6)
    np.testing.assert_allclose(plain, e.mean(), rtol=1e-5, atol=1e-6)
    found = focal_weights(jnp.asarray(e, jnp.float32), jnp.ones(len(e), jnp.float32), beta)
    np.testing.assert_allclose(found, [w.mean(), w.max()], rtol=2e-4)


@given(errors)
def test_alpha_one_and_beta_zero_are_plain(values):
    e = jnp.asarray(values, jnp.float32)
    for alpha, beta in ((1.0, 5.0), (0.1, 0.0), (0.1, -1.0)):
        loss, plain, _ = hybrid_loss(e, jnp.ones_like(e), alpha, beta)
        assert float(loss) == float(plain)


def test_huge_errors_stay_finite_with_finite_gradients():
    target = jnp.zeros((1, 1, 3))

    def loss(prediction):
        return canvas_loss(prediction, target, target, LossConfig(alpha=0.1))[0]

    value, grad = jax.value_and_grad(loss)(jnp.asarray([[[1e3, -500.0, 0.0]]]))
    assert np.isfinite(value)
    assert np.all(np.isfinite(grad))


def test_weight_zero_leaves_an_element_out():
    e = jnp.asarray([1.0, 100.0])
    loss, plain, focal = hybrid_loss(e, jnp.asarray([1.0, 0.0]), 0.5, 5.0)
    assert float(loss) == float(plain) == float(focal) == 1.0


def test_nonblack_and_changed_pixels_are_weighted_as_whole_pixels():
    target = jnp.asarray([[[0.0, 0.0, 0.0, 0.9, 0.0, 0.0]]])
    last = jnp.asarray([[[0.5, 0.0, 0.0, 0.9, 0.0, 0.0]]])
    nonblack = pixel_weights(target, last, LossConfig(weighting="nonblack", foreground=7.0))
    assert nonblack.ravel().tolist() == [1, 1, 1, 7, 7, 7]
    changed = pixel_weights(target, last, LossConfig(weighting="changed", foreground=7.0))
    assert changed.ravel().tolist() == [7, 7, 7, 1, 1, 1]


def test_diagnostics_and_per_sample():
    target = jnp.asarray([[[1.0, 0.0, 0.0]], [[0.0, 0.0, 0.0]]])
    prediction = jnp.asarray([[[0.0, 0.0, 0.0]], [[0.0, 0.0, 0.6]]])
    loss, parts, per_sample = canvas_loss(prediction, target, target, LossConfig())
    np.testing.assert_allclose(loss, (1 + 0.36) / 6, rtol=1e-6)
    np.testing.assert_allclose(per_sample, [1 / 3, 0.12], rtol=1e-6)
    np.testing.assert_allclose(parts["nonblack"], 1.0)
    np.testing.assert_allclose(parts["black_baseline"], 1 / 6, rtol=1e-6)
    np.testing.assert_allclose(parts["nonblack_fraction"], 1 / 6, rtol=1e-6)


def test_focal_weights_are_told_where_they_count():
    target = jnp.zeros((1, 2, 3))
    prediction = jnp.asarray([[[1.0, 0.0, 0.0], [99.0, 99.0, 99.0]]])
    valid = jnp.asarray([[True, False]])
    config = LossConfig(alpha=0.1, beta=2.0)
    _, parts, _ = canvas_loss(prediction, target, target, config, valid)
    np.testing.assert_allclose(parts["focal_weight_max"], np.exp(2.0), rtol=1e-6)
    np.testing.assert_allclose(parts["focal_weight_mean"], (np.exp(2.0) + 2) / 3, rtol=1e-6)
    _, parts, _ = canvas_loss(prediction * 1e3, target, target, config, valid)
    assert np.isfinite(parts["focal_weight_max"])
    _, parts, _ = canvas_loss(prediction, target, target, LossConfig(alpha=1.0))
    assert "focal_weight_max" not in parts


def test_padding_is_left_out():
    target = jnp.zeros((1, 2, 3))
    prediction = jnp.asarray([[[1.0, 1.0, 1.0], [9.0, 9.0, 9.0]]])
    valid = jnp.asarray([[True, False]])
    loss, parts, per_sample = canvas_loss(prediction, target, target, LossConfig(), valid)
    assert float(loss) == float(parts["plain"]) == float(per_sample[0]) == 1.0


def test_bad_settings_are_refused():
    with pytest.raises(ConfigError, match=r"unknown loss weighting 'grey'.*nonblack"):
        LossConfig(weighting="grey")
    for fields in (
        {"alpha": float("nan")},
        {"beta": float("nan")},
        {"beta": float("inf")},
        {"foreground": float("nan")},
        {"foreground": float("inf")},
    ):
        with pytest.raises(ConfigError, match=r"finite, positive foreground, got .*(nan|inf)"):
            LossConfig(**fields)
    with pytest.raises(ConfigError, match="alpha"):
        LossConfig(alpha=1.5)
    with pytest.raises(ConfigError, match="positive foreground"):
        LossConfig(foreground=0.0)


if __name__ == "__main__":
    testing.main()
