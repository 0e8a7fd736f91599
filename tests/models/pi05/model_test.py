from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attn_jax.core.errors import ConfigError, InputError
from attn_jax.models.pi05 import Pi05
from attn_jax.models.pi05.config import PRECISIONS
from attn_jax.models.pi05.model import blank_inputs, check_inputs, init_params
from tests import testing
from tests.models.pi05 import small


def test_the_joint_pass_is_the_prefix_then_the_suffix():
    model, params = Pi05(small.CONFIG), {"params": small.params()}
    times = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 16)), jnp.float32)

    def run(method: str, *args):
        return jax.jit(functools.partial(model.apply, method=method))(params, *args)

    joint = run("__call__", small.inputs(), small.noise(), times)
    cache, hidden = run("encode", small.inputs())
    apart = run("velocity", cache, small.noise(), run("modulate", times))
    np.testing.assert_allclose(joint, apart, atol=1e-5)
    assert hidden.shape == (2, 3 * 4 + 9, 32)
    assert cache.layers[0][0].shape == (2, 21, 2, 8)
    assert cache.valid.sum(axis=1).tolist() == [8 + 6, 8 + 3]


def test_token_embeddings_are_scaled_and_image_tokens_are_not():
    model, params = Pi05(small.CONFIG), {"params": small.params()}
    tokens = jnp.asarray([[3, 0]])
    prompt = model.apply(params, tokens, method="embed_prompt")
    rows = small.flat_params()["embedding"][[3, 0]]
    np.testing.assert_allclose(prompt[0], rows * np.float32(32**0.5), rtol=1e-6)
    zero = small.flat_params()
    zero["projector/kernel"] = np.zeros_like(zero["projector/kernel"])
    images = model.apply(
        {"params": small.nested(zero)}, small.inputs().images, method="embed_images"
    )
    expected = np.broadcast_to(zero["projector/bias"], (2, 12, 32))
    np.testing.assert_array_equal(images, expected)


@pytest.mark.parametrize("precision", ["bfloat16_lerobot", "bfloat16_openpi"])
def test_bfloat16_is_near_float32(precision):
    config = dataclasses.replace(small.CONFIG, precision=precision)
    times = jnp.ones((2, 16))

    def run(config):
        args = (small.inputs(), small.noise(), times)
        return jax.jit(Pi05(config).apply)({"params": small.params(config)}, *args)

    exact, rough = run(small.CONFIG), run(config)
    assert rough.dtype == jnp.float32
    error = np.abs(np.asarray(rough) - np.asarray(exact)).max() / np.abs(exact).max()
    assert 1e-5 < error < 0.1


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_modulation_is_that_of_float32_in_every_precision(precision):
    """Bit for bit: openpi's JAX code alone rounds it, which `docs/pi05.md` says."""
    times = np.random.default_rng(4).standard_normal((3, 16)).astype(np.float32)

    def modulation(name):
        config = dataclasses.replace(small.CONFIG, precision=name)
        return Pi05(config).apply({"params": small.params(config)}, times, method="modulate")

    for found, expected in zip(
        jax.tree.leaves(modulation(precision)), jax.tree.leaves(modulation("float32")), strict=True
    ):
        assert found.dtype == jnp.float32
        np.testing.assert_array_equal(found, expected)


def test_initial_parameters_fit():
    params = jax.jit(functools.partial(init_params, small.CONFIG))(jax.random.key(0))
    shapes = jax.tree.map(lambda x: x.shape, params)
    assert shapes == jax.tree.map(lambda x: x.shape, small.params())


def test_unpadded_actions_are_refused():
    with pytest.raises(ConfigError, match="actions have 5 dimensions"):
        Pi05(small.CONFIG).apply(
            {"params": small.params()}, small.inputs(), jnp.zeros((2, 4, 5)), jnp.ones((2, 16))
        )


def test_inputs_are_checked_before_long_work():
    good = small.inputs()
    check_inputs(small.CONFIG, good)
    check_inputs(small.CONFIG, blank_inputs(small.CONFIG))
    bad = {
        "the model needs": good.replace(images=jnp.zeros((2, 1, 30, 30, 3))),
        "pixels outside": good.replace(images=good.images * 255),
        "image_mask": good.replace(image_mask=good.image_mask[:, :2]),
        "token_mask": good.replace(token_mask=good.token_mask[:, :2]),
        "id 60 is outside": good.replace(tokens=good.tokens.at[0, 1].set(60)),
        "no valid token": good.replace(token_mask=jnp.zeros_like(good.token_mask)),
    }
    for message, inputs in bad.items():
        with pytest.raises(InputError, match=message):
            check_inputs(small.CONFIG, inputs)


if __name__ == "__main__":
    testing.main()
