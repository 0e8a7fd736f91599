"""Supervised attention: a training loss that says what the actions should look at.

Patches: the attention of all action tokens, averaged over them and over the chosen heads, becomes
one distribution over the patches of each camera; the loss is its cross entropy with the target's.
What goes to the prompt, to the other camera and to other heads stays free. A camera in which the
target covers nothing does not count.

Words: in other layers and heads, the same average should lie on given words of the prompt. To find
what the prompt names, a query needs the names first; neither of the two steps pays off without the
other, and training from actions alone may never find the pair.

A policy trained so looks at its target because it was told to: say so wherever its attention is
interpreted.

Axis names: b batch, d draws, l layer, c cameras, n patches of a camera, k = c n of all cameras, p
prompt tokens.

    supervision = Supervision(weight=0.1, layers="1,2", heads="0,1")
    with taps.tapped(supervision.tap(config)):
        errors, sown = flow_matching_draws(..., watch=True)
    loss = supervision.loss(looks(sown["suffix"], PATCHES), targets)             # (b,)
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from attn_jax.core import taps
from attn_jax.core.errors import ConfigError
from attn_jax.core.typing import AnyArray, Array, Float
from attn_jax.models.pi05.config import Pi05Config

STREAM = "suffix"
PATCHES, WORDS = "patches", "words"  # what is sown
_SMALL = 1e-6  # added to probabilities before the logarithm


@dataclasses.dataclass(frozen=True)
class Supervision:
    """How attention is supervised.

    Attributes:
      weight: factor on the loss; 0 supervises nothing.
      layers: of the action expert: `all`, or numbers such as `1,2`.
      heads: the same.
      words: comma-separated words of prompts, to be looked at too; empty for none.
      word_layers, word_heads: where, written in the same way.

    Raises:
      ConfigError: a negative weight, or layers or heads that are no such list.
    """

    weight: float = 0.0
    layers: str = "all"
    heads: str = "all"
    words: str = ""
    word_layers: str = "0"
    word_heads: str = "all"

    def __post_init__(self):
        if not 0 <= self.weight < math.inf:
            raise ConfigError(
                f"must be at least 0 and finite, got {self.weight}", where="supervision.weight"
            )
        for field in ("layers", "heads", "word_layers", "word_heads"):
            words = getattr(self, field).split(",")
            if words != ["all"] and not all(word.isdecimal() for word in words):
                raise ConfigError(
                    f"{getattr(self, field)!r} is no list of numbers",
                    where=f"supervision.{field}",
                    fix="Write all or 1,2",
                )

    def to_json(self) -> dict[str, Any]:
        """What was taught, for checkpoints: `layers` and `heads`, with words also theirs."""
        value = dataclasses.asdict(self)
        names = ("layers", "heads", "words", "word_layers", "word_heads")
        return {name: value[name] for name in (names if self.words else names[:2])}

    def tap(self, config: Pi05Config) -> LookTap:
        """What keeps the attention for the loss, of a model whose prefix has all its cameras.

        Raises:
          ConfigError: a layer or head that the model does not have.
        """
        sizes = config.architecture
        return LookTap(
            self._numbers("layers", sizes.depth),
            self._numbers("heads", sizes.heads),
            len(config.cameras) * sizes.image_tokens,
            self._numbers("word_layers", sizes.depth) if self.words else (),
            self._numbers("word_heads", sizes.heads),
            config.prompt_length,
        )

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

    def word_loss(
        self, looks: Float[AnyArray, "l d b p"], targets: Float[AnyArray, "b p"]
    ) -> Float[Array, " b"]:
        """Cross entropy of every sample, mean over draws and layers; 0 where there is no target.

        Args:
          looks: share of the actions' attention that each token of the prompt receives. Unlike
            patches, words compete with everything else that is looked at.
          targets: non-negative; they may sum to anything.
        """
        total = jnp.sum(targets, axis=-1, keepdims=True)
        wanted = jnp.asarray(targets) / jnp.where(total > 0, total, 1.0)
        return -jnp.mean(jnp.sum(wanted * jnp.log(looks + _SMALL), axis=-1), axis=(0, 1))


@dataclasses.dataclass(frozen=True)
class LookTap:
    """Sows, of chosen layers, how much of the queries' attention each patch or word receives.

    Attributes:
      layers, heads: numbers, where patches are watched.
      patches: k, number of patches of all cameras; they are the first keys.
      word_layers, word_heads: numbers, where words are watched.
      prompt: p, number of tokens of the prompt, the keys behind the patches.
    """

    layers: tuple[int, ...]
    heads: tuple[int, ...]
    patches: int
    word_layers: tuple[int, ...] = ()
    word_heads: tuple[int, ...] = ()
    prompt: int = 0

    def capture(self, site: taps.Site, probs: Any) -> dict[str, Any] | None:
        """`PATCHES` (b, k), `WORDS` (b, p), means over heads and queries; None at other sites."""
        if site.stream != STREAM:
            return None
        kept = {}
        if site.layer in self.layers:
            kept[PATCHES] = probs[:, jnp.asarray(self.heads), :, : self.patches]
        if site.layer in self.word_layers:
            words = slice(self.patches, self.patches + self.prompt)
            kept[WORDS] = probs[:, jnp.asarray(self.word_heads), :, words]
        return {name: jnp.mean(x, axis=(1, 2)) for name, x in kept.items()} or None

    def edits(self, site: taps.Site) -> bool:
        """Nothing is edited."""
        return False

    def edit_logits(self, site: taps.Site, logits: Any) -> Any:
        """The logits as they are."""
        return logits

    def edit_probs(self, site: taps.Site, probs: Any) -> Any:
        """The probabilities as they are."""
        return probs


def looks(sown: Any, name: str) -> Float[Array, "l d b n"]:
    """What was sown as `name` at all layers; the order of the layers does not matter."""
    found = jax.tree_util.tree_leaves_with_path(sown)
    return jnp.stack([leaf for path, leaf in found if jax.tree_util.DictKey(name) in path])
