"""Aux crosses jit and gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from attn_jax.core.training import Aux
from tests import testing


def test_aux_is_a_pytree():
    def loss(x):
        return jnp.sum(x**2), Aux(metrics={"mean": jnp.mean(x)}, per_sample=x)

    (_, aux), grad = jax.jit(jax.value_and_grad(loss, has_aux=True))(jnp.arange(3.0))
    assert float(aux.metrics["mean"]) == 1.0
    assert grad.tolist() == [0.0, 2.0, 4.0]
    assert Aux().per_sample is None


if __name__ == "__main__":
    testing.main()
