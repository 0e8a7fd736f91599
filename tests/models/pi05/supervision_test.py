"""Supervised attention: the loss against its definition, and that training moves attention."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from attn_jax.core.errors import ConfigError
from attn_jax.core.taps import Site
from attn_jax.models.pi05.supervision import PATCHES, WORDS, Supervision
from attn_jax.models.pi05.task import Pi05Task
from tests import testing
from tests.models.pi05 import small


def test_the_loss_is_the_cross_entropy_of_each_camera():
    looks = np.random.default_rng(0).uniform(size=(1, 3, 2, 8)).astype(np.float32)
    targets = np.zeros((2, 2, 4), np.float32)
    targets[0, 0, 1] = 0.5  # whatever it sums to
    targets[1, 0, :2] = 0.25
    targets[1, 1, 3] = 1.0
    found = np.asarray(Supervision(1.0).loss(looks, targets))
    share = looks.astype(np.float64).reshape(3, 2, 2, 4)
    share = share / share.sum(-1, keepdims=True)
    first = -np.log(share[:, 0, 0, 1]).mean()  # the other camera does not see the target
    both = -np.log(share[:, 1, 0, :2]).mean(-1) - np.log(share[:, 1, 1, 3])
    np.testing.assert_allclose(found, [first, both.mean() / 2], rtol=1e-4)


def test_nothing_seen_counts_nothing():
    looks = np.full((1, 1, 1, 4), 0.25, np.float32)
    loss, slope = jax.value_and_grad(
        lambda looks: Supervision(1.0).loss(looks, jnp.zeros((1, 2, 2)))[0]
    )(looks)
    assert loss == 0 and not np.asarray(slope).any()


def test_the_tap_keeps_patches_of_the_chosen_heads_and_layers():
    tap = Supervision(1.0, layers="1", heads="0,2").tap(small.CONFIG)
    patches = 3 * small.SIZES.image_tokens
    probs = np.random.default_rng(0).uniform(size=(2, 4, 3, patches + 5)).astype(np.float32)
    kept = tap.capture(Site("suffix", 1), probs)
    assert kept.keys() == {PATCHES}
    np.testing.assert_allclose(kept[PATCHES], probs[:, [0, 2], :, :patches].mean((1, 2)), rtol=1e-5)
    assert tap.capture(Site("suffix", 0), probs) is None
    assert tap.capture(Site("prefix", 1), probs) is None


def test_the_tap_keeps_words_where_they_are_asked_for():
    settings = Supervision(1.0, layers="1", words="red", word_layers="0,1", word_heads="3")
    tap = settings.tap(small.CONFIG)
    patches, prompt = 3 * small.SIZES.image_tokens, small.CONFIG.prompt_length
    probs = np.random.default_rng(0).uniform(size=(2, 4, 3, patches + prompt + 4))
    first, second = (tap.capture(Site("suffix", layer), probs) for layer in (0, 1))
    assert first.keys() == {WORDS} and second.keys() == {PATCHES, WORDS}
    expected = probs[:, 3, :, patches : patches + prompt].mean(1)
    np.testing.assert_allclose(first[WORDS], expected, rtol=1e-5)


def test_the_loss_of_words_is_the_cross_entropy_with_all_attention():
    looks = np.random.default_rng(0).uniform(0.01, 0.2, size=(2, 3, 2, 5)).astype(np.float32)
    targets = np.array([[0, 1, 1, 0, 0], [0, 0, 0, 0, 0]], np.float32)
    found = Supervision(1.0, words="red").word_loss(looks, targets)
    expected = -np.log(looks.astype(np.float64)[:, :, 0, 1:3]).mean()
    np.testing.assert_allclose(found, [expected, 0], rtol=1e-3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"weight": -1.0}, "at least 0"),
        ({"weight": float("inf")}, "finite, got inf"),
        ({"layers": "first"}, r"supervision\.layers"),
        ({"heads": "0,x"}, r"supervision\.heads"),
        ({"layers": "0,2"}, r"supervision\.layers: 2 is outside 0\.\.1"),
        ({"heads": "4"}, r"supervision\.heads: 4 is outside 0\.\.3"),
    ],
)
def test_bad_settings(fields, message):
    with pytest.raises(ConfigError, match=message):
        Supervision(**fields).tap(small.CONFIG)


@pytest.fixture(scope="module")
def task():
    return Pi05Task(small.CONFIG, draws=2, supervision=Supervision(1.0, layers="1", heads="0"))


def batch_of(task):
    random = np.random.default_rng(1)
    config, patches = task.config, task.config.architecture.image_tokens
    side, cameras = config.architecture.image_size, len(config.cameras)
    look_at = np.zeros((2, cameras, patches), np.float32)
    look_at[:, :, 2] = 1
    return {
        "images": random.integers(0, 256, (2, cameras, side, side, 3), np.uint8),
        "image_mask": np.ones((2, cameras), bool),
        "tokens": np.full((2, config.prompt_length), 5, np.int32),
        "token_mask": np.ones((2, config.prompt_length), bool),
        "actions": random.uniform(-1, 1, (2, config.chunk_size, config.action_dim)),
        "action_is_pad": np.zeros((2, config.chunk_size), bool),
        "look_at": look_at,
    }


@pytest.mark.slow
def test_training_moves_attention_and_weight_zero_does_not_change_the_loss(task):
    batch = batch_of(task)
    params = task.init(jax.random.key(0))
    rng = jax.random.key(2)
    plain = dataclasses.replace(task, supervision=Supervision())
    loss, aux = jax.jit(task.loss)(params, batch, rng)
    expected, _ = jax.jit(plain.loss)(params, batch, rng)
    np.testing.assert_allclose(aux.metrics["velocity_mse"], expected, rtol=1e-5)
    np.testing.assert_allclose(loss, expected + aux.metrics["attention_loss"], rtol=1e-5)
    patches = task.config.architecture.image_tokens
    assert aux.metrics["attention_loss"] == pytest.approx(np.log(patches), rel=0.2)

    optimizer = optax.adam(3e-3)

    @jax.jit
    def step(params, state):
        (_, aux), slope = jax.value_and_grad(task.loss, has_aux=True)(params, batch, rng)
        updates, state = optimizer.update(slope, state)
        return optax.apply_updates(params, updates), state, aux.metrics["attention_loss"]

    state = optimizer.init(params)
    for _ in range(40):
        params, state, look = step(params, state)
    assert look < 0.3


def test_a_batch_without_targets_is_refused(task):
    batch = batch_of(task)
    del batch["look_at"]
    params = task.init(jax.random.key(0))
    with pytest.raises(ConfigError, match="does not say where to look"):
        task.loss(params, batch, jax.random.key(0))


if __name__ == "__main__":
    testing.main()
