"""Supervised attention: a training loss that says which patches the actions should look at.

The attention of all action tokens, averaged over them and over the chosen heads, becomes one
distribution over the patches of each camera; the loss is its cross entropy with the target's. What
goes to the prompt, to the other camera and to other heads stays free. A camera in which the target
covers nothing does not count. A policy trained so looks at its target because it was told to:
say so wherever its attention is interpreted.

Axis names: b batch, d draws, l layer, h head, c cameras, n patches of a camera, H action horizon.

    supervision = Supervision(weight=0.1, layers="1,2", heads="0,1")
    plan = supervision.plan(config, watched, params, *args)
    (errors, _), maps = capture(watched, plan)(params, *args)
    loss = supervision.loss(maps["suffix"]["full"], targets)             # (b,)
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp

from attn_jax.core.errors import ConfigError
from attn_jax.core.layout import TokenGroup, TokenLayout
from attn_jax.core.typing import AnyArray, Array, Float
from attn_jax.models.pi05.config import Pi05Config
from attn_jax.probe.capture import ApplyFn, discover
from attn_jax.probe.select import Plan, Selection, resolve

STREAM = "suffix"
_SMALL = 1e-6  # added to probabilities before the logarithm


@dataclasses.dataclass(frozen=True)
class Supervision:
    """How attention is supervised.

    Attributes:
      weight: factor on the loss; 0 supervises nothing.
      layers: of the action expert, as a capture selection has them: `all`, `last:2` or `1,2`.
      heads: `all` or numbers.

    Raises:
      ConfigError: a negative weight, or layers and heads that no selection can have.
    """

    weight: float = 0.0
    layers: str = "all"
    heads: str = "all"

    def __post_init__(self):
        if not self.weight >= 0:
            raise ConfigError(f"must be at least 0, got {self.weight}", where="weight")
        self.selection()

    def selection(self) -> Selection:
        """What is captured for the loss."""
        return Selection.parse(
            f"streams={STREAM};layers={self.layers};heads={self.heads};queries=action;keys=image;"
            "reduce=full;dtype=float32"
        )

    def plan(self, config: Pi05Config, apply_fn: ApplyFn, params: Any, *args: Any) -> Plan:
        """The plan for a function whose prefix is all cameras and the whole prompt.

        Raises:
          ConfigError: a layer or head that the model does not have.
        """
        image = len(config.cameras) * config.architecture.image_tokens
        prefix = image + config.prompt_length
        action = tuple(range(prefix, prefix + config.chunk_size))
        groups = (
            TokenGroup("image", tuple(range(image))),
            TokenGroup("prompt", tuple(range(image, prefix))),
            TokenGroup("action", action),
        )
        layout = TokenLayout(prefix + config.chunk_size, groups, queries=action)
        return resolve(self.selection(), discover(apply_fn, {STREAM: layout}, params, *args))

    def loss(
        self, maps: Float[AnyArray, "b d l h H k"], targets: Float[AnyArray, "b c n"]
    ) -> Float[Array, " b"]:
        """Cross entropy of every sample, mean over draws, layers and the cameras that count.

        Args:
          maps: probabilities of the actions on the k = c n patches.
          targets: non-negative; of a camera they may sum to anything, zeros do not count.
        """
        _, cameras, patches = targets.shape
        looks = jnp.mean(maps, axis=(3, 4)).reshape(*maps.shape[:3], cameras, patches)
        share = looks / (jnp.sum(looks, axis=-1, keepdims=True) + _SMALL)
        total = jnp.sum(targets, axis=-1, keepdims=True)
        wanted = jnp.asarray(targets) / jnp.where(total > 0, total, 1.0)
        entropy = -jnp.sum(wanted[:, None, None] * jnp.log(share + _SMALL), axis=-1)
        counts = jnp.sum(total[..., 0] > 0, axis=-1)  # (b,)
        return jnp.mean(jnp.sum(entropy, axis=-1), axis=(1, 2)) / jnp.maximum(counts, 1)
