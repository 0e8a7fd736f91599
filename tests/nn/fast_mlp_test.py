from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from attn_jax.nn import fast_mlp
from tests import testing


def test_gelu_and_its_gradient_are_exact():
    x = np.linspace(-8, 8, 4001)
    ours = fast_mlp.gelu(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(ours, x * scipy.stats.norm.cdf(x), atol=2e-6)
    gradient = jax.vmap(jax.grad(fast_mlp.gelu))(jnp.asarray(x, jnp.float32))
    expected = scipy.stats.norm.cdf(x) + x * scipy.stats.norm.pdf(x)
    np.testing.assert_allclose(gradient, expected, atol=2e-6)


def test_gelu_keeps_bfloat16():
    assert fast_mlp.gelu(jnp.ones(3, jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize("sizes", [(6, 4), (4, 6), (5, 5)])
@pytest.mark.parametrize("lead", [(7,), (2, 3)])
def test_a_dense_layer_has_the_same_values_and_gradients(sizes, lead):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(*lead, sizes[0])), jnp.float32)
    plain = nn.Dense(sizes[1])
    quick = nn.Dense(sizes[1], dot_general=fast_mlp.dense_dot_general)
    variables = plain.init(jax.random.key(0), x)

    def run(layer):
        def loss(variables, x):
            return jnp.sum(jnp.sin(layer.apply(variables, x)))

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(variables, x)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), run(quick), run(plain))


if __name__ == "__main__":
    testing.main()
