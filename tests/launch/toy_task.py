"""The toy of tests/train behind the interface that launch.train expects."""

import ml_collections

from attn_jax.train.config import default_distributed_config, default_train_config
from launch import tasks
from launch.built import Built
from tests.train import toy


def build(config):
    task, data = toy.ToyTask(config.width), toy.ToyData(config.seed)
    return Built(task, data, {"model": config.width}, ("val/mse", "min"))


def get_config(arg=None):
    """As a configuration file, of a process of its own: makes launch.train know the toy."""
    tasks.build = build
    return settings()


def settings():
    """The configuration alone; other tests of this process keep the real `tasks.build`."""
    config = ml_collections.ConfigDict({"task": "toy", "seed": 0, "width": 8})
    config.train = default_train_config()
    config.distributed = default_distributed_config()
    config.train.update(steps=8, eval_every=4, save_every=4, log_every=2, progress="off")
    config.train.optim.update(learning_rate=0.05, ema=0.9, schedule="cosine")
    return config
