"""Geometry of the canvas: K frames side by side, action stripes between them, square patches.

Sizes are height x width. Patches are numbered in raster order (row, column); patchify order inside
a patch is (row, column, channel). Token 0 of the model is CLS, token 1 + n is patch n.

    geometry = CanvasGeometry(frame_size=(64, 64))
    geometry.canvas_size                    # (64, 224)
    geometry.target_patches()               # patches of the slot to predict, raster order
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from attn_jax.core.errors import ConfigError
from attn_jax.core.layout import TokenGroup, TokenLayout


@dataclasses.dataclass(frozen=True)
class CanvasGeometry:
    """Sizes of a canvas and where everything on it is.

    Attributes:
      frame_size: (height, width) of a frame, pixels.
      history: K, frames per canvas including the target.
      separator: width of an action stripe, pixels.
      patch: side of a square patch, pixels.

    Raises:
      ConfigError: when a size is not positive or the canvas does not divide into patches.
    """

    frame_size: tuple[int, int]
    history: int = 3
    separator: int = 16
    patch: int = 16

    def __post_init__(self):
        object.__setattr__(self, "frame_size", (int(self.frame_size[0]), int(self.frame_size[1])))
        if min(*self.frame_size, self.separator, self.patch) < 1 or self.history < 2:
            raise ConfigError(f"canvas sizes must be positive and history at least 2, got {self}")
        for side, size in zip(("height", "width"), self.canvas_size, strict=True):
            if size % self.patch:
                raise ConfigError(
                    f"canvas {side} {size} is not a multiple of the patch size {self.patch}",
                    fix="Choose frame size, separator and patch so that both sides divide",
                )

    @property
    def canvas_size(self) -> tuple[int, int]:
        """(height, width) of the canvas, pixels."""
        height, width = self.frame_size
        return height, self.history * width + (self.history - 1) * self.separator

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches."""
        height, width = self.canvas_size
        return height // self.patch, width // self.patch

    @property
    def num_patches(self) -> int:
        """Patches on the canvas."""
        return self.grid[0] * self.grid[1]

    @property
    def patch_dim(self) -> int:
        """Values in a patch."""
        return self.patch * self.patch * 3

    def frame_columns(self, slot: int) -> tuple[int, int]:
        """(start, stop) pixel columns of frame slot `slot`."""
        start = slot * (self.frame_size[1] + self.separator)
        return start, start + self.frame_size[1]

    def separator_columns(self, index: int) -> tuple[int, int]:
        """(start, stop) pixel columns of the stripe after frame `index`."""
        start = self.frame_columns(index)[1]
        return start, start + self.separator

    def slot_patches(self, slot: int) -> np.ndarray:
        """Patches that touch frame slot `slot`, raster order, (n,) int64."""
        start, stop = self.frame_columns(slot)
        column = np.arange(self.grid[1]) * self.patch
        touched = (column + self.patch > start) & (column < stop)
        return np.flatnonzero(np.tile(touched, self.grid[0]))

    def target_patches(self) -> np.ndarray:
        """Patches of the frame to predict, the last slot, raster order, (n,) int64."""
        return self.slot_patches(self.history - 1)

    def visible_patches(self) -> np.ndarray:
        """Patches visible when the target is fully masked, raster order, (n,) int64."""
        return np.setdiff1d(np.arange(self.num_patches), self.target_patches())

    def column_coverage(self) -> dict[str, np.ndarray]:
        """Region name -> (columns,) float64 share of every patch column that the region covers."""
        edges = np.arange(self.grid[1]) * self.patch
        regions = {}
        for slot in range(self.history):
            regions[f"frame{slot}"] = self.frame_columns(slot)
            if slot < self.history - 1:
                regions[f"sep{slot}"] = self.separator_columns(slot)
        return {
            name: np.clip(np.minimum(edges + self.patch, b) - np.maximum(edges, a), 0, None)
            / self.patch
            for name, (a, b) in regions.items()
        }

    @functools.cached_property
    def layout(self) -> TokenLayout:
        """Layout of the full sequence: `cls`, `frame0`, `sep0`, `frame1`, ..., the target frame.

        A patch column that straddles two regions is labelled with the one that covers more of it; a
        tie goes to the separator. `layout.fractions()` has the exact shares. Aliases: `target`,
        `history` (all frames but the target), `stripes` (all separators).
        """
        coverage = self.column_coverage()
        names = list(coverage)
        shares = np.stack([coverage[name] for name in names])
        tie_break = np.array([1e-9 if name.startswith("sep") else 0.0 for name in names])
        owner = np.argmax(shares + tie_break[:, None], axis=0)
        rows, columns = self.grid
        groups = [TokenGroup("cls", (0,), labels=("cls",))]
        for number, name in enumerate(names):
            mine = np.flatnonzero(owner == number)
            if not len(mine):
                raise ConfigError(f"no patch column belongs to {name}", where=str(self))
            indices = (1 + np.arange(rows)[:, None] * columns + mine[None, :]).ravel()
            box = (0, int(mine[0]) * self.patch, self.canvas_size[0], len(mine) * self.patch)
            groups.append(TokenGroup(name, tuple(indices.tolist()), (rows, len(mine)), box))
        fractions = {"cls": (1.0,) + (0.0,) * self.num_patches}
        for name in names:
            fractions[name] = (0.0, *np.tile(coverage[name], rows).tolist())
        by_name = {group.name: group for group in groups}
        last = self.history - 1
        target = by_name[f"frame{last}"]
        aliases = (
            TokenGroup("target", target.indices, target.grid, target.box),
            TokenGroup(
                "history", tuple(i for s in range(last) for i in by_name[f"frame{s}"].indices)
            ),
            TokenGroup(
                "stripes", tuple(i for s in range(last) for i in by_name[f"sep{s}"].indices)
            ),
        )
        return TokenLayout(1 + self.num_patches, tuple(groups), aliases, coverage=fractions)

    def encoder_layout(self, kept: np.ndarray | None = None) -> TokenLayout:
        """Layout of an encoder record: queries and keys are CLS and the patches `kept`."""
        patches = self.visible_patches() if kept is None else np.asarray(kept)
        tokens = (0, *(int(i) + 1 for i in patches))
        return dataclasses.replace(self.layout, queries=tokens, keys=tokens)

    def decoder_layout(self, queries: np.ndarray | None = None) -> TokenLayout:
        """Layout of a decoder record; `queries` are patches when only masked ones were queried."""
        if queries is None:
            return self.layout
        return dataclasses.replace(self.layout, queries=tuple(int(i) + 1 for i in queries))


def patchify(images, patch: int):
    """Cuts (..., h, w, c) into (..., gh * gw, patch * patch * c), raster order; NumPy or JAX."""
    *lead, height, width, channels = images.shape
    gh, gw = height // patch, width // patch
    x = images.reshape(*lead, gh, patch, gw, patch, channels)
    n = len(lead)
    x = x.transpose(*range(n), n, n + 2, n + 1, n + 3, n + 4)
    return x.reshape(*lead, gh * gw, patch * patch * channels)


def unpatchify(patches, patch: int, grid: tuple[int, int]):
    """Inverse of `patchify`: (..., gh * gw, patch * patch * c) to (..., h, w, c); NumPy or JAX."""
    *lead, _, dim = patches.shape
    gh, gw = grid
    channels = dim // (patch * patch)
    x = patches.reshape(*lead, gh, gw, patch, patch, channels)
    n = len(lead)
    x = x.transpose(*range(n), n, n + 2, n + 1, n + 3, n + 4)
    return x.reshape(*lead, gh * patch, gw * patch, channels)
