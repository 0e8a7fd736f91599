"""A batch of `lerobot_reference` as inputs of our model."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from attn_jax.models.pi05 import Pi05Inputs
from tests.models.pi05.lerobot_reference import Case


def our_inputs(case: Case, batch: Mapping[str, np.ndarray]) -> Pi05Inputs:
    """NumPy arrays, dummies included; images are of the model's size already."""
    size, side = len(case.lengths), case.sizes.image_size
    images = [np.moveaxis(batch[f"cam{i}"], 1, -1) * 2.0 - 1.0 for i in range(case.cameras)]
    images += [-np.ones((size, side, side, 3), np.float32)] * case.empty_cameras
    mask = np.arange(case.cameras + case.empty_cameras) < case.cameras
    return Pi05Inputs(
        images=np.stack(images, axis=1).astype(np.float32),
        image_mask=np.tile(mask, (size, 1)),
        tokens=batch["tokens"].astype(np.int32),
        token_mask=batch["mask"],
    )
