"""Leaving out tokens that nothing looks at: dummy cameras and prompt padding.

Positions come from the mask and masked keys have weight exactly 0, so a prediction without these
tokens is the same to rounding, and cheaper. What was captured can be put back into the full layout.

Axis names: b batch, h heads, q queries, k keys; p prefix tokens (P before, p after).

    small, kept = compact(config, inputs)
    result, _ = sample(config, params, small, noise)
    full = kept.expand_suffix(maps)                       # (..., b, h, H, P + H)
"""

from __future__ import annotations

import dataclasses

import numpy as np

from attn_jax.core.typing import NumpyArray
from attn_jax.models.pi05.config import Pi05Config
from attn_jax.models.pi05.model import Pi05Inputs


@dataclasses.dataclass(frozen=True, eq=False)
class Kept:
    """Which tokens of the prefix were kept.

    Attributes:
      cameras: kept positions on the camera axis.
      tokens: kept prompt tokens, the first n.
      places: (p,) positions of the kept tokens in the full prefix.
      valid: (b, P) mask of the full prefix.
    """

    cameras: tuple[int, ...]
    tokens: int
    places: NumpyArray
    valid: NumpyArray

    def expand_prefix(self, probs: NumpyArray) -> NumpyArray:
        """Prefix maps (..., b, h, p, p) as those of the full prefix, (..., b, h, P, P).

        Masked columns are 0; rows of masked queries are uniform, as the full prediction has them.
        """
        length = self.valid.shape[1]
        out = np.zeros((*probs.shape[:-2], length, length), probs.dtype)
        out[..., self.places[:, None], self.places] = probs
        uniform = np.asarray(1.0 / length, probs.dtype)
        return np.where(self.valid[:, None, :, None], out, uniform)

    def expand_suffix(self, probs: NumpyArray) -> NumpyArray:
        """Suffix maps (..., b, h, H, p + H) over the full prefix, (..., b, h, H, P + H)."""
        kept, length = len(self.places), self.valid.shape[1]
        out = np.zeros((*probs.shape[:-1], length), probs.dtype)
        out[..., self.places] = probs[..., :kept]
        return np.concatenate([out, probs[..., kept:]], axis=-1)


def compact(
    config: Pi05Config, inputs: Pi05Inputs, *, multiple: int = 1
) -> tuple[Pi05Inputs, Kept]:
    """Inputs without the cameras that are dummies in every sample, and without the prompt's tail.

    Args:
      config: the model.
      inputs: host arrays; padding at the right.
      multiple: the prompt keeps a multiple of so many tokens where it has them, so that prompts of
        similar lengths share a compiled program.
    """
    image_mask, token_mask = np.asarray(inputs.image_mask), np.asarray(inputs.token_mask)
    cameras = tuple(int(i) for i in np.flatnonzero(image_mask.any(axis=0)))
    used = int(np.flatnonzero(token_mask.any(axis=0)).max(initial=-1)) + 1
    tokens = min(token_mask.shape[1], -(-used // multiple) * multiple)
    patches = config.architecture.image_tokens
    prompt_start = image_mask.shape[1] * patches
    places = [np.arange(i * patches, (i + 1) * patches) for i in cameras]
    places.append(np.arange(prompt_start, prompt_start + tokens))
    small = Pi05Inputs(
        images=np.asarray(inputs.images)[:, list(cameras)],
        image_mask=image_mask[:, list(cameras)],
        tokens=np.asarray(inputs.tokens)[:, :tokens],
        token_mask=token_mask[:, :tokens],
    )
    valid = np.concatenate([np.repeat(image_mask, patches, axis=1), token_mask], axis=1)
    return small, Kept(cameras, tokens, np.concatenate(places), valid)
