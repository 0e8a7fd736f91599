"""Patches hidden from a policy: which ones, by the attention of the base run, and in which pixels.

Patches are chosen by the attention of the actions in the base run, its mean over heads, denoising
steps and actions, and never changed after. They are hidden in the picture as the vision tower gets
it, after the letterbox: there a patch is whole pixels, in the camera's picture it is not. Bars are
never covered, and fills are made of the picture without them. `key_removal` leaves the pixels and
lets no token of the language model or of the action expert look at the patches; inside the vision
tower they are still seen, so what their neighbours know of them stays.

Axis names: b samples, c calls, gh gw patch grid, h w pixels of the model's input.

    maps = BaseMaps(episode_folder(run, 0), episode)
    hidden = hidden_patches(maps, hiding, content_box((720, 1280), (224, 224)), seed=0, number=0)
    prediction = policy.run(hidden.applied(prepared, calls=[0, 1]), noise=noise, capture=False)
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from attn_jax.analysis.fidelity import matched_control, top_patches
from attn_jax.analysis.studies import CameraMaps, Source, camera_maps
from attn_jax.core import geometry
from attn_jax.core.errors import RecordError
from attn_jax.core.typing import Bool, Float, NumpyArray
from attn_jax.data.episodes import Episode
from attn_jax.policies.observations import Prepared
from attn_jax.probe.occlusion import fill, occlude, patch_pixels
from attn_jax.probe.store import RecordReader
from launch.episode_variants import KEY_REMOVAL, QUERY, STREAM, Hiding

_FILL_KEY = 1  # folded into the key of a call, so that a fill is not the noise of the actions


class BaseMaps:
    """Maps of the actions in the base run of one episode; every camera is read once."""

    def __init__(self, folder: pathlib.Path, episode: Episode):
        """`folder` is that of the episode in the base run; it is read when it is asked for."""
        self._folder, self._episode = folder, episode
        self._maps: dict[str, CameraMaps] = {}

    def of(self, camera: str, layer: int) -> tuple[Float[NumpyArray, "c gh gw"], geometry.Size]:
        """Maps of a layer at every call, and the (height, width) that their grid fills, pixels.

        Raises:
          RecordError, LayoutError: they were not recorded.
        """
        if camera not in self._maps:
            source = Source(self._episode, RecordReader(self._folder))
            self._maps[camera] = camera_maps(source, STREAM, QUERY, camera)
        maps = self._maps[camera]
        if layer not in maps.layers or not np.array_equal(maps.env_step, self._episode.env_step):
            raise RecordError(
                f"layer {layer} was not recorded at every call",
                where=self._folder,
                fix="Run the base with another --capture in another --workdir",
            )
        return maps.joined()[:, maps.layers.index(layer)].mean(1), maps.target


@dataclasses.dataclass(frozen=True, eq=False)
class Hidden:
    """Patches of one camera that are hidden, chosen for every call.

    Attributes:
      hiding: what was asked for.
      patches: (c, gh, gw) bool.
      matched: of every call, whether the control has the shape of the high set.
      seen: (height, width) that the grid fills, pixels from the upper left of the model's input.
      box: (top, left, height, width) of the picture in the model's input, pixels.
      key: JAX key of the episode, for the fill `noise`.
    """

    hiding: Hiding
    patches: Bool[NumpyArray, "c gh gw"]
    matched: tuple[bool, ...]
    seen: geometry.Size
    box: geometry.Box
    key: Any

    def facts(self) -> dict[str, Any]:
        """For the info: raster numbers of the patches of every call, the grid, `matched`."""
        flat = self.patches.reshape(len(self.patches), -1)
        return {
            "patches": [np.flatnonzero(row).tolist() for row in flat],
            "grid": [*self.patches.shape[1:]],
            "matched": [*self.matched],
        }

    def applied(self, prepared: Prepared, calls: Sequence[int]) -> Prepared:
        """The inputs of these calls, one sample each, with the patches covered by their fill."""
        if self.hiding.fill == KEY_REMOVAL:
            return prepared
        images = np.array(prepared.inputs.images)
        place = prepared.cameras.index(self.hiding.camera)
        keys = [jax.random.fold_in(jax.random.fold_in(self.key, c), _FILL_KEY) for c in calls]
        images[:, place] = hide(
            images[:, place], self.patches[[*calls]], self.seen, self.box, self.hiding.fill, keys
        )
        return dataclasses.replace(prepared, inputs=prepared.inputs.replace(images=images))  # pyright: ignore[reportAttributeAccessIssue]

    def removed(self, prepared: Prepared, calls: Sequence[int]) -> Bool[NumpyArray, "b p"] | None:
        """Prefix tokens of these calls that nobody may look at; None under a fill."""
        if self.hiding.fill != KEY_REMOVAL:
            return None
        flat = self.patches.reshape(len(self.patches), -1)
        start = prepared.cameras.index(self.hiding.camera) * flat.shape[1]
        inputs = prepared.inputs
        length = inputs.images.shape[1] * flat.shape[1] + inputs.tokens.shape[1]
        out = np.zeros((len(calls), length), bool)
        out[:, start : start + flat.shape[1]] = flat[[*calls]]
        return out


def hidden_patches(
    maps: BaseMaps, hiding: Hiding, box: geometry.Box, *, seed: int, number: int
) -> Hidden:
    """Chooses the patches of every call of an episode.

    The control of a call is the same for all fills and all noise. A call whose maps give the camera
    nothing has no patches with much attention: nothing is hidden, and it does not count as matched.

    Args:
      maps: of the base run.
      hiding: what to hide.
      box: (top, left, height, width) of the picture in the model's input, pixels.
      seed: of the draw of controls and of the fill `noise`.
      number: of the episode.

    Raises:
      RecordError, LayoutError: the base has no such maps.
      ConfigError: the picture is so small in its letterbox that no control fits.
    """
    values, seen = maps.of(hiding.camera, hiding.layer)
    content = picture_share(box, seen, values.shape[1:])
    high = top_patches(values, hiding.share, content=content)
    controls = [
        matched_control(one, seed=_seed(seed, number, call, hiding.layer), allowed=content > 0)
        for call, one in enumerate(high)
    ]
    patches = high if hiding.set == "high" else np.stack([c.mask for c in controls])
    looked = (values * (content > 0)).sum((1, 2)) > 0
    patches &= looked[:, None, None]
    matched = tuple(c.matched and bool(one) for c, one in zip(controls, looked, strict=True))
    key = jax.random.fold_in(jax.random.key(seed), number)
    return Hidden(hiding, patches, matched, seen, box, key)


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def picture_share(
    box: geometry.Box, seen: geometry.Size, grid: geometry.Size
) -> Float[NumpyArray, "gh gw"]:
    """Share of every patch that is picture and not bar, by whole pixels of the model's input."""
    picture = np.zeros(seen, bool)
    picture[_inside(box)] = True
    return geometry.coverage(picture, grid)


def hide(
    images: Float[NumpyArray, "b h w 3"],
    patches: Bool[NumpyArray, "b gh gw"],
    seen: geometry.Size,
    box: geometry.Box,
    how: str,
    keys: Sequence[Any],
) -> Float[NumpyArray, "b h w 3"]:
    """Letterboxed pictures in [-1, 1] with patches covered, bars left as they are.

    Args:
      images: the model's input of one camera.
      patches: to cover, for every sample.
      seen: (height, width) that the patch grid fills, pixels.
      box: of the picture in the input, pixels.
      how: the fill; its mean, blur and spread are those of the picture.
      keys: JAX key of every sample, for the fill `noise`.
    """
    rows, columns = _inside(box)
    pixels = np.zeros(images.shape[:3], bool)
    pixels[:, : seen[0], : seen[1]] = patch_pixels(patches, seen)
    filled = images.copy()
    for number, key in enumerate(keys):
        one = slice(number, number + 1)
        filled[one, rows, columns] = fill(images[one, rows, columns], how, key)
    return np.asarray(occlude(images, filled, pixels))


def _inside(box: geometry.Box) -> tuple[slice, slice]:
    top, left, height, width = box
    return slice(top, top + height), slice(left, left + width)
