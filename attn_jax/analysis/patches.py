"""Choosing patches to look at: by brightness of the picture, or by numbers typed by a user.

Patches are numbered in raster order within their own picture (a frame, a camera), never within the
token sequence; `frame_tokens` turns them into tokens by the layout.

    chosen = bright_patches(frame, grid=(4, 4))
    tokens = frame_tokens(layout, "target", chosen)
"""

from __future__ import annotations

import re

import numpy as np

from attn_jax.core import geometry
from attn_jax.core.errors import ConfigError
from attn_jax.core.layout import TokenLayout
from attn_jax.core.typing import Int, NumpyArray, UInt8

_ITEM = re.compile(r"(\d+)(?:-(\d+))?")


def bright_patches(
    frame: UInt8[NumpyArray, "h w c"],
    grid: tuple[int, int],
    *,
    floor: float = 0.05,
    relative: float = 0.25,
) -> Int[NumpyArray, "n"]:
    """Patches with a bright object in them, raster order.

    A patch counts when its mean brightness (0 black, 1 white) is at least `floor` and at least
    `relative` of the brightest patch, so an object that is cut by patch borders is still found.

    Returns:
      Raster numbers; empty when nothing reaches the floor.
    """
    level = geometry.coverage(frame.astype(np.float64).mean(-1) / 255.0, grid).ravel()
    return np.flatnonzero((level >= floor) & (level >= relative * level.max()))


def parse_patches(text: str, count: int) -> Int[NumpyArray, "n"]:
    """Reads a list such as `0,5,8-10` of patches of a picture with `count` patches; sorted, unique.

    Raises:
      ConfigError: when the text is not such a list or a number is out of range.
    """
    chosen: set[int] = set()
    for item in text.split(","):
        match = _ITEM.fullmatch(item.strip())
        if match is None:
            raise ConfigError(f"cannot read patch list {text!r}", fix="Write it like 0,5,8-10")
        first = int(match[1])
        last = int(match[2] or first)
        if last < first or last >= count:
            raise ConfigError(f"patches {item.strip()} are outside 0..{count - 1}")
        chosen.update(range(first, last + 1))
    return np.array(sorted(chosen), np.int64)


def frame_tokens(
    layout: TokenLayout, name: str, patches: Int[NumpyArray, "n"]
) -> Int[NumpyArray, "n"]:
    """Tokens of patches of one picture group.

    Raises:
      ConfigError: when a patch is out of range.
    """
    tokens = layout.tokens(name)
    if len(patches) and not 0 <= int(patches.min()) <= int(patches.max()) < len(tokens):
        raise ConfigError(
            f"{name!r} has patches 0..{len(tokens) - 1}, asked for {patches.tolist()}"
        )
    return tokens[patches]
