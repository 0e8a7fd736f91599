"""The canvas configuration and its arguments."""

from __future__ import annotations

import pytest

from attn_jax.core.canvas import CanvasGeometry
from attn_jax.core.errors import ConfigError
from attn_jax.models.canvas.losses import LossConfig
from attn_jax.train.config import optim_config, resolve
from configs.canvas import get_config
from launch import tasks
from tests import testing


@pytest.mark.parametrize("arg", [None, "size=64", "size=112", "size=64,tiny", "original"])
def test_every_argument_gives_a_valid_configuration(arg):
    config = get_config(arg)
    size = 64 if arg and "64" in arg else 224
    model = tasks.canvas_config(config.model, (size, size))
    assert model.geometry == CanvasGeometry((size, size))
    loss = config.loss
    LossConfig(loss.alpha, loss.beta, loss.weighting, loss.foreground)
    resolve(config.train)
    optim_config(config.train)


def test_original_has_the_sizes_and_objective_of_the_original():
    config = get_config("original")
    assert config.model.positions == "compat"
    assert (config.loss.alpha, config.loss.beta) == (0.1, 5.0)
    assert (config.model.dim, config.model.decoder_depth) == (256, 5)


def test_unknown_argument_is_an_error():
    with pytest.raises(ConfigError, match=r"unknown config argument 'big'.*size"):
        get_config("big")


if __name__ == "__main__":
    testing.main()
