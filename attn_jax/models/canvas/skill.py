"""How good are predicted frames: errors, likeness, and marks that need no model.

Axis names: b batch, h w pixels of a frame. Values are RGB float in [0, 1]. Errors are taken on
unclamped predictions, likeness (PSNR, SSIM) on clamped ones. Frames are seen once and not kept.

    meter = SkillMeter()
    for prediction, target, last_visible in batches:
        meter.update(prediction, target, last_visible)
    meter.compute()                     # {"plain_mse": ..., "copy_last_mse": ..., ...}
    constant_likeness(targets, 0.0)     # {"psnr_db": ..., "ssim": ...} of answering black
"""

from __future__ import annotations

from collections.abc import Iterable

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np

from attn_jax.core.errors import InputError, NonFiniteError
from attn_jax.core.typing import Array, Float

HYBRID_ALPHA, HYBRID_BETA = 0.1, 5.0
_PSNR_OF_EQUAL_FRAMES_DB = 100.0


@jax.jit
def _per_frame(prediction: Array, target: Array) -> tuple[Array, ...]:
    """Mean squared error (unclamped), PSNR in dB and SSIM (clamped) of every frame, each (b,)."""
    clamped = jnp.clip(prediction, 0.0, 1.0)
    mse = jnp.mean(jnp.square(prediction - target), axis=(1, 2, 3))
    psnr = jnp.minimum(dm_pix.psnr(clamped, target), _PSNR_OF_EQUAL_FRAMES_DB)
    return mse, psnr, jnp.asarray(dm_pix.ssim(clamped, target))


def constant_likeness(
    targets: Iterable[Float[np.ndarray, "_ h w 3"]], value: float
) -> dict[str, float]:
    """`psnr_db` and `ssim` of answering one grey for every frame, means over all frames.

    Args:
      targets: batches of true frames.
      value: the grey, in [0, 1].
    """
    found = [
        tuple(map(np.asarray, _per_frame(np.full_like(target, value), target)))
        for target in targets
    ]
    _, psnr, ssim = (float(np.concatenate(x).mean()) for x in zip(*found, strict=True))
    return {"psnr_db": psnr, "ssim": ssim}


class SkillMeter:
    """Accumulates the skill of predictions over batches of frames."""

    def __init__(self):
        self._model: list[tuple[np.ndarray, ...]] = []
        self._copy: list[tuple[np.ndarray, ...]] = []
        self._values = 0
        self._sum = 0.0
        self._square = 0.0
        # Running sums of the focal term, scaled by exp(-beta * peak) so that they cannot overflow.
        self._peak, self._weight, self._weighted = 0.0, 0.0, 0.0

    def update(
        self,
        prediction: Float[np.ndarray, "b h w 3"],
        target: Float[np.ndarray, "b h w 3"],
        last_visible: Float[np.ndarray, "b h w 3"],
    ) -> None:
        """Takes a batch.

        Raises:
          NonFiniteError: a prediction holds NaN or infinity.
        """
        if not np.all(np.isfinite(prediction)):
            finite = np.isfinite(prediction).reshape(len(prediction), -1).all(axis=1)
            raise NonFiniteError(
                f"predicted frame {np.flatnonzero(~finite)[0]} of the batch holds NaN or infinity",
                fix="Evaluate an earlier checkpoint",
            )
        self._model.append(tuple(map(np.asarray, _per_frame(prediction, target))))
        self._copy.append(tuple(map(np.asarray, _per_frame(last_visible, target))))
        self._values += target.size
        self._sum += float(np.sum(target, dtype=np.float64))
        self._square += float(np.sum(np.square(target, dtype=np.float64)))
        self._add_focal(np.square(np.asarray(prediction - target, np.float64)))

    def _add_focal(self, error2: np.ndarray) -> None:
        peak = max(self._peak, float(error2.max()))
        shrink = np.exp(HYBRID_BETA * (self._peak - peak))
        weight = np.exp(HYBRID_BETA * (error2 - peak))
        self._weight = self._weight * shrink + float(weight.sum())
        self._weighted = self._weighted * shrink + float((weight * error2).sum())
        self._peak = peak

    def compute(self) -> dict[str, float]:
        """Means over all frames, all float.

        Keys: `plain_mse`, `psnr_db`, `ssim` and `hybrid` (alpha 0.1, beta 5) of the model;
        `copy_last_mse`, `copy_last_psnr_db`, `copy_last_ssim` of repeating the newest visible
        frame; `black_mse`; `best_constant`, the best single grey, and `best_constant_mse`;
        `canvases`, the number of frames.
        """
        if not self._model:
            raise InputError("no frame was evaluated")
        mse, psnr, ssim = (float(np.concatenate(x).mean()) for x in zip(*self._model, strict=True))
        copied = [float(np.concatenate(x).mean()) for x in zip(*self._copy, strict=True)]
        mean, square = self._sum / self._values, self._square / self._values
        focal = self._weighted / self._weight
        return {
            "plain_mse": mse,
            "psnr_db": psnr,
            "ssim": ssim,
            "hybrid": HYBRID_ALPHA * mse + (1 - HYBRID_ALPHA) * focal,
            "copy_last_mse": copied[0],
            "copy_last_psnr_db": copied[1],
            "copy_last_ssim": copied[2],
            "black_mse": square,
            "best_constant": mean,
            "best_constant_mse": square - mean * mean,
            "canvases": sum(len(batch[0]) for batch in self._model),
        }

    def per_frame_mse(self) -> np.ndarray:
        """Plain error of every frame seen, (n,) float32, in order."""
        return np.concatenate([batch[0] for batch in self._model])
