"""Calibrated cameras: where a point of one picture lies in the picture of another camera.

A camera's frame is OpenCV's: x right, y down, z forward, metres. Points of a picture are (y, x),
pixels indexed by their centres as in `geometry`, so the optical axis of a picture h pixels high
passes row h / 2 - 0.5, and cy of the intrinsics is h / 2. A mirrored picture has a negative focal
length.

Axis names: n moments, h w pixels, p points.

    front = Calibration(depth_m, pose, intrinsics)
    points_in(wrist, front, points)             # (n, p, 2), NaN where `front` does not see them
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from attn_jax.core.typing import Float, NumpyArray

#: What lies so much further away than what the other camera sees there is hidden by it: a share of
#: the distance, as slanted surfaces differ by within a pixel, and metres, as half precision does.
_HIDDEN_SHARE, _HIDDEN_M = 0.03, 0.005


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """A camera at some moments.

    Attributes:
      depth_m: (n, h, w) floating, along the optical axis; 0 where nothing was seen.
      pose: (n, 4, 4) camera to world.
      intrinsics: (3, 3), pixels: [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], edges counted from 0.
    """

    depth_m: NumpyArray
    pose: NumpyArray
    intrinsics: NumpyArray

    def at(self, moments: NumpyArray) -> Calibration:
        """Some of the moments, by number."""
        return Calibration(self.depth_m[moments], self.pose[moments], self.intrinsics)


def joined(parts: Sequence[Calibration]) -> Calibration:
    """One camera at the moments of all parts; the intrinsics are those of the first."""
    return Calibration(
        np.concatenate([part.depth_m for part in parts]),
        np.concatenate([part.pose for part in parts]),
        parts[0].intrinsics,
    )


def unproject(
    depth_m: Float[NumpyArray, "n h w"],
    pose: Float[NumpyArray, "n 4 4"],
    intrinsics: Float[NumpyArray, "3 3"],
) -> Float[NumpyArray, "n h w 3"]:
    """Points in the world of every pixel, metres; the optical centre where depth is 0."""
    rows, columns = np.mgrid[0 : depth_m.shape[1], 0 : depth_m.shape[2]]
    rays = _rays(np.stack([rows, columns], -1), intrinsics)
    return _to_world(rays * depth_m[..., None], pose)


def points_in(
    source: Calibration, other: Calibration, points: Float[NumpyArray, "*p 2"]
) -> Float[NumpyArray, "n *p 2"]:
    """Where points of one camera's picture lie in that of another, at every moment.

    Args:
      source: the camera that the points are of.
      other: the other camera at the same moments.
      points: (y, x) in the picture of `source`, pixels.

    Returns:
      (y, x) in the picture of `other`, pixels. NaN where a point is outside of either picture,
      where `source` sees nothing, or where something nearer to `other` hides it.
    """
    flat = points.reshape(-1, 2)
    depth, inside = _look_up(source.depth_m, np.broadcast_to(flat, (len(source.pose), *flat.shape)))
    world = _to_world(_rays(flat, source.intrinsics) * depth[..., None], source.pose)
    turn, centre = other.pose[:, :3, :3], other.pose[:, None, :3, 3]
    seen = np.einsum("nij,npi->npj", turn, world - centre)
    distance = seen[..., 2]
    in_front = inside & (depth > 0) & np.isfinite(depth) & (distance > 0)
    pixels = seen @ other.intrinsics.T / np.where(in_front, distance, 1.0)[..., None]
    found = pixels[..., 1::-1] - 0.5
    nearest, inside = _look_up(other.depth_m, found)
    hidden = (nearest > 0) & (distance > nearest * (1 + _HIDDEN_SHARE) + _HIDDEN_M)
    found = np.where((in_front & inside & ~hidden)[..., None], found, np.nan)
    return found.reshape(len(source.pose), *points.shape)


def _rays(points: NumpyArray, intrinsics: Float[NumpyArray, "3 3"]) -> Float[NumpyArray, "*p 3"]:
    """Directions of points of a picture in the camera's frame, with z = 1."""
    y, x = points[..., 0] + 0.5, points[..., 1] + 0.5
    return np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(intrinsics).T


def _to_world(
    points: Float[NumpyArray, "n *p 3"], pose: Float[NumpyArray, "n 4 4"]
) -> Float[NumpyArray, "n *p 3"]:
    centre = pose[:, :3, 3].reshape(len(pose), *[1] * (points.ndim - 2), 3)
    return np.einsum("nij,n...j->n...i", pose[:, :3, :3], points) + centre


def _look_up(
    depth_m: NumpyArray, points: Float[NumpyArray, "n p 2"]
) -> tuple[Float[NumpyArray, "n p"], NumpyArray]:
    """Depth at the pixels that hold points, metres, and which points are inside of the picture."""
    height, width = depth_m.shape[1:]
    pixels = np.floor(points + 0.5)
    inside = np.all((pixels >= 0) & (pixels < [height, width]), axis=-1, keepdims=True)
    row, column = np.where(inside, pixels, 0).astype(np.int64).transpose(2, 0, 1)
    moment = np.arange(len(depth_m))[:, None]
    return depth_m[moment, row, column].astype(np.float64), inside[..., 0]
