"""Cameras without OpenGL: one ray per pixel by `mujoco.mj_multiRay`, shaded with NumPy.

A camera's frame is OpenCV's: x right, y down, z along the optical axis. A pinhole picture of h x w
pixels has fx = fy = h / (2 tan(fovy / 2)) and its principal point at (w / 2, h / 2), pixel edges
counted from 0, so that the ray of pixel (i, j) goes through (j + 0.5, i + 0.5). Depth is along the
optical axis, metres. Axis names: h w pixels.

    picture = Renderer(model, FRONT).render(data)
    picture.rgb, picture.depth_m, picture.geoms, picture.points_m
"""

from __future__ import annotations

import dataclasses
import functools

import mujoco
import numpy as np

from attn_jax.core.errors import ConfigError
from attn_jax.core.typing import Bool, Float, Int, NumpyArray, UInt8

_LIGHT_M = np.array([0.35, -0.45, 1.1])  # a lamp to the left of the exterior camera
_AMBIENT, _DIFFUSE, _SHADOW = 0.45, 0.55, 0.72
_CHECK_M = 0.05  # side of the table's squares
_CHECK_SHADE = 0.93
_ON_TOP_M = 1e-6  # rounding of points on the table's top
_SKY = (0.75, 0.80, 0.88)


@dataclasses.dataclass(frozen=True)
class Camera:
    """A pinhole camera.

    Attributes:
      name: key of its pictures; letters, digits and underscores.
      position, look_at: of the optical centre and of a point on the optical axis, metres, in the
        world's frame or, when mounted, the hand's.
      up: direction that is up in the picture, same frame.
      fovy_deg: vertical field of view.
      mounted: it moves with the hand.
      height, width: of the picture, pixels.

    Raises:
      ConfigError: a size, angle, name or direction that makes no picture.
    """

    name: str
    position: tuple[float, float, float]
    look_at: tuple[float, float, float]
    up: tuple[float, float, float] = (0.0, 0.0, 1.0)
    fovy_deg: float = 45.0
    mounted: bool = False
    height: int = 64
    width: int = 64

    def __post_init__(self):
        where = f"camera {self.name!r}"
        if not self.name.isidentifier():
            raise ConfigError("name is not made of letters, digits and underscores", where=where)
        if self.height < 1 or self.width < 1 or not 0 < self.fovy_deg < 180:
            raise ConfigError(
                f"no picture of {self.height} x {self.width} pixels and {self.fovy_deg} degrees",
                where=where,
                fix="Use positive sizes and an angle between 0 and 180",
            )
        axis = np.subtract(self.look_at, self.position)
        if np.linalg.norm(np.cross(axis, self.up)) < 1e-9:
            raise ConfigError(
                "looks along its own up direction, or at itself", where=where, fix="Change `up`"
            )

    def of_size(self, height: int, width: int) -> Camera:
        """The same camera with pictures of another size, pixels."""
        return dataclasses.replace(self, height=height, width=width)

    @functools.cached_property
    def intrinsics(self) -> Float[NumpyArray, "3 3"]:
        """[[f, 0, w / 2], [0, f, h / 2], [0, 0, 1]], pixels."""
        focal = 0.5 * self.height / np.tan(np.radians(self.fovy_deg) / 2)
        return np.array([[focal, 0, self.width / 2], [0, focal, self.height / 2], [0, 0, 1.0]])

    @functools.cached_property
    def mount_pose(self) -> Float[NumpyArray, "4 4"]:
        """Camera to world, or to the hand when mounted."""
        z = np.subtract(self.look_at, self.position)
        z = z / np.linalg.norm(z)
        x = np.cross(z, self.up)
        x = x / np.linalg.norm(x)
        pose = np.eye(4)
        pose[:3, :3] = np.stack([x, np.cross(z, x), z], axis=1)
        pose[:3, 3] = self.position
        return pose

    @functools.cached_property
    def directions(self) -> Float[NumpyArray, "hw 3"]:
        """Rays of all pixels in the camera's frame, row by row, with z = 1."""
        focal = self.intrinsics[0, 0]
        y, x = np.mgrid[0 : self.height, 0 : self.width] + 0.5
        rays = [(x - self.width / 2) / focal, (y - self.height / 2) / focal, np.ones_like(x)]
        return np.stack(rays, axis=-1).reshape(-1, 3)


#: Seen from the front edge of the table, half from above.
FRONT = Camera("front", (0.40, 0.0, 0.36), (-0.025, 0.0, 0.05), fovy_deg=37.0)
#: On the hand, looking down past the fingertips.
WRIST = Camera(
    "wrist", (0.075, 0.0, 0.105), (0.012, 0.0, -0.05), (-1.0, 0.0, 0.0), fovy_deg=80.0, mounted=True
)
#: From the left, and straight from above; for point clouds and for videos.
SIDE = Camera("side", (0.05, -0.48, 0.26), (0.0, 0.0, 0.03), fovy_deg=40.0)
TOP = Camera("top", (0.0, 0.0, 0.62), (0.0, 0.0, 0.0), (-1.0, 0.0, 0.0), fovy_deg=36.0)
CAMERAS = {camera.name: camera for camera in (FRONT, WRIST, SIDE, TOP)}


@dataclasses.dataclass(frozen=True, eq=False)
class Picture:
    """What a camera sees.

    Attributes:
      rgb: shaded picture.
      depth_m: along the optical axis; 0 where a ray meets nothing.
      geoms: id of the MuJoCo geom in every pixel; -1 for none.
      points_m: point in the world of every pixel; the optical centre where a ray meets nothing.
      pose: camera to world.
    """

    rgb: UInt8[NumpyArray, "h w 3"]
    depth_m: Float[NumpyArray, "h w"]
    geoms: Int[NumpyArray, "h w"]
    points_m: Float[NumpyArray, "h w 3"]
    pose: Float[NumpyArray, "4 4"]


class Renderer:
    """Renders one model with one camera; keeps its buffers.

    Args:
      model: a compiled scene.
      camera: what to see it with.
      shadows: cast shadows on the table, at the price of a second ray for its pixels.
    """

    def __init__(self, model: mujoco.MjModel, camera: Camera, *, shadows: bool = True):
        self.camera = camera
        self._model = model
        self._shadows = shadows
        self._hand = model.body("hand").id
        self._table = model.geom("table").id
        top = model.geom_pos[self._table, 2] + model.geom_size[self._table, 2]
        self._top_m = float(top)  # the table lies still in the world's frame
        # What can cast a shadow on it: everything with an extent, above it.
        casts = (model.geom_rbound > 0) & (np.arange(model.ngeom) != self._table)
        self._casts = np.flatnonzero(casts)
        rays = camera.height * camera.width
        self._geoms = np.empty(rays, np.int32)
        self._depth = np.empty(rays)
        self._normals = np.empty(3 * rays)
        # Column `geom` of the palette; behind them the table's dark squares, and -1: the sky.
        table = model.geom_rgba[self._table, :3]
        self._palette = np.vstack([model.geom_rgba[:, :3], table * _CHECK_SHADE, _SKY]) * 255
        self._palette = np.ascontiguousarray(self._palette.T, np.float32)

    def pose(self, data: mujoco.MjData) -> Float[NumpyArray, "4 4"]:
        """Camera to world now."""
        if not self.camera.mounted:
            return self.camera.mount_pose
        hand = np.eye(4)
        hand[:3, :3] = data.xmat[self._hand].reshape(3, 3)
        hand[:3, 3] = data.xpos[self._hand]
        return hand @ self.camera.mount_pose

    def render(self, data: mujoco.MjData) -> Picture:
        """Sees the scene in its current state; `data` must be forwarded."""
        camera = self.camera
        size = camera.height, camera.width
        pose = self.pose(data)
        origin = pose[:3, 3].copy()
        rays = camera.directions @ pose[:3, :3].T
        self._cast(data, origin, rays, self._geoms, self._depth, self._normals)
        hit = self._geoms >= 0
        depth = np.where(hit, self._depth, 0.0)
        # (3, n): NumPy is slow along an axis of 3.
        points = origin[:, None] + np.ascontiguousarray(rays.T) * depth
        rgb = self._shade(data, points, hit)
        return Picture(
            rgb=rgb.reshape(*size, 3),
            depth_m=depth.astype(np.float32).reshape(size),
            geoms=self._geoms.reshape(size).copy(),
            points_m=np.ascontiguousarray(points.astype(np.float32).T).reshape(*size, 3),
            pose=pose,
        )

    def _cast(self, data, origin, rays, geoms, depth, normals=None) -> None:
        flat = np.ascontiguousarray(rays).reshape(-1)
        mujoco.mj_multiRay(
            self._model, data, origin, flat, None, True, -1, geoms, depth, normals, len(rays), 1e9
        )

    def _shade(self, data, points, hit) -> UInt8[NumpyArray, "hw 3"]:
        """Colours of `points` (3, n) in the light of the lamp."""
        rows = self._geoms.copy()
        table = np.flatnonzero(rows == self._table)
        on_table = points[:, table]
        squares = np.floor(on_table[:2] * (1 / _CHECK_M)).astype(np.int32)
        rows[table[(squares[0] + squares[1]) & 1 == 1]] = self._model.ngeom
        towards = (_LIGHT_M[:, None] - points).astype(np.float32)
        normals = self._normals.reshape(-1, 3).T.astype(np.float32, order="C")
        cosine = np.sum(normals * towards, axis=0) / np.sqrt(np.sum(towards * towards, axis=0))
        light = _AMBIENT + _DIFFUSE * np.maximum(cosine, 0.0)
        light[~hit] = 1.0
        if self._shadows and len(table):
            light[table] *= self._shadow(data, on_table)
        rgb = (self._palette[:, rows] * light).astype(np.uint8)
        return np.ascontiguousarray(rgb.T)

    def _shadow(self, data, points) -> Float[NumpyArray, "n"]:
        """_SHADOW where something stands between the lamp and a point (3, n), else 1."""
        light = np.ones(points.shape[1], np.float32)
        maybe = np.flatnonzero(self._may_be_dark(data, points))
        if len(maybe):
            geoms, reach = np.empty(len(maybe), np.int32), np.empty(len(maybe))
            self._cast(data, _LIGHT_M, points[:, maybe].T - _LIGHT_M, geoms, reach)
            light[maybe[geoms != self._table]] = _SHADOW
        return light

    def _may_be_dark(self, data, points) -> Bool[NumpyArray, "n"]:
        """False only where no shadow can fall; saves most of the second rays.

        The shadow of a bounding sphere on the table's top is an ellipse; it lies in the circle
        around the shadow of the sphere's centre that reaches the ellipse's far end.
        """
        x, y, z = points
        maybe = z < self._top_m - _ON_TOP_M
        height = _LIGHT_M[2] - self._top_m
        for geom in self._casts:
            down = _LIGHT_M - data.geom_xpos[geom]
            radius = self._model.geom_rbound[geom] + _ON_TOP_M
            distance = np.linalg.norm(down)
            if distance <= radius or down[2] <= 0:
                return np.ones(points.shape[1], np.bool_)
            slope = np.arccos(down[2] / distance)
            widest = slope + np.arcsin(radius / distance)
            if widest >= np.pi / 2:
                return np.ones(points.shape[1], np.bool_)
            reach = height * (np.tan(widest) - np.tan(slope))
            centre = _LIGHT_M - down * (height / down[2])
            maybe |= (x - centre[0]) ** 2 + (y - centre[1]) ** 2 <= reach**2
        return maybe
