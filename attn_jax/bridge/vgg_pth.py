"""Torchvision's VGG16 state dict (`.pth`) as the safetensors file of the perceptual loss.

Tensors keep their names.

    report = convert_vgg("vgg16-397923af.pth", "vgg16.safetensors")
"""

from __future__ import annotations

import jax
import numpy as np

from attn_jax.bridge import keymap
from attn_jax.bridge.keymap import Ignored, Report, Rule
from attn_jax.bridge.torch_weights import as_arrays, read_torch_file
from attn_jax.core.typing import PathLike
from attn_jax.models.canvas.perceptual import save_vgg, tensor_shapes


def convert_vgg(source: PathLike, destination: PathLike) -> Report:
    """Reads `source`, checks every shape and writes `destination`.

    Raises:
      CheckpointError: unreadable, or not the convolutions of VGG16; nothing is written then.
    """
    later = "beyond relu3_3, not used"
    rules = [
        *(Rule(name, name) for name in tensor_shapes()),
        *(
            Ignored(f"{part}.{{i}}.{kind}", later)
            for part in ("features", "classifier")
            for kind in ("weight", "bias")
        ),
    ]
    template = {
        name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in tensor_shapes().items()
    }
    params, report = keymap.convert(rules, as_arrays(read_torch_file(source), source), template)
    report.require(source)
    save_vgg(destination, params)
    return report
