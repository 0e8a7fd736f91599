"""The Pi0.5 configuration and its arguments."""

from __future__ import annotations

import dataclasses

import pytest

from attn_jax.models.pi05.config import Architecture
from attn_jax.train.config import optim_config, resolve
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


if __name__ == "__main__":
    testing.main()
