"""Supervised attention: a training loss that says which patches the actions should look at.

The attention of all action tokens, averaged over them and over the chosen heads, becomes one
distribution over the patches of each camera; the loss is its cross entropy with the target's. What
goes to the prompt, to the other camera and to other heads stays free. A camera in which the target
covers nothing does not count. A policy trained so looks at its target because it was told to:
say so wherever its attention is interpreted.

Axis names: b batch, d draws, l layer, c cameras, n patches of a camera, k = c n of all cameras.

    supervision = Supervision(weight=0.1, layers="1,2", heads="0,1")
    with taps.tapped(supervision.tap(config)):
        errors, sown = flow_matching_draws(..., watch=True)
    loss = supervision.loss(looks(sown["suffix"]), targets)             # (b,)
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from attn_jax.core import taps
from attn_jax.core.errors import ConfigError
from attn_jax.core.typing import AnyArray, Array, Float
from attn_jax.models.pi05.config import Pi05Config

STREAM = "suffix"
_SMALL = 1e-6  # added to probabilities before the logarithm


@dataclasses.dataclass(frozen=True)
class Supervision:
    """How attention is supervised.

    Attributes:
      weight: factor on the loss; 0 supervises nothing.
      layers: of the action expert: `all`, or numbers such as `1,2`.
      heads: the same.

    Raises:
      ConfigError: a negative weight, or layers or heads that are no such list.
    """

    weight: float = 0.0
    layers: str = "all"
    heads: str = "all"

    def __post_init__(self):
        if not self.weight >= 0:
            raise ConfigError(f"must be at least 0, got {self.weight}", where="supervision.weight")
        for field in ("layers", "heads"):
            words = getattr(self, field).split(",")
            if words != ["all"] and not all(word.isdecimal() for word in words):
                raise ConfigError(
                    f"{getattr(self, field)!r} is no list of numbers",
                    where=f"supervision.{field}",
                    fix="Write all or 1,2",
                )

    def tap(self, config: Pi05Config) -> LookTap:
        """What keeps the attention for the loss, of a model whose prefix has all its cameras.

        Raises:
          ConfigError: a layer or head that the model does not have.
        """
        sizes = config.architecture
        layers = self._numbers("layers", sizes.depth)
        heads = self._numbers("heads", sizes.heads)
        return LookTap(layers, heads, len(config.cameras) * sizes.image_tokens)

    def _numbers(self, field: str, count: int) -> tuple[int, ...]:
        text = getattr(self, field)
        found = tuple(range(count)) if text == "all" else tuple(int(n) for n in text.split(","))
        if max(found) >= count:
            raise ConfigError(
                f"{max(found)} is outside 0..{count - 1}", where=f"supervision.{field}"
            )
        return found

    def loss(
        self, looks: Float[AnyArray, "l d b k"], targets: Float[AnyArray, "b c n"]
    ) -> Float[Array, " b"]:
        """Cross entropy of every sample, mean over draws, layers and the cameras that count.

        Args:
          looks: share of the actions' attention that each patch receives.
          targets: non-negative; of a camera they may sum to anything, zeros do not count.
        """
        share = jnp.asarray(looks).reshape(*looks.shape[:3], *targets.shape[1:])
        share = share / (jnp.sum(share, axis=-1, keepdims=True) + _SMALL)
        total = jnp.sum(targets, axis=-1, keepdims=True)
        wanted = jnp.asarray(targets) / jnp.where(total > 0, total, 1.0)
        entropy = -jnp.sum(wanted * jnp.log(share + _SMALL), axis=-1)  # (l, d, b, c)
        counts = jnp.sum(total[..., 0] > 0, axis=-1)  # (b,)
        return jnp.mean(jnp.sum(entropy, axis=-1), axis=(0, 1)) / jnp.maximum(counts, 1)


@dataclasses.dataclass(frozen=True)
class LookTap:
    """Sows, of chosen layers, how much of the queries' attention each patch receives.

    Attributes:
      layers, heads: numbers.
      patches: k, number of patches of all cameras; they are the first keys.
    """

    layers: tuple[int, ...]
    heads: tuple[int, ...]
    patches: int

    def capture(self, site: taps.Site, probs: Any) -> Any | None:
        """(b, k), mean over the chosen heads and all queries; None at other sites."""
        if site.stream != STREAM or site.layer not in self.layers:
            return None
        return jnp.mean(probs[:, jnp.asarray(self.heads), :, : self.patches], axis=(1, 2))

    def edits(self, site: taps.Site) -> bool:
        """Nothing is edited."""
        return False

    def edit_logits(self, site: taps.Site, logits: Any) -> Any:
        """The logits as they are."""
        return logits

    def edit_probs(self, site: taps.Site, probs: Any) -> Any:
        """The probabilities as they are."""
        return probs


def looks(sown: Any) -> Float[Array, "l d b k"]:
    """What was sown at all layers, in one array; the order of the layers does not matter."""
    return jnp.stack(jax.tree.leaves(sown))
