"""Observation: what a policy or world model is given, before it becomes tokens.

Axis names: b batch, t frames in time (1 for policies without history), n points.

    Observation(images={"base": frames}, past_actions=actions)   # frames (b, t, h, w, 3) uint8
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.struct

from attn_jax.core.typing import AnyArray, Bool, Float, Int


@flax.struct.dataclass
class Observation:
    """One batch of sensor readings; absent sensors are None or missing from the mapping.

    Attributes:
      images: camera name -> (b, t, h, w, 3), uint8 RGB or float32 in [0, 1]; oldest frame first.
      image_masks: camera name -> (b,) bool, False where the camera is a dummy. Missing means True.
      state: (b, s) float32 proprioception in the units of the dataset.
      tokens: (b, k) int32 prompt token ids.
      token_mask: (b, k) bool, False on padding.
      points: (b, n, d) float32 point cloud, xyz in metres in the world frame, then colours.
      past_actions: (b, t - 1, A) actions taken between the frames.
    """

    images: Mapping[str, AnyArray] = flax.struct.field(default_factory=dict)
    image_masks: Mapping[str, AnyArray] = flax.struct.field(default_factory=dict)
    state: Float[AnyArray, "b s"] | None = None
    tokens: Int[AnyArray, "b k"] | None = None
    token_mask: Bool[AnyArray, "b k"] | None = None
    points: Float[AnyArray, "b n d"] | None = None
    past_actions: AnyArray | None = None
