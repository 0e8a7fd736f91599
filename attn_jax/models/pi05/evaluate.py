"""How well a Pi0.5 predicts recorded chunks that it was not trained on.

evaluation = ChunkEvaluation(task, batches)                # batches of `Pi05Task`, equally sized
evaluation(params)                                         # {"loss": ..., "action_mae": ...}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attn_jax.core.typing import Array, Batch, Params
from attn_jax.models.pi05.lora import LORA, applied, without_lora
from attn_jax.models.pi05.sample import sample
from attn_jax.models.pi05.task import Pi05Task, mean_over_steps, model_inputs

# Quantiles of the training times, so that every call sees the same mix of easy and hard ones.
_TIMES = 4


class ChunkEvaluation:
    """The same noise and times at every call, so that its numbers can be compared.

    Args:
      task: model and loss.
      batches: held-out samples on the host; all of one size, so that one program serves them.
      seed: of the noise.
    """

    def __init__(self, task: Pi05Task, batches: Sequence[Batch], *, seed: int = 0):
        self._task, self._batches, self._seed = task, batches, seed
        self._program = jax.jit(self._measure)

    def __call__(self, params: Params) -> Mapping[str, Any]:
        """Means over all samples.

        Returns:
          `loss`, the training loss at fixed noise and times without augmentation; `action_mae`,
          mean absolute error of sampled chunks in normalised units over steps that are no padding;
          `first_action_mae`, the same of the first action of each chunk.
        """
        rows = [
            self._program(params, dict(batch), jax.random.fold_in(jax.random.key(self._seed), i))
            for i, batch in enumerate(self._batches)
        ]
        return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}

    def _measure(self, params: Params, batch: Batch, key: Array) -> dict[str, Array]:
        task, config = self._task, self._task.config
        actions = jnp.asarray(batch["actions"], jnp.float32)
        rows, horizon, real = actions.shape
        shape = (_TIMES, rows, horizon, config.max_action_dim)
        noise = jax.random.normal(key, shape)
        shares = (np.arange(_TIMES) + 0.5) / _TIMES
        # The inverse of the distribution function of Beta(alpha, 1) is a power.
        times = shares ** (1 / config.time_alpha) * config.time_scale + config.time_offset
        times = jnp.broadcast_to(jnp.asarray(times, jnp.float32)[:, None], (_TIMES, rows))
        errors = task.errors(params, batch, noise, times)
        loss = jnp.mean(mean_over_steps(errors, batch["action_is_pad"], task.count_padding))
        with applied(task.lora, params.get(LORA) if task.lora is not None else None):
            made, _ = sample(config, without_lora(params), model_inputs(batch), noise[0])
        off = jnp.mean(jnp.abs(made.actions[..., :real] - actions), axis=-1)
        valid = ~jnp.asarray(batch["action_is_pad"])
        return {
            "loss": loss,
            "action_mae": jnp.sum(off * valid) / jnp.sum(valid),
            "first_action_mae": jnp.mean(off[:, 0]),
        }
