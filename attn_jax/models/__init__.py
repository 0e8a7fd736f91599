"""Model families.

model = build("canvas", config_json)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from attn_jax.core.errors import ConfigError
from attn_jax.models.canvas import CanvasConfig, CanvasModel
from attn_jax.models.pi05 import Pi05, Pi05Config

FAMILIES = ("canvas", "pi05")


def build(family: str, config: Mapping[str, Any]) -> nn.Module:
    """The Linen module of a model family from its JSON configuration.

    Raises:
      ConfigError: unknown family, or a configuration that does not fit it.
    """
    if family == "canvas":
        return CanvasModel(CanvasConfig.from_json(dict(config)))
    if family == "pi05":
        return Pi05(Pi05Config.from_json(dict(config)))
    raise ConfigError(f"unknown model family {family!r}", fix=f"Known: {', '.join(FAMILIES)}")
