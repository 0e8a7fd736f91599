"""What a loss returns: models compute it, the training loop logs it."""

from __future__ import annotations

from collections.abc import Mapping

import flax.struct

from attn_jax.core.typing import Array


@flax.struct.dataclass
class Aux:
    """What a loss returns beside its value.

    Attributes:
      metrics: name -> scalar array, averaged over micro-batches and written to the log.
      per_sample: (b,) float32 loss of every sample, or None; feeds loss-weighted sampling.
    """

    metrics: Mapping[str, Array] = flax.struct.field(default_factory=dict)
    per_sample: Array | None = None
