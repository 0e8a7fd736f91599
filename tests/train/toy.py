"""A task and data small enough for every test of train/: a tiny network, regression, known answers.

As a program it trains in a folder, and kills itself where the environment says, so that a test can
see what a restart makes of it:

    TOY_KILL=step:7   python -m tests.train.toy WORKDIR STEPS      # before drawing batch 7
    TOY_KILL=save:8:5 python -m tests.train.toy WORKDIR STEPS      # 5 ms into the save of step 8
"""

from __future__ import annotations

import os
import pathlib
import signal
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from attn_jax.train.checkpoints import Checkpoints
from attn_jax.train.loop import fit
from attn_jax.train.optim import OptimConfig
from attn_jax.train.settings import FitResult, LoopConfig
from attn_jax.train.stopping import Any, Steps
from attn_jax.train.task import Aux
from attn_jax.train.writers import JsonlWriter

BATCH = 8
OPTIM = OptimConfig(learning_rate=0.05, ema=0.9, micro_batches=2, schedule="cosine", decay_steps=40)


class ToyTask:
    """Two layers with noise on the input, so that the key of a step matters."""

    def __init__(self, width: int = 8, noise: float = 0.1):
        self.width = width
        self.noise = noise
        x = np.random.default_rng(123).normal(size=(32, 3)).astype(np.float32)
        self._held_out = {"x": x, "y": target(x)}
        self.evaluations = {"val": self._validate}

    def init(self, rng):
        first, second = jax.random.split(rng)
        return {
            "hidden": {
                "kernel": jax.random.normal(first, (3, self.width)) * 0.5,
                "bias": jnp.zeros(self.width),
            },
            "out": {
                "kernel": jax.random.normal(second, (self.width, 1)) * 0.5,
                "bias": jnp.zeros(1),
            },
        }

    def loss(self, params, batch, rng):
        x = batch["x"] + self.noise * jax.random.normal(rng, batch["x"].shape, batch["x"].dtype)
        error = jnp.square(predict(params, x) - batch["y"])
        return jnp.mean(error), Aux(metrics={"mse": jnp.mean(error)}, per_sample=error)

    def _validate(self, params):
        error = predict(params, self._held_out["x"]) - self._held_out["y"]
        return {"mse": jnp.mean(jnp.square(error))}


def predict(params, x):
    hidden = jnp.tanh(x @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    return (hidden @ params["out"]["kernel"] + params["out"]["bias"])[:, 0]


def target(x):
    return np.sin(x[:, 0]) + 0.5 * x[:, 1]


class ToyData:
    """Batches from a generator whose state is part of the position; feedback steers the draws."""

    wants_feedback = True

    def __init__(self, seed: int = 0, batch: int = BATCH, poison: range = range(0)):
        rng = np.random.default_rng(99)
        self._x = rng.normal(size=(40, 3)).astype(np.float32)
        self._y = target(self._x)
        self._weights = np.ones(40)
        self._rng = np.random.default_rng(seed)
        self._batch = batch
        self._poison = poison  # batch numbers whose targets are NaN
        self.drawn = 0

    def __next__(self):
        index = self._rng.choice(40, self._batch, p=self._weights / self._weights.sum())
        y = self._y[index]
        if self.drawn in self._poison:
            y = np.full_like(y, np.nan)
        self.drawn += 1
        return {"x": self._x[index], "y": y, "index": index.astype(np.int32)}

    def feedback(self, indices, per_sample):
        self._weights[indices] = 0.1 + per_sample

    def get_state(self):
        state = self._rng.bit_generator.state  # holds integers of 128 bits
        return {"rng": state, "weights": self._weights.copy(), "drawn": self.drawn}

    def set_state(self, state):
        self._rng.bit_generator.state = state["rng"]
        self._weights = state["weights"]
        self.drawn = state["drawn"]


def run(workdir: pathlib.Path, steps: int, data: ToyData | None = None) -> FitResult:
    """Trains the toy in `workdir`, continuing what is there."""
    loop = LoopConfig(
        eval_every=6, save_every=4, log_every=3, best_metric="val/mse", progress=False
    )
    with (
        Checkpoints(workdir / "checkpoints", metadata={"config": {"toy": 1}}) as checkpoints,
        JsonlWriter(workdir / "metrics.jsonl") as writer,
    ):
        return fit(
            ToyTask(),
            data or ToyData(),
            OPTIM,
            None,
            Any((Steps(steps),)),
            seed=3,
            loop=loop,
            checkpoints=checkpoints,
            writer=writer,
        )


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class _KilledData(ToyData):
    def __init__(self, at: int):
        super().__init__()
        self._at = at

    def __next__(self):
        if self.drawn == self._at:
            _kill()
        return super().__next__()


def _kill_in_save(step: int, milliseconds: float) -> None:
    save = ocp.training.Checkpointer.save_checkpointables

    def killed(self, number, *args, **kwargs):
        if number == step:
            threading.Thread(target=lambda: (time.sleep(milliseconds / 1000), _kill())).start()
        return save(self, number, *args, **kwargs)

    ocp.training.Checkpointer.save_checkpointables = killed


if __name__ == "__main__":
    kind, *where = os.environ.get("TOY_KILL", "none").split(":")
    if kind == "save":
        _kill_in_save(int(where[0]), float(where[1]))
    run(
        pathlib.Path(sys.argv[1]),
        int(sys.argv[2]),
        _KilledData(int(where[0])) if kind == "step" else None,
    )
