from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attn_jax.nn.gemma import (
    AdaptiveRMSNorm,
    GemmaLayer,
    GemmaStack,
    RMSNorm,
    rope_frequencies,
    rope_table,
    rotate,
)
from tests import testing

SIZES = {"width": 12, "mlp": 20, "depth": 2, "heads": 4, "kv_heads": 2, "head_dim": 6}


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def random_like(tree, seed=0):
    """The same tree with other values, none of them zero."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape) * 0.3, x.dtype), tree)


def stack_and_inputs(**options):
    stack = GemmaStack(**SIZES, **options)
    x = normal(2, 5, 12)
    rope = rope_table(jnp.tile(jnp.arange(5), (2, 1)), 6)
    mask = jnp.ones((2, 1, 5, 5), bool)
    return stack, x, rope, mask


def test_frequencies_fall_from_one():
    np.testing.assert_allclose(
        rope_frequencies(8), 10000.0 ** -np.float64([0, 0.25, 0.5, 0.75]), rtol=1e-6
    )
    rounded = rope_frequencies(256, rounded=True)
    relative = np.abs(rounded / rope_frequencies(256) - 1)
    assert 1e-3 < relative.max() < 2**-8


def test_rotation_by_hand():
    rope = rope_table(jnp.asarray([[0, 1]]), 2)
    x = jnp.asarray([[[[1.0, 0.0]], [[1.0, 0.0]]]])
    found = rotate(x, rope)
    np.testing.assert_allclose(found[0, 0, 0], [1.0, 0.0])
    np.testing.assert_allclose(found[0, 1, 0], [np.cos(1), np.sin(1)], rtol=1e-6)


def test_products_of_rotated_vectors_depend_on_the_distance_alone():
    q, k = normal(1, 1, 1, 6), normal(1, 1, 1, 6, seed=1)

    def product(i, j):
        a, b = (rope_table(jnp.asarray([[n]]), 6) for n in (i, j))
        return float(jnp.sum(rotate(q, a) * rotate(k, b)))

    assert product(3, 7) == pytest.approx(product(13, 17), abs=1e-5)
    assert product(3, 7) != pytest.approx(product(3, 8), abs=1e-3)


def test_rms_norm_by_hand():
    x = jnp.asarray([[[3.0, -4.0]]])
    found = RMSNorm().apply({"params": {"scale": jnp.asarray([0.0, 1.0])}}, x)
    rms = np.sqrt(12.5)
    np.testing.assert_allclose(found[0, 0], [3 / rms, -8 / rms], rtol=1e-5)


def test_adaptive_norm_takes_scale_shift_and_gate_in_this_order():
    x = jnp.asarray([[[3.0, -4.0]]])
    norm = AdaptiveRMSNorm(2)
    modulation = jnp.asarray([[1.0, 0.0, 10.0, 20.0, 7.0, 8.0]])
    found, gate = norm.apply({}, x, modulation)
    rms = np.sqrt(12.5)
    np.testing.assert_allclose(found[0, 0], [6 / rms + 10, -4 / rms + 20], rtol=1e-5)
    np.testing.assert_array_equal(gate, [[[7.0, 8.0]]])


def test_a_layer_with_its_outputs_switched_off_is_the_identity():
    layer = GemmaLayer(12, 20, 4, 2, 6, "prefix", 0)
    _, x, rope, mask = stack_and_inputs()
    variables = random_like(layer.init(jax.random.key(0), x, rope=rope, mask=mask))
    off = jax.tree.map(lambda v: v, variables)
    for name in ("out", "down"):
        off["params"][name]["kernel"] = jnp.zeros_like(off["params"][name]["kernel"])
    assert np.abs(layer.apply(variables, x, rope=rope, mask=mask)[0] - x).max() > 0.01
    np.testing.assert_array_equal(layer.apply(off, x, rope=rope, mask=mask)[0], x)


def test_past_keys_give_what_one_pass_over_all_tokens_gives():
    """Later tokens see everything, earlier ones only each other: one pass, or two with a cache."""
    stack, x, rope, _ = stack_and_inputs()
    mask = jnp.ones((2, 1, 5, 5), bool).at[:, :, :3, 3:].set(False)
    variables = random_like(stack.init(jax.random.key(0), x, rope=rope, mask=mask))
    whole, _ = stack.apply(variables, x, rope=rope, mask=mask)
    first, second = (tuple(t[:, part] for t in rope) for part in (slice(3), slice(3, None)))
    early, past = stack.apply(variables, x[:, :3], rope=first, mask=mask[:, :, :3, :3])
    late, own = stack.apply(variables, x[:, 3:], rope=second, mask=mask[:, :, 3:], past=past)
    np.testing.assert_allclose(jnp.concatenate([early, late], axis=1), whole, atol=1e-5)
    assert [keys.shape for keys, _ in own] == [(2, 2, 2, 6)] * 2


def test_a_closed_gate_leaves_the_residual():
    stack, x, rope, mask = stack_and_inputs(adaptive=True)
    init = functools.partial(stack.init, method="modulate")
    condition = normal(2, 7)
    variables = random_like(init(jax.random.key(0), condition))
    layers, final = stack.apply(variables, condition, method="modulate")
    assert len(layers) == 2 and layers[0][0].shape == (2, 36) and final.shape == (2, 36)
    closed = tuple(tuple(m.at[:, 24:].set(0.0) for m in layer) for layer in layers)
    plain = jnp.zeros_like(final)
    body = stack.init(jax.random.key(0), x, rope=rope, mask=mask, modulation=(layers, final))
    out, _ = stack.apply(random_like(body), x, rope=rope, mask=mask, modulation=(closed, plain))
    expected = x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True))
    np.testing.assert_allclose(out, expected, atol=1e-4)


def test_bfloat16_matrices_and_float32_norms():
    stack, x, rope, mask = stack_and_inputs(dtype=jnp.bfloat16, logits_dtype=jnp.bfloat16)
    variables = stack.init(jax.random.key(0), x, rope=rope, mask=mask)
    layer = variables["params"]["layer_0"]
    assert layer["query"]["kernel"].dtype == jnp.bfloat16
    assert layer["attention_norm"]["scale"].dtype == jnp.float32
    assert stack.apply(variables, x, rope=rope, mask=mask)[0].dtype == jnp.bfloat16


if __name__ == "__main__":
    testing.main()
