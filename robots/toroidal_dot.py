"""Toroidal dot: a white disc on black that moves right around the edges, or stays.

The smallest world that a world model can be judged in, because the true next frame of every action
is known. Pixels are counted from the top left corner: x to the right, y down, both modulo the
frame's size. Axis names: h w of a frame (h == w == size).

    robot = ToroidalDot(DotConfig.of_size(64), seed=0)
    frame = robot.get_observation()                 # (64, 64, 3) uint8
    robot.execute_action({"action": 1})             # x moves by 7 pixels
    fit = locate_dot(robot.get_observation(), radius=5)
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy

from attn_jax.core.errors import ConfigError
from attn_jax.core.typing import Float, Int, UInt8
from robots.interface import RobotError

STAY = 0
MOVE = 1
ACTION_SPACE = ({"action": STAY}, {"action": MOVE})

#: Size -> move of the standard worlds: coprime, so that the dot visits every column.
STANDARD_MOVES = {224: 27, 112: 13, 64: 7}


@dataclasses.dataclass(frozen=True)
class DotConfig:
    """Sizes of the world, pixels.

    Attributes:
      size: side of the square frame.
      move: how far action 1 moves the dot to the right.
      radius: the disc holds all pixels with dx^2 + dy^2 <= radius^2; 5 gives 81 pixels.

    Raises:
      ConfigError: the disc does not fit, or the move is no move.
    """

    size: int = 224
    move: int = 27
    radius: int = 5

    def __post_init__(self):
        if self.radius < 0 or 2 * self.radius + 1 > self.size or not 0 < self.move < self.size:
            raise ConfigError(
                f"a dot of radius {self.radius} moving {self.move} pixels does not fit a frame of "
                f"{self.size} pixels",
                fix="Keep 2 * radius + 1 <= size and 0 < move < size",
            )

    @classmethod
    def of_size(cls, size: int) -> DotConfig:
        """The standard world of 224, 112 or 64 pixels; raises ConfigError for another size."""
        if size not in STANDARD_MOVES:
            raise ConfigError(
                f"no standard toroidal dot of {size} pixels",
                fix=f"Use one of {sorted(STANDARD_MOVES)}, or override size and move of one",
            )
        return cls(size=size, move=STANDARD_MOVES[size])

    @classmethod
    def from_meta(cls, robot: Mapping[str, Any]) -> DotConfig:
        """The inverse of `dataclasses.asdict`, for what a session's metadata hold as `robot`.

        Raises:
          ConfigError: a field is missing, unknown or no whole number, or the sizes do not fit.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        if set(robot) != set(names) or any(type(value) is not int for value in robot.values()):
            raise ConfigError(
                f"a toroidal dot has {', '.join(names)} in whole pixels, got {dict(robot)}"
            )
        return cls(**robot)


@dataclasses.dataclass(frozen=True)
class DotFit:
    """Where dots are; arrays with the leading axes of the pictures.

    Attributes:
      x, y: pixel coordinates of the centre, int64.
      brightness: mean brightness inside the matched disc, 0 to 1, float32; near 0 there is no dot.
    """

    x: Int[np.ndarray, "..."]
    y: Int[np.ndarray, "..."]
    brightness: Float[np.ndarray, "..."]


def disc(size: int, radius: int) -> np.ndarray:
    """(size, size) bool, True inside a disc centred at pixel (0, 0) of the torus."""
    offset = np.arange(size)
    distance = np.minimum(offset, size - offset) ** 2
    return distance[:, None] + distance[None, :] <= radius**2


def render(x: int, y: int, config: DotConfig) -> UInt8[np.ndarray, "h w 3"]:
    """Frame with the dot centred at (x, y), drawn around the edges."""
    mask = np.roll(disc(config.size, config.radius), (y, x), axis=(0, 1))
    return np.repeat(np.where(mask, 255, 0).astype(np.uint8)[..., None], 3, axis=-1)


def step(x: int, action: Mapping[str, Any], config: DotConfig) -> int:
    """New x after the action; y never changes.

    Raises:
      RobotError: the action is not in the action space.
    """
    if dict(action) not in ACTION_SPACE:
        raise RobotError(
            f"unknown action {dict(action)}", fix=f"The toroidal dot knows {list(ACTION_SPACE)}"
        )
    return (x + config.move) % config.size if action["action"] == MOVE else x


def locate_dot(images: np.ndarray, radius: int) -> DotFit:
    """Best match of a disc in each picture, found by correlation on the torus.

    The position is exact for a clean frame and robust against noise, because every pixel of the
    disc has a say.

    Args:
      images: (..., h, w, 3), uint8 or floating point with white as 1. Values outside [0, 1] are
        clipped.
      radius: of the disc, pixels.
    """
    brightness = images.astype(np.float32).mean(axis=-1)
    if images.dtype == np.uint8:
        brightness /= 255
    brightness = np.clip(brightness, 0, 1)
    height, width = brightness.shape[-2:]
    rows, columns = np.arange(height), np.arange(width)
    distance = (
        np.minimum(rows, height - rows)[:, None] ** 2
        + np.minimum(columns, width - columns)[None, :] ** 2
    )
    template = (distance <= radius**2).astype(np.float32)
    spectrum = scipy.fft.rfft2(brightness) * np.conj(scipy.fft.rfft2(template))
    score = scipy.fft.irfft2(spectrum, s=(height, width))
    flat = score.reshape(*score.shape[:-2], height * width)
    best = flat.argmax(axis=-1)
    peak = np.take_along_axis(flat, np.asarray(best)[..., None], axis=-1)[..., 0]
    return DotFit(
        x=np.asarray(best % width),
        y=np.asarray(best // width),
        brightness=np.asarray(peak / template.sum(), dtype=np.float32),
    )


def toroidal_distance(
    x1: np.ndarray | int,
    y1: np.ndarray | int,
    x2: np.ndarray | int,
    y2: np.ndarray | int,
    size: int,
) -> np.ndarray:
    """Length in pixels of the shortest way from (x1, y1) to (x2, y2) on a torus of side `size`."""
    dx = np.abs(np.asarray(x1) - np.asarray(x2)) % size
    dy = np.abs(np.asarray(y1) - np.asarray(y2)) % size
    return np.hypot(np.minimum(dx, size - dx), np.minimum(dy, size - dy))


class ToroidalDot:
    """The simulated robot.

    Args:
      config: sizes.
      seed: of the start positions: x, then y, of every episode, from
        `numpy.random.RandomState(seed)`.
      initial_x: fixed start instead, pixels.
      initial_y: the same for y.
      delay_s: pause after every action, seconds.

    Raises:
      ConfigError: the seed is outside [0, 2**32), or the delay is negative or not finite.
    """

    def __init__(
        self,
        config: DotConfig | None = None,
        *,
        seed: int = 0,
        initial_x: int | None = None,
        initial_y: int | None = None,
        delay_s: float = 0.0,
    ):
        if not 0 <= seed < 2**32:
            raise ConfigError(f"the seed of a toroidal dot lies in [0, 2**32), got {seed}")
        if not 0 <= delay_s < math.inf:
            raise ConfigError(f"delay_s must be finite and at least 0 seconds, got {delay_s}")
        self.config = config or DotConfig()
        self._random = np.random.RandomState(seed)
        self._initial = (initial_x, initial_y)
        self._delay_s = delay_s
        self.x = 0
        self.y = 0
        self.new_episode()

    @property
    def action_space(self) -> list[dict[str, Any]]:
        """Stay and move."""
        return [dict(action) for action in ACTION_SPACE]

    def new_episode(self) -> None:
        """Places the dot anew."""
        size = self.config.size
        drawn = (int(self._random.randint(0, size)), int(self._random.randint(0, size)))
        chosen = zip(self._initial, drawn, strict=True)
        self.x, self.y = (random if fixed is None else fixed % size for fixed, random in chosen)

    def get_observation(self) -> UInt8[np.ndarray, "h w 3"]:
        """The current frame."""
        return render(self.x, self.y, self.config)

    def execute_action(self, action: Mapping[str, Any]) -> bool:
        """Moves or stays; always works. Raises RobotError for an unknown action."""
        self.x = step(self.x, action, self.config)
        if self._delay_s:
            time.sleep(self._delay_s)
        return True

    def cleanup(self) -> None:
        """Nothing to release."""
