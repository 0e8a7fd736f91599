"""The `config.json` that openpi's converter writes beside a PyTorch export, in LeRobot's terms.

openpi keeps five facts in it and everything else in its code: the cameras, the prompt's length and
the number of denoising steps are those of its Pi0.5. How many of the padded action dimensions a
robot has, and the normalisation, stand nowhere in the folder.

    if is_openpi(settings):
        settings = as_lerobot(settings, where="config.json")
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attn_jax.core.errors import ConfigError
from attn_jax.core.typing import PathLike

CAMERAS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
PRECISIONS = ("float32", "bfloat16")
VARIANTS = ("paligemma_variant", "action_expert_variant")
_SIDE = 224  # pixels, of the pictures that openpi gives its model


def is_openpi(settings: Mapping[str, Any]) -> bool:
    """Whether `config.json` is openpi's, which names no type of policy but an `action_horizon`."""
    return "type" not in settings and "action_horizon" in settings


def as_lerobot(settings: Mapping[str, Any], *, where: PathLike) -> dict[str, Any]:
    """LeRobot's `config.json` of the same model.

    All `action_dim` dimensions count as real ones, and every chunk is executed whole: the file does
    not know better.

    Args:
      settings: openpi's.
      where: the file, for messages.

    Raises:
      ConfigError: a field is missing or of a value that cannot be. The names of variants are
        checked where they become sizes.
    """
    for name in ("action_dim", "action_horizon", *VARIANTS, "precision"):
        if name not in settings:
            raise ConfigError(
                f"is openpi's, but has no {name!r}",
                where=where,
                fix="Convert the checkpoint again with openpi's converter",
            )
    for name in ("action_dim", "action_horizon"):
        value = settings[name]
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(
                f"must be a positive integer, got {value!r}", where=f"{where}: {name}"
            )
    if settings["precision"] not in PRECISIONS:
        raise ConfigError(
            f"unknown precision {settings['precision']!r}",
            where=where,
            fix=f"Known: {', '.join(PRECISIONS)}",
        )
    return {
        "type": "pi05",
        "dtype": settings["precision"],
        **{name: settings[name] for name in VARIANTS},
        "max_action_dim": settings["action_dim"],
        "chunk_size": settings["action_horizon"],
        "n_action_steps": settings["action_horizon"],
        "input_features": {
            f"observation.images.{name}": {"type": "VISUAL", "shape": [3, _SIDE, _SIDE]}
            for name in CAMERAS
        },
        "output_features": {"action": {"type": "ACTION", "shape": [settings["action_dim"]]}},
    }
