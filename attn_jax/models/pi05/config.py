"""Configuration of Pi0.5: sizes of the network, and how it is run.

config = Pi05Config(cameras=("base", "wrist"), action_dim=7)        # the published sizes
Pi05Config.from_json(config.to_json()) == config
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from attn_jax.core.errors import ConfigError

PRECISIONS = ("float32", "bfloat16_lerobot", "bfloat16_openpi")
ROPE_TABLES = ("lerobot", "float32")


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Layer sizes; the defaults are those of the published checkpoints (3.353 B parameters).

    Attributes:
      width, mlp: residual and hidden width of the PaliGemma language model.
      expert_width, expert_mlp: the same of the action expert.
      depth: layers of both.
      heads, kv_heads, head_dim: attention of both; heads is a multiple of kv_heads.
      vocab: rows of the token embedding.
      vision_width, vision_depth, vision_heads, vision_mlp: SigLIP tower.
      image_size: side of the square input image in pixels.
      patch_size: side of a patch in pixels.
    """

    width: int = 2048
    mlp: int = 16384
    expert_width: int = 1024
    expert_mlp: int = 4096
    depth: int = 18
    heads: int = 8
    kv_heads: int = 1
    head_dim: int = 256
    vocab: int = 257152
    vision_width: int = 1152
    vision_depth: int = 27
    vision_heads: int = 16
    vision_mlp: int = 4304
    image_size: int = 224
    patch_size: int = 14

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(
                    f"must be a positive integer, got {value!r}", where=f"architecture.{field.name}"
                )
        for whole, part in (("heads", "kv_heads"), ("vision_width", "vision_heads")):
            if getattr(self, whole) % getattr(self, part):
                raise ConfigError(
                    f"{whole} {getattr(self, whole)} is no multiple of {part}"
                    f" {getattr(self, part)}",
                    where="architecture",
                )
        for even in ("head_dim", "expert_width"):
            if getattr(self, even) % 2 or getattr(self, even) < 4:
                raise ConfigError("must be even and at least 4", where=f"architecture.{even}")
        if self.image_size < self.patch_size:
            raise ConfigError(
                f"image_size {self.image_size} is less than a patch of {self.patch_size}",
                where="architecture",
            )

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of image tokens; pixels beyond the last whole patch are not seen."""
        side = self.image_size // self.patch_size
        return side, side

    @property
    def image_tokens(self) -> int:
        """Tokens of one camera."""
        return self.grid[0] * self.grid[1]

    def to_json(self) -> dict[str, int]:
        """A JSON-compatible dict of all sizes."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Architecture:
        """Sizes by name, defaults for the others; `ConfigError` for a name that is none."""
        return cls(**_known(cls, data, "architecture"))


@dataclasses.dataclass(frozen=True)
class Pi05Config:
    """A Pi0.5 policy.

    Attributes:
      architecture: layer sizes.
      cameras: names of the configured cameras, in order; dummies included.
      action_dim: real action dimensions, the first of `max_action_dim`.
      max_action_dim: width of actions inside the model.
      chunk_size: actions per prediction, H.
      n_action_steps: how many of them are executed before the next prediction.
      num_inference_steps: denoising steps.
      prompt_length: prompt tokens, padding included.
      min_period, max_period: of the sinusoids that encode time.
      time_alpha, time_beta, time_scale, time_offset: training time is
        Beta(alpha, beta) * scale + offset.
      precision: `float32`; `bfloat16_lerobot` (the arithmetic of LeRobot: vision tower in float32,
        logits rounded to bfloat16); `bfloat16_openpi` (of openpi: vision tower in bfloat16, logits
        in float32). Norms, action and time projections are float32 in each.
      rope_table: `lerobot` rounds rotary frequencies to bfloat16, `float32` does not; None is
        `lerobot` for `bfloat16_lerobot` and `float32` otherwise.

    Raises:
      ConfigError: a value that cannot be.
    """

    architecture: Architecture = dataclasses.field(default_factory=Architecture)
    cameras: tuple[str, ...] = ("base",)
    action_dim: int = 32
    max_action_dim: int = 32
    chunk_size: int = 50
    n_action_steps: int = 50
    num_inference_steps: int = 10
    prompt_length: int = 200
    min_period: float = 4e-3
    max_period: float = 4.0
    time_alpha: float = 1.5
    time_beta: float = 1.0
    time_scale: float = 0.999
    time_offset: float = 0.001
    precision: str = "float32"
    rope_table: str | None = None

    def __post_init__(self):
        object.__setattr__(self, "cameras", tuple(self.cameras))
        if not self.cameras or len(set(self.cameras)) != len(self.cameras):
            raise ConfigError(f"needs distinct camera names, got {self.cameras}", where="cameras")
        counts = ("max_action_dim", "chunk_size", "num_inference_steps", "prompt_length")
        for name in counts:
            if getattr(self, name) < 1:
                raise ConfigError(f"must be at least 1, got {getattr(self, name)}", where=name)
        for name, limit in (("action_dim", "max_action_dim"), ("n_action_steps", "chunk_size")):
            if not 1 <= getattr(self, name) <= getattr(self, limit):
                raise ConfigError(
                    f"{getattr(self, name)} is outside 1..{limit} ({getattr(self, limit)})",
                    where=name,
                )
        for name, known in (("precision", PRECISIONS), ("rope_table", (*ROPE_TABLES, None))):
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"unknown value {getattr(self, name)!r}", where=name, fix=f"Known: {known}"
                )
        if not 0 < self.min_period < self.max_period < math.inf:
            raise ConfigError(
                "needs 0 < min_period < max_period, both finite, "
                f"got {self.min_period} and {self.max_period}",
                where="min_period",
            )
        for name in ("time_alpha", "time_beta", "time_scale"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(
                    f"must be positive and finite, got {getattr(self, name)}", where=name
                )
        if not 0 <= self.time_offset < math.inf:
            raise ConfigError(
                f"must be at least 0 and finite, got {self.time_offset}", where="time_offset"
            )

    @property
    def dtype(self) -> Any:
        """Dtype in which language model and action expert compute and keep their matrices."""
        return jnp.float32 if self.precision == "float32" else jnp.bfloat16

    @property
    def vision_dtype(self) -> Any:
        """Dtype in which the vision tower computes."""
        return jnp.bfloat16 if self.precision == "bfloat16_openpi" else jnp.float32

    @property
    def logits_dtype(self) -> Any:
        """Precision to which attention logits are rounded before mask and softmax."""
        return jnp.bfloat16 if self.precision == "bfloat16_lerobot" else jnp.float32

    @property
    def rounded_rope(self) -> bool:
        """Whether rotary frequencies are rounded to bfloat16."""
        if self.rope_table is None:
            return self.precision == "bfloat16_lerobot"
        return self.rope_table == "lerobot"

    def camera_order(self, present: Sequence[str]) -> tuple[str, ...]:
        """Cameras in token order: those that are present in configured order, then the others.

        Raises:
          ConfigError: none is present, or one that is not configured.
        """
        unknown = [name for name in present if name not in self.cameras]
        if unknown or not present:
            raise ConfigError(
                f"camera {unknown[0]!r} is not configured" if unknown else "no camera is present",
                fix=f"Configured cameras: {', '.join(self.cameras)}",
            )
        there = tuple(name for name in self.cameras if name in present)
        return there + tuple(name for name in self.cameras if name not in present)

    def to_json(self) -> dict[str, Any]:
        """A JSON-compatible dict."""
        return {**dataclasses.asdict(self), "cameras": [*self.cameras]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Pi05Config:
        """Inverse of `to_json`; fields left out have their defaults."""
        values = _known(cls, data, "pi05")
        if isinstance(values.get("architecture"), Mapping):
            values["architecture"] = Architecture.from_json(values["architecture"])
        if "cameras" in values:
            values["cameras"] = tuple(values["cameras"])
        return cls(**values)


def _known(cls: Any, data: Mapping[str, Any], where: str) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(cls)]
    unknown = sorted(set(data) - set(names))
    if unknown:
        raise ConfigError(
            f"unknown field {unknown[0]!r}", where=where, fix=f"Known: {', '.join(names)}"
        )
    return dict(data)
