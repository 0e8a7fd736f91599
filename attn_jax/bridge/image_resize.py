"""Camera pictures as Pi0.5 wants them, by LeRobot's arithmetic in float32.

Pictures go in as floats in [0, 1], (b, 3, h, w) or (b, h, w, 3), and come out letterboxed to the
model's resolution, (b, h, w, 3), in [-1, 1]; bars are -1. NumPy in, NumPy out; JAX arrays stay JAX
arrays and may be traced.

    pixels = model_image(picture, (224, 224))
    cameras = arrange_cameras({"observation.images.wrist": picture}, keys, (224, 224))
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attn_jax.core.errors import InputError
from attn_jax.core.typing import AnyArray, Bool, Float, NumpyArray

Size = tuple[int, int]


def content_box(source: Size, target: Size) -> tuple[int, int, int, int]:
    """Where a (height, width) picture lies in the target: (top, left, height, width), pixels.

    LeRobot divides by the ratio in floating point and rounds down, which for some sizes is one
    pixel less than the exact quotient that `core.geometry.letterbox` takes.
    """
    ratio = max(source[1] / target[1], source[0] / target[0])
    height, width = int(source[0] / ratio), int(source[1] / ratio)
    return (target[0] - height) // 2, (target[1] - width) // 2, height, width


def resize_with_pad(
    images: Float[AnyArray, "b h w c"], size: Size
) -> Float[AnyArray, "b height width c"]:
    """Scales bilinearly without antialiasing, keeps the shape of the picture, adds bars of 0.

    Samples are half-pixel aligned (torch's `align_corners=False`); values are clipped to [0, 1].

    Raises:
      InputError: the picture is so elongated that nothing of it would be left.
    """
    xp = _namespace(images)
    top, left, height, width = content_box((images.shape[1], images.shape[2]), size)
    if min(height, width) < 1:
        raise InputError(f"a picture of {images.shape[1:3]} pixels cannot be scaled to {size}")
    scaled = _interpolate(images, width, axis=2)
    scaled = _interpolate(scaled, height, axis=1)
    rows = (top, size[0] - height - top)
    columns = (left, size[1] - width - left)
    return xp.pad(xp.clip(scaled, 0.0, 1.0), ((0, 0), rows, columns, (0, 0)))


def _interpolate(x: Any, size: int, axis: int) -> Any:
    """Linear resampling of one axis; positions and weights in float32, as torch has them."""
    source = x.shape[axis]
    one, step = np.float32(1), np.float32(source) / np.float32(size)
    # torch rounds step * (i + 0.5) - 0.5 once, as a fused multiply-add; float64 holds the product.
    exact = np.float64(step) * (np.arange(size) + 0.5) - 0.5
    place = np.maximum(exact.astype(np.float32), np.float32(0))
    low = np.minimum(place.astype(np.int64), source - 1)
    high = np.minimum(low + 1, source - 1)
    shape = [1] * x.ndim
    shape[axis] = size
    share = (place - low.astype(np.float32)).reshape(shape)
    xp = _namespace(x)
    return xp.take(x, low, axis=axis) * (one - share) + xp.take(x, high, axis=axis) * share


def model_image(images: AnyArray, size: Size) -> Float[AnyArray, "b height width 3"]:
    """One camera, (b, 3, h, w) or (b, h, w, 3) in [0, 1], as the vision tower reads it.

    A picture that has the right size already is not clipped, as in LeRobot.

    Raises:
      InputError: not a batch of three-channel floating-point pictures.
    """
    if images.ndim != 4 or 3 not in (images.shape[1], images.shape[3]):
        raise InputError(
            f"pictures have shape {tuple(images.shape)}, expected (batch, 3, height, width) "
            "or (batch, height, width, 3)"
        )
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise InputError(
            f"pictures are {images.dtype}, expected floats in [0, 1]", fix="Divide bytes by 255"
        )
    xp = _namespace(images)
    pixels = xp.asarray(images, dtype=np.float32)
    if pixels.shape[1] == 3:
        pixels = xp.transpose(pixels, (0, 2, 3, 1))
    if tuple(pixels.shape[1:3]) != tuple(size):
        pixels = resize_with_pad(pixels, size)
    return pixels * np.float32(2) - np.float32(1)


@dataclasses.dataclass(frozen=True)
class Cameras:
    """The pictures of one call in the order of the model's camera slots.

    Attributes:
      keys: feature name of every slot; cameras that are present first, then dummies.
      images: one (b, h, w, 3) float32 array per slot, in [-1, 1]; a dummy is all -1.
      masks: one (b,) bool array per slot, False for a dummy.
      boxes: (top, left, height, width) of the picture inside each slot, pixels; None for a dummy.
    """

    keys: tuple[str, ...]
    images: tuple[Float[AnyArray, "b h w 3"], ...]
    masks: tuple[Bool[NumpyArray, "b"], ...]
    boxes: tuple[tuple[int, int, int, int] | None, ...]


def arrange_cameras(values: Mapping[str, Any], keys: Sequence[str], size: Size) -> Cameras:
    """Puts pictures into the camera slots in LeRobot's order.

    Args:
      values: feature name -> pictures of `model_image`; other names are left alone.
      keys: every configured camera in the order of the configuration.
      size: (height, width) of the model's input, pixels.

    Raises:
      InputError: no camera is present, or two of them have different batch sizes.
    """
    present = [key for key in keys if key in values]
    if not present:
        raise InputError("no camera is present", fix=f"Give at least one of: {', '.join(keys)}")
    batch = {key: values[key].shape[0] for key in present}
    if len(set(batch.values())) != 1:
        raise InputError(f"cameras have different batch sizes: {batch}")
    count = batch[present[0]]
    images, boxes = [], []
    for key in present:
        picture = values[key]
        images.append(model_image(picture, size))
        source = picture.shape[2:4] if picture.shape[1] == 3 else picture.shape[1:3]
        boxes.append(content_box((source[0], source[1]), size))
    missing = [key for key in keys if key not in values]
    dummy = np.full((count, *size, 3), -1, np.float32)
    return Cameras(
        keys=(*present, *missing),
        images=(*images, *(dummy for _ in missing)),
        masks=tuple(np.full((count,), key in values) for key in (*present, *missing)),
        boxes=(*boxes, *(None for _ in missing)),
    )


def _namespace(x: Any) -> ModuleType:
    return jnp if isinstance(x, jax.Array) else np
