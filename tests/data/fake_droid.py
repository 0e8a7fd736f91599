"""A small made-up recording in the DROID layout: smooth pictures, two objects that move.

folder = save_droid(tmp_path, success=True)
"""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np

from attn_jax.data.droid_files import Trajectory
from attn_jax.data.droid_writer import droid_folder, write_droid

SIZE = (36, 64)
FRAMES, ROWS = 19, 17  # frames outnumber rows
PROMPT = "put the duck toy in the bowl"


def trajectory(rows: int = ROWS, seed: int = 0) -> Trajectory:
    """Random numbers that float32 holds exactly."""
    rng = np.random.default_rng(seed)

    def numbers(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32).astype(np.float64)

    return Trajectory(numbers(rows, 7), numbers(rows), numbers(rows, 7), numbers(rows))


def pictures(frames: int = FRAMES, size: tuple[int, int] = SIZE, seed: int = 0) -> np.ndarray:
    """(t, h, w, 3): two ramps, and a level that grows with the frame."""
    out = np.zeros((frames, *size, 3), np.uint8)
    out[..., 0] = (np.arange(frames) * 200 // max(frames, 2) + seed)[:, None, None]
    out[..., 1] = np.linspace(0, 255, size[0])[:, None]
    out[..., 2] = np.linspace(0, 255, size[1])
    return out


def object_masks(frames: int = FRAMES, size: tuple[int, int] = SIZE) -> dict[str, np.ndarray]:
    """A duck that moves right and leaves the picture in the last frames, and a bowl at rest."""
    duck, bowl = np.zeros((2, frames, *size), np.bool_)
    for frame in range(frames):
        duck[frame, 4:12, 4 * frame : 4 * frame + 8] = True
    bowl[:, 20:30, 40:60] = True
    return {"duck toy": duck, "bowl": bowl}


def save_droid(root: pathlib.Path, *, success: bool = True, number: int = 0, **options: Any):
    """Writes a recording; options as of `write_droid`. Returns its folder."""
    folder = droid_folder(
        root, success=success, date="2025-12-10", name=f"2025-12-10_12-34-{number:02d}"
    )
    given: dict[str, Any] = {
        "prompt": PROMPT,
        "frames": {"wrist": pictures(), "left": pictures(seed=50)},
        "trajectory": trajectory(),
        "masks": object_masks(),
    }
    write_droid(folder, **(given | options))
    return folder
