"""The Pi0.5 configuration and its arguments."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import optax
import pytest

from attn_jax.models.pi05.config import Architecture
from attn_jax.train.config import optim_config, resolve
from attn_jax.train.optim import make_optimizer, make_schedule
from configs.pi05 import get_config
from tests import testing


@pytest.mark.parametrize("arg", [None, "tabletop", "tiny"])
def test_every_argument_gives_a_valid_configuration(arg):
    config = get_config(arg)
    resolve(config.train)
    optim = optim_config(config.train)
    assert optim.b2 == 0.95 and optim.clip_norm == 1.0
    assert config.train.batch_size % optim.micro_batches == 0


def test_the_default_is_the_published_model_and_lerobots_optimizer():
    config = get_config()
    sizes = {f.name: config.model[f.name] for f in dataclasses.fields(Architecture)}
    assert Architecture(**sizes) == Architecture()
    resolve(config.train)
    optim = optim_config(config.train)
    assert (optim.learning_rate, optim.warmup_steps, optim.decay_steps) == (2.5e-5, 1000, 30_000)
    assert optim.learning_rate * optim.min_ratio == pytest.approx(2.5e-6)
    assert optim.decay_all and optim.weight_decay == 0.01


@pytest.mark.bridge
@pytest.mark.filterwarnings("ignore")  # lerobot's own
@pytest.mark.parametrize("steps", [20, 500, 1000, 6000, 30_000, 40_000])
def test_the_learning_rate_is_lerobots_for_runs_of_every_length(steps):
    testing.require_module("torch", "lerobot")
    import torch
    from lerobot.policies.pi05.configuration_pi05 import PI05Config

    preset = PI05Config(device="cpu")
    optimizer = preset.get_optimizer_preset().build([torch.nn.Parameter(torch.zeros(1))])
    theirs = preset.get_scheduler_preset().build(optimizer, steps).lr_lambdas[0]
    config = get_config()
    config.train.steps = steps
    resolve(config.train)
    rate = make_schedule(optim_config(config.train))
    counts = np.unique(np.linspace(0, steps + 10, 300).astype(int))
    expected = [preset.optimizer_lr * theirs(int(count)) for count in counts]
    # The cosine in float32.
    np.testing.assert_allclose(jax.vmap(rate)(counts), expected, rtol=1e-5, atol=1e-11)


@pytest.mark.bridge
@pytest.mark.filterwarnings("ignore")  # lerobot's own
def test_an_update_decays_every_parameter_as_lerobots_does():
    testing.require_module("torch", "lerobot")
    import torch
    from lerobot.policies.pi05.configuration_pi05 import PI05Config

    config = get_config()
    config.train.optim.update(schedule="constant", warmup_steps=0)
    optim = dataclasses.replace(optim_config(config.train), learning_rate=0.1)
    params = {"dense": {"kernel": np.ones(3, np.float32), "bias": np.ones(3, np.float32)}}
    grads = jax.tree.map(lambda x: np.asarray([0.3, -0.2, 0.0], np.float32), params)
    transform = make_optimizer(optim)
    updates, _ = transform.update(grads, transform.init(params), params, value=0.0)
    found = optax.apply_updates(params, updates)
    preset = dataclasses.replace(PI05Config(device="cpu").get_optimizer_preset(), lr=0.1)
    theirs = torch.nn.Parameter(torch.ones(3))
    optimizer = preset.build([theirs])
    theirs.grad = torch.tensor([0.3, -0.2, 0.0])
    optimizer.step()
    for name in ("kernel", "bias"):
        np.testing.assert_allclose(found["dense"][name], theirs.detach().numpy(), rtol=1e-6)


if __name__ == "__main__":
    testing.main()
