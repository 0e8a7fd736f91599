from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attn_jax.flow.sampler import euler, euler_times, guided
from tests import testing


def test_the_last_evaluation_is_one_step_before_zero():
    expected = [np.float32(1.0 - k / 10) for k in range(10)]
    np.testing.assert_allclose(euler_times(10), expected, rtol=1e-7)
    assert euler_times(10)[-1] == np.float32(1.0 + 9 * -0.1)
    assert euler_times(1).tolist() == [1.0]
    with pytest.raises(ValueError, match="at least one step"):
        euler_times(0)


def test_a_constant_velocity_is_integrated_exactly():
    noise = jnp.asarray([[1.0, 2.0]])
    target = jnp.asarray([[0.5, -1.0]])
    x, trace = euler(
        lambda x, t: (noise - target, t), noise, jnp.asarray(euler_times(4)), num_steps=4
    )
    np.testing.assert_allclose(x, target, atol=1e-6)
    np.testing.assert_array_equal(trace.extra, euler_times(4))
    np.testing.assert_array_equal(trace.x[0], noise)
    np.testing.assert_allclose(trace.x[1], noise - 0.25 * (noise - target))
    assert trace.v.shape == (4, 1, 2)


def test_it_converges_to_the_solution_of_an_equation():
    """dx/dt = x from x(1) = 1 gives x(0) = 1 / e."""

    def end(steps):
        x, _ = euler(lambda x, _: (x, ()), jnp.ones(1), None, num_steps=steps)
        return float(x[0])

    errors = [abs(end(steps) - np.exp(-1)) for steps in (10, 100)]
    assert errors[1] < errors[0] / 8 and errors[1] < 3e-3


def test_it_is_one_loop_in_the_program():
    text = str(
        jax.make_jaxpr(lambda x: euler(lambda x, _: (x, ()), x, None, num_steps=50)[0])(jnp.ones(1))
    )
    assert text.count("scan[") == 1 and text.count("mul") < 5


def test_guidance_goes_on_from_one_field_through_the_other():
    noise = jnp.asarray([1.0, 2.0])
    fields = [lambda x, _, v=v: (jnp.full_like(x, v), v) for v in (3.0, 1.0)]
    for weight, velocity in ((0.0, 1.0), (1.0, 3.0), (2.0, 5.0)):
        x, trace = euler(guided(*fields, weight), noise, None, num_steps=2)
        np.testing.assert_allclose(x, noise - velocity, atol=1e-6)
        np.testing.assert_array_equal(trace.extra, [3.0, 3.0])


if __name__ == "__main__":
    testing.main()
