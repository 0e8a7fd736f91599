from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attn_jax.nn import fast_attention
from tests import testing


def inputs(batch, queries, keys, dtype=jnp.float32, spread=1.0):
    rng = np.random.default_rng(queries)
    shapes = [(batch, n, 2, 8) for n in (queries, keys, keys, queries)]
    q, k, v, g = (jnp.asarray(rng.normal(size=s), dtype) for s in shapes)
    return q * spread, k, v, g


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("sizes", [(140, 140), (100, 170), (200, 90)])
@pytest.mark.parametrize("spread", [1.0, 30.0])
def test_values_and_gradients_equal_autodiff(batch, sizes, spread):
    q, k, v, g = inputs(batch, *sizes, spread=spread)

    @jax.jit
    def both(q, k, v, g):
        results = []
        for attend in (fast_attention._quick, fast_attention._plain):
            out, pull = jax.vjp(lambda q, k, v, f=attend: f(q, k, v, 0.3), q, k, v)
            results.append((out, *pull(g)))
        return results

    quick, plain = both(q, k, v, g)
    for ours, expected in zip(quick, plain, strict=True):
        assert np.abs(expected).max() > 0.01
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5 * spread)


@pytest.mark.parametrize("batch", [1, 2])
def test_with_probabilities_the_output_is_the_same_and_autodiff_goes_through_them(batch):
    q, k, v, g = inputs(batch, 130, 140)
    out, probs = fast_attention.attend_with_probs(q, k, v, 0.3, lambda probs: probs)
    np.testing.assert_allclose(out, fast_attention._quick(q, k, v, 0.3), atol=1e-6)
    logits = jnp.einsum("bqhd,bkhd->bhqk", q, k) * 0.3
    np.testing.assert_allclose(probs, jax.nn.softmax(logits), atol=1e-6)

    def loss(f):
        def value(q):
            out, probs = f(q)
            return jnp.sum(out * g) + jnp.sum(jnp.square(probs))

        return jax.jit(jax.grad(value))(q)

    def plain(q):
        return fast_attention._plain(q, k, v, 0.3), jax.nn.softmax(
            jnp.einsum("bqhd,bkhd->bhqk", q, k) * 0.3
        )

    ours = loss(lambda q: fast_attention.attend_with_probs(q, k, v, 0.3, lambda probs: probs))
    np.testing.assert_allclose(ours, loss(plain), atol=1e-5)


def test_large_maps_take_the_quick_path_on_cpu_and_small_ones_do_not():
    def is_quick(queries, keys):
        q, k, v, _ = inputs(1, queries, keys)
        text = str(jax.make_jaxpr(lambda *x: fast_attention.attend(*x, 1.0))(q, k, v))
        return "custom_vjp" in text

    assert is_quick(128, 128)
    assert not is_quick(128, 127)


def test_bfloat16_keeps_its_dtype_and_a_float32_softmax():
    q, k, v, g = inputs(2, 130, 130, jnp.bfloat16)
    out, pull = jax.vjp(lambda *x: fast_attention._quick(*x, 0.3), q, k, v)
    assert out.dtype == jnp.bfloat16 and all(x.dtype == jnp.bfloat16 for x in pull(g))
    exact = fast_attention._plain(*(x.astype(jnp.float32) for x in (q, k, v)), 0.3)
    np.testing.assert_allclose(out.astype(np.float32), exact, atol=0.02)


def test_it_can_be_mapped_over_another_axis():
    q, k, v, _ = inputs(3, 130, 130)
    mapped = jax.vmap(lambda *x: fast_attention._quick(*x, 0.3))(q[:, None], k[:, None], v[:, None])
    np.testing.assert_allclose(mapped[:, 0], fast_attention._plain(q, k, v, 0.3), atol=1e-5)


if __name__ == "__main__":
    testing.main()
