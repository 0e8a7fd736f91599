"""Object masks from instance-segmentation images, as simulators render them.

An instance image holds one whole number per pixel; a table says which object each number is. 0 is
background. Numbers that the table lacks (LIBERO's gripper has one) are reported, not guessed.

Axis names: t frames or calls, o objects, h w pixels.

    made = instance_masks({"wrist": ids}, {1: "basket", 2: "milk"}, objects=("milk", "basket"))
    made.masks["wrist"]          # (t, o, h, w) bool
    made.unknown                 # {10}
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from attn_jax.core.errors import EpisodeError
from attn_jax.core.typing import Int, NumpyArray


@dataclasses.dataclass(frozen=True, eq=False)
class InstanceMasks:
    """Masks as an `Episode` wants them.

    Attributes:
      objects: names, in the order of the mask axis.
      masks: camera -> (t, o, h, w) bool.
      unknown: numbers in the images that the table lacks.
    """

    objects: tuple[str, ...]
    masks: Mapping[str, NumpyArray]
    unknown: frozenset[int]


def instance_masks(
    images: Mapping[str, Int[NumpyArray, "t _ _"]],
    names: Mapping[int, str],
    *,
    objects: Sequence[str] | None = None,
) -> InstanceMasks:
    """Masks of the objects of a table.

    Args:
      images: camera -> (t, h, w) whole numbers.
      names: number -> object. Several numbers may be parts of one object.
      objects: the objects wanted, in order; None takes all, by number.

    Raises:
      EpisodeError: an object that the table lacks, or that is named twice.
    """
    known = list(dict.fromkeys(names[number] for number in sorted(names)))
    chosen = known if objects is None else list(objects)
    if len(set(chosen)) != len(chosen):
        raise EpisodeError(f"object names repeat: {sorted(chosen)}")
    for name in chosen:
        if name not in known:
            raise EpisodeError(
                f"no instance is called {name!r}", fix=f"Known: {', '.join(known) or 'none'}"
            )
    numbers = [[number for number in names if names[number] == name] for name in chosen]
    masks = {}
    for camera, image in images.items():
        shape = (image.shape[0], len(chosen), *image.shape[1:])
        found = np.zeros(shape, np.bool_)
        for place, parts in enumerate(numbers):
            found[:, place] = np.isin(image, parts)
        masks[camera] = found
    seen = {int(number) for image in images.values() for number in np.unique(image)}
    return InstanceMasks(tuple(chosen), masks, frozenset(seen - {0, *names}))
