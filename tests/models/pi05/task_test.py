"""The flow-matching task: what the loss is, that it falls, that nothing else is trained."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attn_jax.core.errors import ConfigError
from attn_jax.flow import path
from attn_jax.models.pi05.lora import LoraConfig
from attn_jax.models.pi05.sample import flow_matching_errors
from attn_jax.models.pi05.task import Pi05Task, mean_over_steps, model_inputs
from attn_jax.train.optim import OptimConfig
from attn_jax.train.step import init_state, make_train_step
from tests import testing
from tests.models.pi05 import small

GOLDEN = {"loss": 4.457240, "grad_norm": 26.44866}


def batch_of(rows: int = 2, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    inputs = small.inputs(lengths=(6, 3)[:rows], dummies=1)
    side = small.SIZES.image_size
    is_pad = np.zeros((rows, 4), np.bool_)
    is_pad[0, 3] = True
    return {
        "images": rng.integers(0, 256, (rows, 3, side, side, 3), np.uint8),
        "image_mask": np.asarray(inputs.image_mask),
        "tokens": np.asarray(inputs.tokens),
        "token_mask": np.asarray(inputs.token_mask),
        "actions": rng.normal(size=(rows, 4, 5)).astype(np.float32),
        "action_is_pad": is_pad,
    }


def test_the_loss_is_the_mean_squared_error_of_the_velocity():
    task, batch, key = Pi05Task(small.CONFIG), batch_of(), jax.random.key(5)
    params = small.params()
    loss, aux = jax.jit(task.loss)(params, batch, key)
    noise_key, time_key, _ = jax.random.split(key, 3)
    noise = jax.random.normal(noise_key, (1, 2, 4, 8))[0]
    times = path.sample_times(time_key, 2)
    pixels = jnp.asarray(batch["images"].astype(np.float32) / 255 * 2 - 1)
    inputs = dataclasses.replace(model_inputs(batch), images=pixels)
    errors = flow_matching_errors(
        small.CONFIG, params, inputs, jnp.asarray(batch["actions"]), noise, times
    )
    np.testing.assert_allclose(loss, errors.mean(), rtol=1e-4)
    np.testing.assert_allclose(aux.per_sample, errors.mean((1, 2)), rtol=1e-4)


def test_more_draws_are_the_mean_of_single_ones():
    task, batch, params = Pi05Task(small.CONFIG, draws=3), batch_of(), small.params()
    noise = jax.random.normal(jax.random.key(0), (3, 2, 4, 8))
    times = jnp.asarray([[0.1, 0.9], [0.5, 0.4], [1.0, 0.7]])
    found = jax.jit(task.errors)(params, batch, noise, times)
    for i in range(3):
        single = task.errors(params, batch, noise[i : i + 1], times[i : i + 1])[0]
        np.testing.assert_allclose(found[i], single, rtol=2e-4, atol=2e-5)
    loss, aux = task.loss(params, batch, jax.random.key(1))
    assert np.isfinite(loss) and aux.per_sample.shape == (2,)


def test_padding_counts_as_in_lerobot_unless_told_otherwise():
    errors = jnp.asarray(np.arange(8, dtype=np.float32).reshape(1, 2, 4, 1))
    is_pad = batch_of()["action_is_pad"]
    np.testing.assert_allclose(mean_over_steps(errors, is_pad, True), [1.5, 5.5])
    np.testing.assert_allclose(mean_over_steps(errors, is_pad, False), [1.0, 5.5])


def test_only_corrections_are_trained_and_the_rest_stays_bit_equal():
    lora = LoraConfig(2, targets=r"expert/layer_\d/query")
    task, batch = Pi05Task(small.CONFIG, lora=lora), batch_of()
    optim = OptimConfig(learning_rate=1e-2, frozen=(r"^(?!lora/)",), ema=0.9)
    params = task.with_lora(small.params(), jax.random.key(0))
    plain, _ = Pi05Task(small.CONFIG).loss(small.params(), batch, jax.random.key(1))
    start, _ = task.loss(params, batch, jax.random.key(1))
    np.testing.assert_array_equal(start, plain)
    state = init_state(task, optim, 0, params=params)
    moments = [x for x in jax.tree.leaves(state.opt_state) if x.ndim]
    assert sum(x.size for x in moments) == 2 * sum(x.size for x in jax.tree.leaves(params["lora"]))
    step = make_train_step(task, optim)
    for _ in range(2):
        state, out = step(state, batch)
    assert set(out.group_norms) == {"lora"}
    for tree in (state.params, state.ema):
        before, after = ({k: v for k, v in t.items() if k != "lora"} for t in (params, tree))
        jax.tree.map(np.testing.assert_array_equal, after, before)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), state.params["lora"], params["lora"])
    assert min(jax.tree.leaves(moved)) > 0


def test_one_step_is_golden():
    """Catches unintended changes; recompute when model, loss or update change on purpose."""
    task, batch = Pi05Task(small.CONFIG), batch_of()
    step = make_train_step(task, OptimConfig(learning_rate=1e-3))
    state = init_state(task, OptimConfig(learning_rate=1e-3), 0, params=small.params())
    state, out = step(state, batch)
    np.testing.assert_allclose(out.loss, GOLDEN["loss"], rtol=1e-4)
    np.testing.assert_allclose(out.grad_norm, GOLDEN["grad_norm"], rtol=1e-3)


@pytest.mark.slow
def test_one_batch_is_learnt_by_heart():
    config = dataclasses.replace(small.CONFIG, precision="float32")
    task, batch = Pi05Task(config, draws=4), batch_of()
    optim = OptimConfig(learning_rate=5e-3)
    step, state = make_train_step(task, optim), init_state(task, optim, 0)
    losses = []
    for _ in range(150):
        state, out = step(state, batch)
        losses.append(float(out.loss))
    assert np.mean(losses[-10:]) < 0.35 * np.mean(losses[:5])


def test_bad_values():
    with pytest.raises(ConfigError, match="trained in float32"):
        Pi05Task(dataclasses.replace(small.CONFIG, precision="bfloat16_lerobot"))
    with pytest.raises(ConfigError, match="draws: must be at least 1"):
        Pi05Task(small.CONFIG, draws=0)


if __name__ == "__main__":
    testing.main()
