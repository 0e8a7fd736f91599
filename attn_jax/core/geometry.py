"""Picture geometry: letterbox, patches and pixels, upsampling of patch maps, coverage of masks.

Pixels are indexed by their centres: pixel i covers [i - 0.5, i + 0.5), so a picture of n pixels
spans [-0.5, n - 0.5). Every resampling here is half-pixel aligned to that. Points are (y, x), boxes
are (top, left, height, width) with `top`, `left` the index of the first pixel, sizes are (height,
width).

Axis names: gh gw patch grid, h w pixels.

    box = letterbox((720, 1280), (224, 224))       # content 126 x 224, bars of 49 px
    f = box.coverage(mask, (16, 16))               # share of every patch that the mask covers
    heat = upsample(patch_map, (224, 224))         # (..., 16, 16) -> (..., 224, 224)
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from attn_jax.core.errors import ConfigError
from attn_jax.core.typing import Bool, Float, Int, NumpyArray

Size = tuple[int, int]
Box = tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True)
class Letterbox:
    """A picture scaled to fit a target size, centred, with bars where the shapes differ.

    Attributes:
      source: (height, width) of the picture, pixels.
      target: (height, width) of the model's input, pixels.
      content: (top, left, height, width) of the scaled picture inside the target, pixels.
    """

    source: Size
    target: Size
    content: Box

    @property
    def bars(self) -> tuple[int, int, int, int]:
        """Widths of the bars (above, below, left, right), pixels."""
        top, left, height, width = self.content
        return top, self.target[0] - height - top, left, self.target[1] - width - left

    def to_target(self, points: Float[NumpyArray, "*n 2"]) -> Float[NumpyArray, "*n 2"]:
        """Maps (y, x) points of the source picture to the target, pixels."""
        scale, offset = self._affine()
        return (points + 0.5) * scale + offset - 0.5

    def to_source(self, points: Float[NumpyArray, "*n 2"]) -> Float[NumpyArray, "*n 2"]:
        """Maps (y, x) points of the target to the source picture, pixels; the inverse."""
        scale, offset = self._affine()
        return (points + 0.5 - offset) / scale - 0.5

    def _affine(self) -> tuple[np.ndarray, np.ndarray]:
        top, left, height, width = self.content
        scale = np.array([height / self.source[0], width / self.source[1]])
        return scale, np.array([top, left], np.float64)

    def image(self, picture: NumpyArray) -> NumpyArray:
        """Letterboxes a picture (h, w[, c]) bilinearly; bars are 0.

        Returns:
          The target-sized picture in the dtype of the input; integers are rounded.
        """
        if picture.shape[:2] != self.source:
            raise ConfigError(
                f"picture is {picture.shape[:2]}, this letterbox is for {self.source}"
            )
        top, left, height, width = self.content
        rows = linear_weights(self.source[0], height)
        columns = linear_weights(self.source[1], width)
        scaled = np.einsum("yh,hw...,xw->yx...", rows, picture.astype(np.float64), columns)
        out = np.zeros((*self.target, *picture.shape[2:]), np.float64)
        out[top : top + height, left : left + width] = scaled
        if np.issubdtype(picture.dtype, np.integer):
            out = np.rint(out)
        return out.astype(picture.dtype)

    def coverage(
        self, mask: Bool[NumpyArray, "*b h w"] | Float[NumpyArray, "*b h w"], grid: Size
    ) -> Float[NumpyArray, "*b gh gw"]:
        """Share of every patch that a mask of the source picture covers, in [0, 1].

        The mask is averaged over each patch's exact area in the source picture; it is not drawn at
        the target size first. Bars count as not covered. Leading axes are carried along.
        """
        if mask.shape[-2:] != self.source:
            raise ConfigError(f"mask is {mask.shape[-2:]}, this letterbox is for {self.source}")
        top, left, height, width = self.content
        rows = _box_weights(self.source[0], height, top, self.target[0], grid[0])
        columns = _box_weights(self.source[1], width, left, self.target[1], grid[1])
        return rows @ mask.astype(np.float64) @ columns.T

    def bar_share(self, grid: Size) -> Float[NumpyArray, "gh gw"]:
        """Share of every patch that is bar, in [0, 1]."""
        return np.clip(1.0 - self.coverage(np.ones(self.source), grid), 0.0, 1.0)


def letterbox(source: Size, target: Size) -> Letterbox:
    """The letterbox of a (height, width) picture in a (height, width) input.

    Sizes are rounded down from the exact ratio in integer arithmetic; the smaller half of the
    padding goes above and to the left.

    Raises:
      ConfigError: when a side is not positive.
    """
    if min(*source, *target) < 1:
        raise ConfigError(f"sizes must be positive, got picture {source} and input {target}")
    if source[1] * target[0] >= source[0] * target[1]:  # the width decides
        height, width = max(1, source[0] * target[1] // source[1]), target[1]
    else:
        height, width = target[0], max(1, source[1] * target[0] // source[0])
    top, left = (target[0] - height) // 2, (target[1] - width) // 2
    return Letterbox(source, target, (top, left, height, width))


@functools.lru_cache(maxsize=64)
def linear_weights(source: int, target: int) -> np.ndarray:
    """Half-pixel aligned linear resampling as a matrix, (target, source) float64, rows sum to 1.

    Beyond the outermost sample centres the outermost sample is repeated. There is no low-pass
    filter: this is for enlarging, and for shrinking in the way of `align_corners=False` without
    antialiasing.
    """
    centre = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    low = np.minimum(np.floor(centre).astype(np.int64), max(source - 2, 0))
    share = centre - low
    weights = np.zeros((target, source))
    weights[np.arange(target), low] = 1.0 - share
    weights[np.arange(target), np.minimum(low + 1, source - 1)] += share
    weights.setflags(write=False)
    return weights


def _box_weights(source: int, content: int, offset: int, target: int, cells: int) -> np.ndarray:
    """(cells, source): share of every cell of the target that each source pixel covers."""
    scale = source / content
    edges = (np.arange(cells + 1) * (target / cells) - offset) * scale  # in source pixels
    pixel = np.arange(source)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    return np.clip(overlap, 0.0, None) / (target / cells * scale)


def coverage(
    mask: Bool[NumpyArray, "h w"] | Float[NumpyArray, "h w"], grid: Size
) -> Float[NumpyArray, "gh gw"]:
    """Box average of a mask over a patch grid that spans the whole picture, in [0, 1]."""
    size = mask.shape[0], mask.shape[1]
    return letterbox(size, size).coverage(mask, grid)


def upsample(
    maps: Float[NumpyArray, "*b gh gw"], size: Size, *, smooth: bool = True
) -> Float[NumpyArray, "*b h w"]:
    """Patch maps to pixels; the value at a patch centre is the value of the patch.

    Args:
      maps: one value per patch.
      size: (height, width) to fill, pixels.
      smooth: bilinear and half-pixel aligned; otherwise every pixel takes its patch's value.

    Returns:
      float64. The centroid of a single patch is exact with `smooth=False`, and with `smooth=True`
      for every patch that does not touch the border (there it is drawn inwards by repetition of the
      edge).
    """
    gh, gw = maps.shape[-2:]
    if smooth:
        return linear_weights(gh, size[0]) @ maps.astype(np.float64) @ linear_weights(gw, size[1]).T
    rows = np.minimum((np.arange(size[0]) + 0.5) * gh // size[0], gh - 1).astype(np.int64)
    columns = np.minimum((np.arange(size[1]) + 0.5) * gw // size[1], gw - 1).astype(np.int64)
    return maps.astype(np.float64)[..., rows[:, None], columns[None, :]]


def patch_centres(grid: Size, box: Box) -> Float[NumpyArray, "gh gw 2"]:
    """(y, x) centres of the patches of a grid that fills `box`, pixels: 14 r + 6.5, 14 c + 6.5."""
    top, left, height, width = box
    y = top + (np.arange(grid[0]) + 0.5) * height / grid[0] - 0.5
    x = left + (np.arange(grid[1]) + 0.5) * width / grid[1] - 0.5
    return np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1)


def patch_boxes(grid: Size, box: Box) -> Int[NumpyArray, "gh gw 4"]:
    """(top, left, height, width) of every patch of a grid that fills `box`, pixels.

    Raises:
      ConfigError: when the box does not divide into whole patches.
    """
    top, left, height, width = box
    if height % grid[0] or width % grid[1]:
        raise ConfigError(f"box of {height} x {width} px does not divide into {grid} patches")
    ph, pw = height // grid[0], width // grid[1]
    rows, columns = np.meshgrid(np.arange(grid[0]), np.arange(grid[1]), indexing="ij")
    sides = np.broadcast_to([ph, pw], (*grid, 2))
    return np.concatenate([np.stack([top + rows * ph, left + columns * pw], -1), sides], axis=-1)


def patch_at(points: Float[NumpyArray, "*n 2"], grid: Size, box: Box) -> Int[NumpyArray, "*n"]:
    """Raster number of the patch that holds each (y, x) point, -1 outside the box."""
    top, left, height, width = box
    row = np.floor((points[..., 0] + 0.5 - top) * grid[0] / height).astype(np.int64)
    column = np.floor((points[..., 1] + 0.5 - left) * grid[1] / width).astype(np.int64)
    inside = (row >= 0) & (row < grid[0]) & (column >= 0) & (column < grid[1])
    return np.asarray(np.where(inside, row * grid[1] + column, -1))


def centroid(maps: Float[NumpyArray, "*b gh gw"], box: Box) -> Float[NumpyArray, "*b 2"]:
    """Centre of mass (y, x) of patch maps, pixels; exact everywhere, NaN for a map without mass."""
    weights = maps.astype(np.float64)
    mass = weights.sum((-2, -1))[..., None]
    moment = np.einsum("...yx,yxp->...p", weights, patch_centres(maps.shape[-2:], box))
    return np.where(mass > 0, moment / np.where(mass > 0, mass, 1.0), np.nan)


def rot180(array: NumpyArray, *, axes: tuple[int, int] = (-2, -1)) -> NumpyArray:
    """Turns two picture axes by 180 degrees: (0, 1) of (h, w, c), (-2, -1) of maps; a view."""
    return np.flip(array, axes)


def rot180_box(box: Box, size: Size) -> Box:
    """Where a box lies after its picture of `size` was turned by 180 degrees."""
    top, left, height, width = box
    return size[0] - top - height, size[1] - left - width, height, width
