"""Pi0.5 as a trainable task: flow matching on action chunks.

Axis names: b batch, c cameras, k prompt tokens, n patches of a camera, H action horizon, a action
dimensions, d draws.

A batch has the model's input as the pre-processor makes it, and what the actions were:

| key           | shape           | type                                                       |
|---------------|-----------------|------------------------------------------------------------|
| images        | (b, c, h, w, 3) | uint8, or float32 in [-1, 1] where pictures were resized   |
| image_mask    | (b, c)          | bool, False for dummies                                    |
| tokens        | (b, k)          | int32                                                      |
| token_mask    | (b, k)          | bool, False on padding                                     |
| actions       | (b, H, a)       | float32, normalised; beyond the episode the last repeated  |
| action_is_pad | (b, H)          | bool, True beyond the end of the episode                   |
| look_at       | (b, c, n)       | float32 share of each patch that the target covers; only   |
|               |                 | where attention is supervised                              |
| look_at_words | (b, k)          | bool, tokens of words that are to be looked at; the same   |

    task = Pi05Task(config)
    params = task.init(jax.random.key(0))
    loss, aux = task.loss(params, batch, rng)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from attn_jax.core import taps
from attn_jax.core.errors import ConfigError
from attn_jax.core.training import Aux
from attn_jax.core.typing import AnyArray, Array, Batch, Float, Params, PRNGKey
from attn_jax.flow.path import sample_times
from attn_jax.models.pi05.augment import Augmentation, augmented
from attn_jax.models.pi05.config import Pi05Config
from attn_jax.models.pi05.lora import LORA, LoraConfig, applied, init_lora, without_lora
from attn_jax.models.pi05.model import Pi05Inputs, init_params
from attn_jax.models.pi05.sample import flow_matching_draws
from attn_jax.models.pi05.supervision import PATCHES, WORDS, Supervision, looks


@dataclasses.dataclass(frozen=True)
class Pi05Task:
    """Learn the velocity from noise to actions.

    Attributes:
      config: the model; its precision must be float32.
      count_padding: whether steps beyond the end of the episode, where the last action is repeated,
        count in the loss. LeRobot counts them.
      draws: pairs of noise and time per sample and step. The cameras and the prompt are read once
        for all of them, so more draws cost little where the prefix is long. LeRobot has 1.
      augmentation: random changes of the pictures.
      lora: corrections to train instead of the model.
      supervision: where the actions should look.
      remat: recompute activations in the backward pass.
      evaluations: named evaluations, see `attn_jax.train.task`.

    Raises:
      ConfigError: another precision, or fewer draws than 1.
    """

    config: Pi05Config
    count_padding: bool = True
    draws: int = 1
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    lora: LoraConfig | None = None
    supervision: Supervision = dataclasses.field(default_factory=Supervision)
    remat: bool = False
    evaluations: Mapping[str, Callable[[Params], Mapping[str, Any]]] = dataclasses.field(
        default_factory=dict
    )

    def __post_init__(self):
        if self.config.precision != "float32":
            raise ConfigError(
                f"parameters are trained in float32, not {self.config.precision}",
                fix="Set train.optim.precision for bfloat16 arithmetic",
            )
        if self.draws < 1:
            raise ConfigError(f"must be at least 1, got {self.draws}", where="draws")

    def init(self, rng: PRNGKey) -> Params:
        """Fresh float32 parameters, those of LoRA under `lora`."""
        params = init_params(self.config, rng)
        return params if self.lora is None else self.with_lora(params, rng)

    def with_lora(self, params: Mapping[str, Any], rng: PRNGKey) -> dict[str, Any]:
        """`params`, NumPy or JAX arrays, with fresh pairs of LoRA beside them."""
        assert self.lora is not None
        return {**params, LORA: init_lora(self.lora, params, jax.random.fold_in(rng, 1))}

    def loss(self, params: Params, batch: Batch, rng: PRNGKey) -> tuple[Array, Aux]:
        """Mean squared error of the velocity; `per_sample` (b,)."""
        noise_key, time_key, augment_key = jax.random.split(rng, 3)
        actions, config = jnp.asarray(batch["actions"], jnp.float32), self.config
        rows, horizon, _ = actions.shape
        shape = (self.draws, rows, horizon, config.max_action_dim)
        noise = jax.random.normal(noise_key, shape)
        times = sample_times(
            time_key,
            self.draws * rows,
            alpha=config.time_alpha,
            beta=config.time_beta,
            scale=config.time_scale,
            offset=config.time_offset,
        )
        images = augmented(self.augmentation, pixels(batch["images"]), augment_key)
        times = times.reshape(self.draws, rows)
        if not self.supervision.weight:
            errors = self.errors(params, batch, noise, times, images=images)
            per_sample = mean_over_steps(errors, batch["action_is_pad"], self.count_padding)
            loss = jnp.mean(per_sample)
            return loss, Aux(metrics={"velocity_mse": loss}, per_sample=per_sample)
        errors, look = self._supervised(params, batch, noise, times, images)
        velocity = mean_over_steps(errors, batch["action_is_pad"], self.count_padding)
        per_sample = velocity + self.supervision.weight * look
        metrics = {"velocity_mse": jnp.mean(velocity), "attention_loss": jnp.mean(look)}
        return jnp.mean(per_sample), Aux(metrics=metrics, per_sample=per_sample)

    def _supervised(
        self, params: Params, batch: Batch, noise: Array, times: Array, images: AnyArray
    ) -> tuple[Float[Array, "d b H a"], Float[Array, " b"]]:
        """The errors of the velocity, and the attention loss of every sample."""
        if "look_at" not in batch:
            raise ConfigError(
                "the batch does not say where to look",
                where="look_at",
                fix="Record with --config.dataset.look_at=true, or set supervision.weight to 0",
            )

        with taps.tapped(self.supervision.tap(self.config)):
            errors, sown = self._errors(params, batch, noise, times, images, watch=True)
        loss = self.supervision.loss(looks(sown["suffix"], PATCHES), batch["look_at"])
        if self.supervision.words:
            words = jnp.asarray(batch["look_at_words"], jnp.float32)
            loss += self.supervision.word_loss(looks(sown["suffix"], WORDS), words)
        return errors, loss

    def errors(
        self,
        params: Params,
        batch: Batch,
        noise: Float[AnyArray, "d b H A"],
        times: Float[AnyArray, "d b"],
        *,
        images: AnyArray | None = None,
    ) -> Float[Array, "d b H a"]:
        """Squared errors of the velocity; `images` (b, c, h, w, 3) instead of the batch's."""
        return self._errors(params, batch, noise, times, images)[0]

    def _errors(
        self,
        params: Params,
        batch: Batch,
        noise: AnyArray,
        times: AnyArray,
        images: AnyArray | None,
        watch: bool = False,
    ) -> tuple[Float[Array, "d b H a"], Any]:
        """The errors, and with `watch` what was sown."""
        seen = model_inputs(batch) if images is None else model_inputs({**batch, "images": images})
        actions = jnp.asarray(batch["actions"], jnp.float32)
        with applied(self.lora, params.get(LORA) if self.lora is not None else None):
            return flow_matching_draws(
                self.config,
                without_lora(params),
                seen,
                actions,
                jnp.asarray(noise),
                jnp.asarray(times),
                remat=self.remat,
                watch=watch,
            )


def pixels(images: AnyArray) -> Array:
    """Pictures as the model reads them: bytes become [-1, 1], floats stay."""
    images = jnp.asarray(images)
    if images.dtype != jnp.uint8:
        return images
    return images.astype(jnp.float32) / 255.0 * 2.0 - 1.0


def model_inputs(batch: Batch) -> Pi05Inputs:
    """The model's part of a batch."""
    return Pi05Inputs(
        images=pixels(batch["images"]),
        image_mask=jnp.asarray(batch["image_mask"]),
        tokens=jnp.asarray(batch["tokens"]),
        token_mask=jnp.asarray(batch["token_mask"]),
    )


def mean_over_steps(
    errors: Float[AnyArray, "d b H a"], is_pad: AnyArray, count_padding: bool
) -> Float[Array, " b"]:
    """Mean of every sample over draws, steps and dimensions; padded steps may be left out.

    The first step of a chunk is never padding, so no sample is empty.
    """
    by_step = jnp.mean(errors, axis=(0, 3))
    if count_padding:
        return jnp.mean(by_step, axis=1)
    valid = ~jnp.asarray(is_pad)
    return jnp.sum(by_step * valid, axis=1) / jnp.sum(valid, axis=1)
