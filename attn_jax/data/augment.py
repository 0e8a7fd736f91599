"""Augmentation of canvases, applied to frames before stripes are drawn.

`toroidal_shift` rolls all frames of a canvas by one random (dy, dx). It is only true to worlds
without borders, such as the toroidal dot, where a shifted recording is another possible recording.
The shift of a sample depends on the seed and on the sample's position in the stream, nothing else,
so a resumed run sees the same shifts.

    shifts = draw_shifts("toroidal_shift", seed=0, positions=np.arange(8), frame_size=(64, 64))
    frames = roll_frames(frames, shifts[0])
"""

from __future__ import annotations

import numpy as np

from attn_jax.core.errors import ConfigError
from attn_jax.core.typing import Int, UInt8

AUGMENTATIONS = ("toroidal_shift",)

_STREAM = 2  # keeps these draws apart from the sampler's, which use the same seed


def check_augmentation(name: str | None) -> None:
    """Raises ConfigError unless `name` is None or known."""
    if name is not None and name not in AUGMENTATIONS:
        raise ConfigError(
            f"unknown augmentation {name!r}", fix=f"Use None or one of {', '.join(AUGMENTATIONS)}"
        )


def draw_shifts(
    name: str | None, seed: int, positions: Int[np.ndarray, " b"], frame_size: tuple[int, int]
) -> Int[np.ndarray, "b 2"]:
    """(dy, dx) in pixels for the samples at `positions` of the stream; zeros when `name` is None.

    Uniform over the whole frame. Raises ConfigError for an unknown name.
    """
    check_augmentation(name)
    shifts = np.zeros((len(positions), 2), np.int64)
    if name is not None:
        for row, position in enumerate(positions):
            generator = np.random.default_rng([seed, _STREAM, int(position)])
            shifts[row] = generator.integers(0, frame_size)
    return shifts


def roll_frames(
    frames: UInt8[np.ndarray, "... h w 3"], shift: Int[np.ndarray, "2"]
) -> UInt8[np.ndarray, "... h w 3"]:
    """Rolls pictures down by dy and right by dx pixels, around the edges."""
    return np.roll(frames, (int(shift[0]), int(shift[1])), axis=(-3, -2))
