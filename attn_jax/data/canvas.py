"""Canvas builder: K frames side by side on black, separated by stripes whose colour is the action.

Axis names: h w of a frame, H W of a canvas (see `attn_jax.core.canvas.CanvasGeometry`). Everything
is uint8 RGB. Source of the rules: the canvas format of the developmental-robot world model.

    geometry = CanvasGeometry(frame_size=(64, 64))
    canvas = build_canvas(frames, [{"action": 0}, {"action": 1}], geometry)      # (64, 224, 3)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from attn_jax.core.canvas import CanvasGeometry
from attn_jax.core.errors import SessionError
from attn_jax.core.typing import UInt8

Action = Mapping[str, Any]

_DISCRETE = {0: (255, 0, 0), 1: (0, 255, 0), 2: (0, 0, 255)}
_UNKNOWN = (255, 255, 0)
_FULL_MOTOR = 0.12


def stripe_colour(action: Action, strict: bool = True) -> tuple[int, int, int]:
    """RGB colour of the stripe that stands for `action`.

    `motor_right` is looked at first: red at 0, green at 0.12, mixed linearly between and clamped
    outside. Otherwise `action` 0, 1, 2 is red, green, blue. `duration` and `motor_left` do not
    show.

    Args:
      action: one action as recorded.
      strict: raise on an action without a colour; otherwise it is yellow, as in foreign recordings.

    Raises:
      SessionError: `strict` and the action has no colour.
    """
    speed, code = action.get("motor_right"), action.get("action")
    if "motor_right" in action:
        # What is no number, NaN included, has no colour.
        if isinstance(speed, (int, float, np.number)) and -math.inf <= speed <= math.inf:
            share = min(max(speed, 0.0), _FULL_MOTOR) / _FULL_MOTOR
            return int(255 * (1 - share)), int(255 * share), 0
    elif isinstance(code, (int, float, np.number)) and code in _DISCRETE:
        return _DISCRETE[int(code)]
    if strict:
        raise SessionError(
            f"action {dict(action)} has no stripe colour",
            fix="Stripes show `motor_right` or `action` 0, 1, 2; strict=False draws others yellow",
        )
    return _UNKNOWN


def to_frame(image: np.ndarray, frame_size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """One RGB picture as a uint8 frame of `frame_size` (height, width).

    A float picture is clipped to [0, 1], multiplied by 255 and truncated. A picture of another size
    is resized with Pillow's LANCZOS filter; one of the right size keeps its bytes.

    Raises:
      SessionError: the picture is not (h, w, 3).
    """
    if image.ndim != 3 or image.shape[-1] != 3:
        raise SessionError(f"a frame must be (height, width, 3), got shape {image.shape}")
    if np.issubdtype(image.dtype, np.floating):
        image = (np.clip(image, 0.0, 1.0) * 255).astype(np.uint8)
    if image.dtype != np.uint8:
        raise SessionError(f"a frame must be uint8 or floating point, got {image.dtype}")
    height, width = frame_size
    if image.shape[:2] != (height, width):
        resized = Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS)
        image = np.asarray(resized)
    return image


def build_canvas(
    frames: Sequence[np.ndarray],
    actions: Sequence[Action],
    geometry: CanvasGeometry,
    strict: bool = True,
) -> UInt8[np.ndarray, "H W 3"]:
    """Lays frames and action stripes side by side.

    Args:
      frames: K = `geometry.history` pictures, oldest first; with K - 1 the last slot, the frame to
        predict, stays black.
      actions: the K - 1 actions taken after each of the first K - 1 frames.
      geometry: sizes of the canvas.
      strict: see `stripe_colour`.

    Raises:
      SessionError: wrong number of frames or actions, a bad picture or an unknown action.
    """
    history = geometry.history
    if len(frames) not in (history - 1, history) or len(actions) != history - 1:
        raise SessionError(
            f"a canvas takes {history} frames (or {history - 1} to predict the last) and "
            f"{history - 1} actions, got {len(frames)} and {len(actions)}"
        )
    canvas = np.zeros((*geometry.canvas_size, 3), np.uint8)
    for slot, frame in enumerate(frames):
        start, stop = geometry.frame_columns(slot)
        canvas[:, start:stop] = to_frame(np.asarray(frame), geometry.frame_size)
    for number, action in enumerate(actions):
        start, stop = geometry.separator_columns(number)
        canvas[:, start:stop] = stripe_colour(action, strict)
    return canvas
