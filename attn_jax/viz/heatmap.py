"""Patch maps drawn over the picture they belong to.

The steps are always the same: enlarge (half-pixel aligned), clip at 0, divide by a stated scale,
colour, blend 0.6 picture + 0.4 map. Nothing is normalised silently: whoever draws several maps side
by side gives them one `scale`.

Axis names: gh gw patch grid, h w pixels.

    heat = layout_heat(layout, weights, picture.shape[:2])   # (h, w), NaN where not recorded
    overlay(picture, heat, scale=float(np.nanmax(heat)))     # (h, w, 3) uint8
    heat = on_picture(camera_map, picture.shape[:2], (224, 224))      # through the letterbox
"""

from __future__ import annotations

import dataclasses
import types

import cv2
import matplotlib
import numpy as np

from attn_jax.core import geometry
from attn_jax.core.errors import ConfigError, LayoutError
from attn_jax.core.layout import TokenLayout
from attn_jax.core.typing import Bool, Float, Int, NumpyArray, UInt8

MAP_SHARE = 0.4
SEQUENTIAL = "viridis"
DIVERGING = "RdBu_r"
#: Outlines of selected patches: a colour that no sequential map holds.
MARK = (255, 0, 255)

#: Contours of objects.
OBJECT = (0, 255, 0)

Picture = UInt8[NumpyArray, "h w 3"]


@dataclasses.dataclass(frozen=True)
class OverlayStyle:
    """How a map is drawn over a picture.

    Attributes:
      colour_map: a matplotlib name.
      share: weight of the map in the blend, in [0, 1].
      resize: `linear` or `cubic` (which overshoots: drawn only, never measured), both half-pixel
        aligned, or `blocks`.
    """

    colour_map: str = SEQUENTIAL
    share: float = MAP_SHARE
    resize: str = "linear"

    def __post_init__(self):
        if self.resize not in ("linear", "cubic", "blocks"):
            raise ConfigError(f"unknown resize {self.resize!r}", fix="Use linear, cubic or blocks")
        if not 0 <= self.share <= 1:
            raise ConfigError(f"the share of the map is {self.share}", fix="Use a number in [0, 1]")


#: `seed1` and `seed2` look like the tools that came before (see docs/figures.md).
STYLES = types.MappingProxyType(
    {
        "default": OverlayStyle(),
        "turbo": OverlayStyle("turbo"),
        "seed1": OverlayStyle("hot", 0.5),
        "seed2": OverlayStyle("jet", 0.4, "cubic"),
    }
)


def style_of(name: str) -> OverlayStyle:
    """A style by name; raises `ConfigError` when there is none."""
    if name not in STYLES:
        raise ConfigError(f"unknown overlay style {name!r}", fix=f"Use one of {(*STYLES,)}")
    return STYLES[name]


def colours(levels: Float[NumpyArray, "*n"], name: str = SEQUENTIAL) -> UInt8[NumpyArray, "*n 3"]:
    """Colours of levels in [0, 1] by a matplotlib colour map; levels outside are clipped.

    Raises:
      ConfigError: when matplotlib has no such colour map.
    """
    if name not in matplotlib.colormaps:
        raise ConfigError(f"unknown colour map {name!r}", fix="Use a matplotlib name, e.g. viridis")
    rgba = matplotlib.colormaps[name](np.clip(levels.astype(np.float64), 0.0, 1.0), bytes=True)
    return np.asarray(rgba)[..., :3]


def overlay(
    picture: Picture,
    heat: Float[NumpyArray, "gh gw"],
    *,
    scale: float | None = None,
    colour_map: str = SEQUENTIAL,
    share: float = MAP_SHARE,
    smooth: bool = True,
) -> Picture:
    """A heat map blended over a picture.

    Args:
      picture: what the model saw.
      heat: non-negative weights, a patch grid over the whole picture or one value per pixel. NaN
        leaves the picture as it is (for a smooth enlargement the grid must not hold NaN).
      scale: weight that gets the last colour; None takes the largest of this map.
      colour_map: a matplotlib name.
      share: weight of the map in the blend, in [0, 1].
      smooth: enlarge bilinearly; otherwise every patch is one flat square.

    Raises:
      ConfigError: when `share` or `scale` makes no sense.
    """
    if not 0.0 <= share <= 1.0:
        raise ConfigError(f"share {share} of the map is outside [0, 1]")
    size = (picture.shape[0], picture.shape[1])
    pixels = heat if heat.shape == size else geometry.upsample(heat, size, smooth=smooth)
    known = np.isfinite(pixels)
    pixels = np.clip(np.where(known, pixels, 0.0), 0.0, None)
    if scale is None:
        scale = float(pixels.max())
    if not scale >= 0.0:
        raise ConfigError(f"scale {scale} of a heat map is not a positive number")
    tint = colours(pixels / scale if scale > 0 else pixels, colour_map).astype(np.float64)
    mixed = (1.0 - share) * picture + share * tint
    return np.where(known[..., None], np.rint(mixed), picture).astype(np.uint8)


def on_picture(
    camera_map: Float[NumpyArray, "gh gw"],
    size: tuple[int, int],
    input_size: tuple[int, int],
    *,
    resize: str = "linear",
    turned: bool = False,
) -> Float[NumpyArray, "h w"]:
    """A camera's patch map in the pixels of the picture before its letterbox; never negative.

    What lies on the bars is cut off.

    Args:
      camera_map: one value per patch of the model's input.
      size: (height, width) of the picture, pixels.
      input_size: (height, width) of the model's input, pixels.
      resize: as in `OverlayStyle`.
      turned: turn the result by 180 degrees, for a picture that is turned against the model's.
    """
    heat = enlarge(camera_map, input_size, resize)
    if size != input_size:
        top, left, height, width = geometry.letterbox(size, input_size).content
        heat = enlarge(heat[top : top + height, left : left + width], size, resize)
    return geometry.rot180(heat) if turned else heat


def enlarge(
    heat: Float[NumpyArray, "a b"], size: tuple[int, int], resize: str = "linear"
) -> Float[NumpyArray, "h w"]:
    """A map at (height, width) pixels, half-pixel aligned and clipped at 0; see `OverlayStyle`."""
    if resize == "cubic":
        cubic = cv2.resize(heat.astype(np.float64), size[::-1], interpolation=cv2.INTER_CUBIC)
        return np.clip(cubic, 0.0, None)
    return np.clip(geometry.upsample(heat, size, smooth=resize != "blocks"), 0.0, None)


def contours(
    picture: Picture,
    mask: Bool[NumpyArray, "h w"],
    *,
    colour: tuple[int, int, int] = OBJECT,
    width: int = 2,
) -> Picture:
    """A copy of the picture with the outlines of a mask, `width` pixels wide."""
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    out = np.ascontiguousarray(picture).copy()
    cv2.drawContours(out, found, -1, colour, width)
    return out


def difference(
    values: Float[NumpyArray, "h w"], *, scale: float, colour_map: str = DIVERGING
) -> Picture:
    """A signed map in colours that are symmetric about 0; `scale` is the level of the last colour.

    Raises:
      ConfigError: when the scale is not positive.
    """
    if not scale > 0.0:
        raise ConfigError(f"scale {scale} of a difference map is not positive")
    return colours(0.5 + values.astype(np.float64) / (2.0 * scale), colour_map)


def layout_heat(
    layout: TokenLayout,
    weights: Float[NumpyArray, "key"],
    size: tuple[int, int],
    *,
    smooth: bool = True,
) -> Float[NumpyArray, "h w"]:
    """Weights of a record's keys painted where their patches lie, one value per pixel.

    Every patch group is enlarged inside its own box, so that mass on an action stripe does not
    bleed into the frame beside it. Pixels of groups that were not recorded, and pixels outside
    every box, are NaN.

    Args:
      layout: layout of the record.
      weights: one weight per position on the key axis.
      size: (height, width) of the model's input picture, pixels.
      smooth: enlarge bilinearly within a group.

    Raises:
      LayoutError: when the weights do not fit, or no recorded group has a place in the picture.
    """
    tokens = layout.axis_tokens("key")
    if len(weights) != len(tokens):
        raise LayoutError(f"{len(weights)} weights for {len(tokens)} keys")
    everywhere = np.full(layout.length, np.nan)
    everywhere[tokens] = weights
    heat = np.full(size, np.nan)
    for group in layout.groups:
        if group.grid is None or group.box is None or not group.valid:
            continue
        cells = everywhere[list(group.indices)].reshape(group.grid)
        if np.isnan(cells).all():
            continue
        top, left, height, width = group.box
        blocky = not smooth or bool(np.isnan(cells).any())  # NaN would spread by interpolation
        heat[top : top + height, left : left + width] = geometry.upsample(
            cells, (height, width), smooth=not blocky
        )
    if np.isnan(heat).all():
        raise LayoutError("no recorded key has a place in the picture", fix="Record image keys")
    return heat


def token_boxes(layout: TokenLayout, tokens: Int[NumpyArray, "n"]) -> Int[NumpyArray, "n 4"]:
    """(top, left, height, width) pixels of tokens that are image patches.

    Raises:
      LayoutError: when a token is no patch of a group with a place in the picture.
    """
    places = np.full((layout.length, 4), -1, np.int64)
    for group in layout.groups:
        if group.grid is not None and group.box is not None:
            boxes = geometry.patch_boxes(group.grid, group.box)
            places[list(group.indices)] = boxes.reshape(-1, 4)
    chosen = places[tokens]
    if np.any(chosen < 0):
        missing = tokens[np.any(chosen < 0, axis=-1)].tolist()
        raise LayoutError(f"tokens {missing} have no place in the picture")
    return chosen


def outline(
    picture: Picture,
    boxes: Int[NumpyArray, "n 4"],
    *,
    colour: tuple[int, int, int] = MARK,
    width: int = 1,
) -> Picture:
    """A copy of the picture with box borders drawn inside the boxes, `width` pixels wide."""
    out = picture.copy()
    for top, left, height, across in boxes.tolist():
        patch = out[top : top + height, left : left + across]
        inner = patch[width : height - width, width : across - width].copy()
        patch[...] = colour
        patch[width : height - width, width : across - width] = inner
    return out
