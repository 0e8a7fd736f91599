"""The canvas model as a trainable task.

Axis names: b batch, m masked patches, p values of a patch.

    task = CanvasTask(config, LossConfig(weighting="nonblack", foreground=30.0))
    params = task.init(jax.random.key(0))
    loss, aux = task.loss(params, {"canvas": canvases}, rng)     # canvases (b, h, w, 3) uint8
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp

from attn_jax.core.canvas import CanvasGeometry, patchify
from attn_jax.core.errors import ConfigError
from attn_jax.core.training import Aux
from attn_jax.core.typing import Array, Batch, Params, PRNGKey
from attn_jax.models.canvas.losses import LossConfig, canvas_loss
from attn_jax.models.canvas.model import CanvasConfig, CanvasModel, MaskPlan
from attn_jax.nn.transformer import take_tokens

# (prediction (b, m, p), target (b, m, p)) -> scalar, for example a perceptual loss.
ExtraLoss = Callable[[Array, Array], Array]


@dataclasses.dataclass(frozen=True)
class CanvasTask:
    """Learn to paint the masked part of the target frame.

    Attributes:
      config: the model.
      objective: the loss.
      mask_ratio: (smallest, largest) share of target patches that are masked, drawn per sample.
      extra_loss: added to the objective while training, left out of every reported skill.
      extra_weight: its factor.
      dtype: computation dtype of the model.
      evaluations: named evaluations, see `attn_jax.train.task`.
    """

    config: CanvasConfig
    objective: LossConfig = dataclasses.field(default_factory=LossConfig)
    mask_ratio: tuple[float, float] = (1.0, 1.0)
    extra_loss: ExtraLoss | None = None
    extra_weight: float = 0.0
    dtype: Any = jnp.float32
    evaluations: Mapping[str, Callable[[Params], Mapping[str, Any]]] = dataclasses.field(
        default_factory=dict
    )

    def __post_init__(self):
        low, high = self.mask_ratio
        if not 0 < low <= high <= 1:
            raise ConfigError(f"mask_ratio must satisfy 0 < min <= max <= 1, got {low}, {high}")
        if not 0 <= self.extra_weight < math.inf:
            raise ConfigError(
                f"the weight of the extra loss is {self.extra_weight}",
                fix="It must be finite and at least 0",
            )
        if self.extra_loss is not None and low < 1:
            raise ConfigError(
                "an extra loss sees whole frames and needs mask_ratio 1", fix="Set both ends to 1"
            )
        patches = len(self.config.geometry.target_patches())
        if int(patches * low) < 1:
            raise ConfigError(
                f"mask_ratio {low} masks none of the {patches} target patches",
                fix=f"Use at least {1 / patches:.3f}",
            )

    @property
    def model(self) -> CanvasModel:
        """The Linen module."""
        return CanvasModel(self.config, dtype=self.dtype)

    def init(self, rng: PRNGKey) -> Params:
        """Fresh float32 parameters."""
        blank = jnp.zeros((1, *self.config.geometry.canvas_size, 3), jnp.float32)
        return self.model.init(rng, blank)["params"]

    def loss(self, params: Params, batch: Batch, rng: PRNGKey) -> tuple[Array, Aux]:
        """Objective on a batch of canvases (b, h, w, 3) uint8 under `batch["canvas"]`."""
        geometry = self.config.geometry
        canvas = jnp.asarray(batch["canvas"], jnp.float32) / 255.0
        patches = patchify(canvas, geometry.patch)
        plan, valid = None, None
        masked = jnp.asarray(geometry.target_patches())
        if self.mask_ratio != (1.0, 1.0):
            plan = sample_plan(rng, canvas.shape[0], geometry, self.mask_ratio)
            masked, valid = plan.masked, plan.masked_valid
        prediction = cast(Array, self.model.apply({"params": params}, canvas, plan))
        target = take_tokens(patches, masked)
        last_frame = target
        if self.objective.weighting == "changed":
            # The newest visible frame, moved to where the target is.
            step = geometry.frame_size[1] + geometry.separator
            moved = patchify(jnp.roll(canvas, step, axis=2), geometry.patch)
            last_frame = take_tokens(moved, masked)
        loss, parts, per_sample = canvas_loss(prediction, target, last_frame, self.objective, valid)
        if self.extra_loss is not None and self.extra_weight:
            extra = self.extra_loss(prediction, target)
            parts = {**parts, "extra": extra}
            loss = loss + self.extra_weight * extra
        return loss, Aux(metrics=parts, per_sample=per_sample)


def sample_plan(
    rng: PRNGKey, batch: int, geometry: CanvasGeometry, ratio: tuple[float, float]
) -> MaskPlan:
    """Draws per sample how many target patches are masked, and which.

    int(n * r) of the n target patches are masked, r ~ U(ratio), by a random permutation. All arrays
    are padded to fixed sizes; padding is marked invalid instead of being attended to.
    """
    target = jnp.asarray(geometry.target_patches())
    always = jnp.asarray(geometry.visible_patches())
    n = len(geometry.target_patches())
    fewest = int(n * ratio[0])
    rng_ratio, rng_order = jax.random.split(rng)
    draws = jax.random.uniform(rng_ratio, (batch,), minval=ratio[0], maxval=ratio[1])
    count = jnp.floor(n * draws).astype(jnp.int32)[:, None]
    order = jax.vmap(lambda key: jax.random.permutation(key, target))(
        jax.random.split(rng_order, batch)
    )
    # The first `count` of the order are masked; the rest is seen. `n - fewest` may be seen at most.
    spare = order[:, fewest:]
    spare_seen = jnp.arange(fewest, n)[None, :] >= count
    seen = jnp.broadcast_to(always, (batch, len(geometry.visible_patches())))
    visible = jnp.concatenate([seen, spare], axis=1)
    visible_valid = jnp.concatenate([jnp.ones_like(seen, bool), spare_seen], axis=1)
    masked_valid = jnp.arange(n)[None, :] < count
    return MaskPlan(visible, visible_valid, order, masked_valid)
