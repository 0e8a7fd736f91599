"""Losses of the canvas model on masked patches.

Axis names: b batch, m masked patches, p values of a patch. Values are RGB in [0, 1], predictions
unclamped.

    value, parts = canvas_loss(prediction, target, LossConfig())
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp

from attn_jax.core.errors import ConfigError
from attn_jax.core.typing import Array, Bool, Float

WEIGHTINGS = ("none", "nonblack", "changed")
# A value that is not black in the diagnostics, and one that is worth weighting: JPEG leaves noise
# of up to 0.05 around bright things.
NONBLACK = 1e-3
FOREGROUND = 0.1


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Objective: alpha * plain + (1 - alpha) * focal, optionally weighted by pixel.

    Attributes:
      alpha: share of the plain mean squared error; 1 leaves out the focal term.
      beta: sharpness of the focal weights exp(beta * e); <= 0 makes focal equal plain.
      weighting: `none`; `nonblack` weights pixels whose target is not nearly black; `changed`
        those whose target differs from the last visible frame.
      foreground: weight of those pixels; the others have weight 1.
    """

    alpha: float = 1.0
    beta: float = 5.0
    weighting: str = "none"
    foreground: float = 1.0

    def __post_init__(self):
        if self.weighting not in WEIGHTINGS:
            raise ConfigError(
                f"unknown loss weighting {self.weighting!r}",
                fix=f"Use one of {', '.join(WEIGHTINGS)}",
            )
        fine = 0 <= self.alpha <= 1 and math.isfinite(self.beta)
        if not fine or not 0 < self.foreground < math.inf:
            raise ConfigError(
                "loss needs alpha in [0, 1], a finite beta and a finite, positive foreground, "
                f"got {self.alpha}, {self.beta} and {self.foreground}"
            )


def hybrid_loss(error2: Float[Array, "*n"], weight: Float[Array, "*n"], alpha: float, beta: float):
    """Mixes both errors: alpha * plain + (1 - alpha) * focal, over elements.

    focal = sum(w e) / sum(w) with w = stop_gradient(exp(beta (e - max e))): the same value as with
    exp(beta e), but it cannot overflow.

    Args:
      error2: squared errors e.
      weight: non-negative weight of every element; 0 leaves it out (padding).
      alpha: share of the plain error.
      beta: sharpness of the focal weights.

    Returns:
      (loss, plain, focal) scalars, float32.
    """
    total = jnp.sum(weight)
    plain = jnp.sum(weight * error2) / total
    if beta <= 0 or alpha >= 1:
        return plain, plain, plain
    focus = jax.lax.stop_gradient(_focus(error2, weight, beta)[0]) * weight
    focal = jnp.sum(focus * error2) / jnp.sum(focus)
    return alpha * plain + (1 - alpha) * focal, plain, focal


def focal_weights(
    error2: Float[Array, "*n"], weight: Float[Array, "*n"], beta: float
) -> tuple[Array, Array]:
    """Weighted mean and maximum of exp(beta e), the focal weights; arguments as for `hybrid_loss`.

    The maximum is cut at exp(80), which float32 still holds, and the mean with it.
    """
    focus, peak = _focus(error2, weight, beta)
    largest = jnp.exp(jnp.minimum(beta * peak, 80.0))
    return largest * jnp.sum(focus * weight) / jnp.sum(weight), largest


def _focus(
    error2: Float[Array, "*n"], weight: Float[Array, "*n"], beta: float
) -> tuple[Array, Array]:
    """exp(beta (e - peak)), and the peak: the largest e among elements that count."""
    peak = jnp.max(jnp.where(weight > 0, error2, 0.0))
    # Elements of weight 0 may lie above the peak; without the minimum they would give inf * 0.
    return jnp.exp(beta * jnp.minimum(error2 - peak, 0.0)), peak


def pixel_weights(
    target: Float[Array, "b m p"], last_frame: Float[Array, "b m p"], config: LossConfig
) -> Float[Array, "b m p"]:
    """Weight of every target value; a pixel counts as foreground when any of its channels does."""
    if config.weighting == "none":
        return jnp.ones_like(target)
    signal = target if config.weighting == "nonblack" else target - last_frame
    pixels = signal.reshape(*signal.shape[:-1], -1, 3)
    foreground = jnp.any(jnp.abs(pixels) > FOREGROUND, axis=-1, keepdims=True)
    weights = jnp.where(foreground, config.foreground, 1.0)
    return jnp.broadcast_to(weights, pixels.shape).reshape(target.shape).astype(target.dtype)


def canvas_loss(
    prediction: Float[Array, "b m p"],
    target: Float[Array, "b m p"],
    last_frame: Float[Array, "b m p"],
    config: LossConfig,
    valid: Bool[Array, "b m"] | None = None,
) -> tuple[Array, dict[str, Array], Array]:
    """The training objective.

    Args:
      prediction: values of the masked patches, unclamped.
      target: their true values.
      last_frame: the newest visible frame at the same patches (for `changed`).
      config: the objective.
      valid: False on padded patches.

    Returns:
      (loss, diagnostics, per_sample): scalar; scalars `plain`, `focal`, `nonblack`,
      `black_baseline`, `nonblack_fraction` and, where the focal term counts, `focal_weight_mean`
      and `focal_weight_max`; (b,) the plain error of each sample.
    """
    prediction = prediction.astype(jnp.float32)
    error2 = jnp.square(prediction - target)
    inside = jnp.ones(target.shape, jnp.float32)
    if valid is not None:
        inside = inside * valid[..., None]
    weights = inside * pixel_weights(target, last_frame, config)
    loss, _, focal = hybrid_loss(error2, weights, config.alpha, config.beta)
    lit = inside * (jnp.abs(target) > NONBLACK)
    count, lit_count = jnp.sum(inside), jnp.sum(lit)
    diagnostics = {
        "plain": jnp.sum(inside * error2) / count,
        "focal": focal,
        "nonblack": jnp.sum(lit * error2) / jnp.maximum(lit_count, 1.0),
        "black_baseline": jnp.sum(inside * jnp.square(target)) / count,
        "nonblack_fraction": lit_count / count,
    }
    if config.alpha < 1 and config.beta > 0:
        mean, largest = focal_weights(error2, inside, config.beta)
        diagnostics |= {"focal_weight_mean": mean, "focal_weight_max": largest}
    per_sample = jnp.sum(inside * error2, (1, 2)) / jnp.sum(inside, (1, 2))
    return loss, diagnostics, per_sample
