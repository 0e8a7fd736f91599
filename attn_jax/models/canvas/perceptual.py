"""Optional perceptual loss: distance of VGG16 features of predicted and true frames.

Axis names: b batch, h w pixels, c channels, m masked patches, p values of a patch. The network is
VGG16 up to relu3_3, as torchvision numbers its layers. Weights come from a local safetensors file
with torchvision's names, `features.{0,2,5,7,10,12,14}.{weight,bias}`, weights (out, in, 3, 3);
other tensors in it are ignored. `launch.bridge --source=vgg16` makes one from a `.pth`. Kernels
that another package keeps as (3, 3, in, out) become such a file by:

    save_file({"features.0.weight": kernel.transpose(3, 2, 0, 1).copy(), ...}, "vgg16.safetensors")

    extra = load_perceptual_loss("vgg16.safetensors", geometry)
    value = extra(prediction, target)     # patches (b, m, p) of the target slot, raster order
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from attn_jax.core.canvas import CanvasGeometry
from attn_jax.core.errors import CheckpointError, ConfigError
from attn_jax.core.typing import Array, Float, PathLike
from attn_jax.models.canvas.predict import target_frames

Vgg: TypeAlias = Mapping[str, Array]

# Torchvision's number of every convolution and its (in, out) channels; a level ends with its last
# one.
LEVELS = (
    ((0, 3, 64), (2, 64, 64)),
    ((5, 64, 128), (7, 128, 128)),
    ((10, 128, 256), (12, 256, 256), (14, 256, 256)),
)
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_STD = np.array([0.229, 0.224, 0.225], np.float32)


def tensor_shapes() -> dict[str, tuple[int, ...]]:
    """Shape of every tensor that is needed, by torchvision's name."""
    shapes: dict[str, tuple[int, ...]] = {}
    for number, inputs, outputs in (layer for level in LEVELS for layer in level):
        shapes[f"features.{number}.weight"] = (outputs, inputs, 3, 3)
        shapes[f"features.{number}.bias"] = (outputs,)
    return shapes


def load_vgg(path: PathLike) -> dict[str, Array]:
    """Reads the weights, float32; kernels become (3, 3, in, out).

    Raises:
      ConfigError: no path is given, or it is not a safetensors file by name.
      CheckpointError: no such file, damaged, or tensors are missing or of another shape; names all
        of them.
    """
    if not str(path):
        raise ConfigError(
            "the perceptual loss needs VGG16 weights",
            fix="Set loss.vgg_weights to a local .safetensors file, or loss.perceptual to 0",
        )
    path = pathlib.Path(path)
    if path.suffix != ".safetensors":
        raise ConfigError(
            f"VGG16 weights must be a .safetensors file, got {path.name}",
            fix="Convert a .pth with `python -m launch.bridge --source=vgg16`",
        )
    if not path.is_file():
        raise CheckpointError(
            "no such file", where=path, fix="VGG16 weights are never downloaded; give a local file"
        )
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            _require(file, path)
            arrays = {name: file.get_tensor(name) for name in tensor_shapes()}
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"not a readable safetensors file: {error}", where=path) from error
    return {
        name: jnp.asarray(x.transpose(2, 3, 1, 0) if x.ndim == 4 else x, jnp.float32)
        for name, x in arrays.items()
    }


def _require(file: safetensors.safe_open, path: pathlib.Path) -> None:
    """Raises CheckpointError that names every tensor which is missing or of another shape."""
    there = set(file.keys())
    missing = [name for name in tensor_shapes() if name not in there]
    found = {n: tuple(file.get_slice(n).get_shape()) for n in tensor_shapes() if n in there}
    wrong = [
        f"{name} {found[name]} instead of {shape}"
        for name, shape in tensor_shapes().items()
        if name in found and found[name] != shape
    ]
    faults = [
        *([f"lacks {', '.join(missing)}"] if missing else []),
        *([f"has {', '.join(wrong)}"] if wrong else []),
    ]
    if faults:
        raise CheckpointError(
            "is no VGG16: " + "; ".join(faults),
            where=path,
            fix="Use torchvision's VGG16, without batch norm, under its own names",
        )


def save_vgg(path: PathLike, weights: Mapping[str, np.ndarray]) -> None:
    """Writes the tensors that are needed, torchvision's names and shapes, as safetensors."""
    kept = {name: np.ascontiguousarray(weights[name], np.float32) for name in tensor_shapes()}
    safetensors.numpy.save_file(kept, path)


def features(vgg: Vgg, images: Float[Array, "b h w 3"]) -> list[Array]:
    """relu1_2, relu2_2 and relu3_3 of RGB images in [0, 1].

    Returns:
      (b, h, w, 64), (b, h/2, w/2, 128), (b, h/4, w/4, 256); odd sizes are rounded down.
    """
    x = (images - _MEAN) / _STD
    found = []
    for number, level in enumerate(LEVELS):
        if number:
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        for layer, _, _ in level:
            x = jax.lax.conv_general_dilated(
                x,
                vgg[f"features.{layer}.weight"],
                window_strides=(1, 1),
                padding="SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            x = jax.nn.relu(x + vgg[f"features.{layer}.bias"])
        found.append(x)
    return found


def perceptual_distance(
    vgg: Vgg, prediction: Float[Array, "b h w 3"], target: Float[Array, "b h w 3"]
) -> Float[Array, ""]:
    """Mean absolute feature difference, summed over levels; `prediction` is clamped."""
    predicted = features(vgg, jnp.clip(prediction, 0.0, 1.0))
    true = features(vgg, target)
    return jnp.sum(
        jnp.stack([jnp.mean(jnp.abs(a - b)) for a, b in zip(predicted, true, strict=True)])
    )


def load_perceptual_loss(
    path: PathLike, geometry: CanvasGeometry
) -> Callable[[Array, Array], Array]:
    """The distance as `CanvasTask.extra_loss`.

    Args:
      path: see `load_vgg`.
      geometry: of the canvases; the whole target slot must be masked (mask ratio 1).

    Returns:
      (prediction, target), both (b, m, p) patches of the target slot in raster order -> scalar.
    """
    vgg = load_vgg(path)

    def loss(prediction: Array, target: Array) -> Array:
        frames = (target_frames(x.astype(jnp.float32), geometry) for x in (prediction, target))
        return perceptual_distance(vgg, *frames)

    return loss
