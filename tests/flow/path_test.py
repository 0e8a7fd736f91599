from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from attn_jax.flow.path import interpolate, sample_times, velocity_target
from tests import testing

DATA = jnp.asarray(np.random.default_rng(0).standard_normal((3, 4, 2)), jnp.float32)
NOISE = jnp.asarray(np.random.default_rng(1).standard_normal((3, 4, 2)), jnp.float32)


def test_the_path_runs_from_data_to_noise():
    np.testing.assert_array_equal(interpolate(DATA, NOISE, jnp.zeros(3)), DATA)
    np.testing.assert_array_equal(interpolate(DATA, NOISE, jnp.ones(3)), NOISE)
    mixed = interpolate(DATA, NOISE, jnp.asarray([0.0, 0.25, 1.0]))
    np.testing.assert_allclose(mixed[1], 0.25 * NOISE[1] + 0.75 * DATA[1], rtol=1e-6)


def test_the_target_is_the_derivative_of_the_path():
    times, direction = jnp.asarray([0.2, 0.5, 0.9]), jnp.ones(3)
    _, slope = jax.jvp(lambda t: interpolate(DATA, NOISE, t), (times,), (direction,))
    np.testing.assert_allclose(velocity_target(DATA, NOISE), slope, rtol=1e-5, atol=1e-6)


def test_times_follow_the_scaled_beta_distribution():
    times = np.asarray(sample_times(jax.random.key(0), 4000))
    assert times.dtype == np.float32 and times.min() >= 0.001 and times.max() <= 1.0
    test = scipy.stats.kstest((times - 0.001) / 0.999, scipy.stats.beta(1.5, 1.0).cdf)
    assert test.pvalue > 0.01


if __name__ == "__main__":
    testing.main()
