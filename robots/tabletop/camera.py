"""Cameras without OpenGL: rays by `mujoco.mj_multiRay`, shaded with NumPy.

Rays cost most. Pixels that see the table's top with nothing near are computed without one, and so
is whether the lamp reaches them; that changes no pixel.

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
import itertools

import mujoco
import numpy as np

from attn_jax.core.errors import ConfigError
from attn_jax.core.typing import Bool, Float, Int, NumpyArray, UInt8

_LIGHT_M = np.array([0.35, -0.45, 1.1])  # a lamp to the left of the exterior camera
_AMBIENT, _DIFFUSE, _SHADOW = 0.45, 0.55, 0.72
_CHECK_M = 0.05  # side of the table's squares
_CHECK_SHADE = 0.93
_ON_TOP_M = 1e-6  # rounding of points on the table's top
_CELL_M = 0.01  # of the table, for telling where a shadow may fall
_NEAREST_M = 1e-6  # depth in front of which nothing is projected
_CORNERS = np.array([*itertools.product((-1.0, 1.0), repeat=3)])  # of a box; those that differ in
_EDGES = [(a, a | b) for b in (1, 2, 4) for a in range(8) if not a & b]  # one bit share an edge
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
        if not 1e-9 <= np.linalg.norm(np.cross(axis, self.up)) < np.inf:
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
    def slopes(self) -> tuple[Float[NumpyArray, "w"], Float[NumpyArray, "h"]]:
        """Of the rays in the camera's frame: x / z of every column and y / z of every row."""
        focal = self.intrinsics[0, 0]
        columns, rows = np.arange(self.width) + 0.5, np.arange(self.height) + 0.5
        return (columns - self.width / 2) / focal, (rows - self.height / 2) / focal

    def rays(self, rotation: Float[NumpyArray, "3 3"]) -> Float[NumpyArray, "h w 3"]:
        """Directions of all pixels with z = 1 in the camera's frame, turned by `rotation`."""
        x, y = self.slopes
        rays = np.empty((self.height, self.width, 3))
        for axis in range(3):  # NumPy is slow along an axis of 3
            across, down, along = rotation[axis]
            np.add(across * x, (down * y + along)[:, None], out=rays[..., axis])
        return rays


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
        # The table lies still in the world's frame.
        self._low, self._high = model.geom_pos[self._table] + np.outer(
            (-1, 1), model.geom_size[self._table]
        )
        self._top_m = float(self._high[2])
        # What can hide it or cast a shadow on it: everything with an extent. The floor is below.
        things = (model.geom_rbound > 0) & (np.arange(model.ngeom) != self._table)
        self._things = np.flatnonzero(things)
        # The middles of the square cells of its top.
        self._middles = [
            np.arange(low + _CELL_M / 2, high + _CELL_M / 2, _CELL_M)
            for low, high in zip(self._low[:2], self._high[:2], strict=True)
        ]
        rays = camera.height * camera.width
        self._geoms = np.empty(rays, np.int32)
        self._depth = np.empty(rays)
        self._normals = np.empty((rays, 3))
        # Column `geom + 1` of the palette; before them the sky, behind them dark squares.
        table = model.geom_rgba[self._table, :3]
        palette = np.vstack([_SKY, model.geom_rgba[:, :3], table * _CHECK_SHADE]) * 255
        self._palette = np.ascontiguousarray(palette.T, np.float32)

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
        rays = camera.rays(pose[:3, :3]).reshape(-1, 3)
        self._see(data, pose, rays)
        depth = np.maximum(self._depth, 0.0).astype(np.float32)  # -1 where a ray meets nothing
        points = _planes(rays)
        points *= depth
        points += origin.astype(np.float32)[:, None]
        return Picture(
            rgb=self._shade(data, points).reshape(*size, 3),
            depth_m=depth.reshape(size),
            geoms=self._geoms.reshape(size).copy(),
            points_m=_interleaved(points).reshape(*size, 3),
            pose=pose,
        )

    def _see(self, data, pose, rays) -> None:
        """Fills `_geoms`, `_depth` and `_normals` of all pixels."""
        origin = pose[:3, 3]
        reach = self._table_reach(origin, rays)
        others = np.flatnonzero(np.isnan(reach) | self._near(data, pose))
        self._geoms.fill(self._table)
        self._depth[:] = reach
        self._normals[:] = (0.0, 0.0, 1.0)
        if len(others):
            geoms, depth = np.empty(len(others), np.int32), np.empty(len(others))
            normals = np.empty((len(others), 3))
            self._cast(data, origin.copy(), rays[others], geoms, depth, normals)
            self._geoms[others], self._depth[others] = geoms, depth
            self._normals[others] = normals

    def _table_reach(self, origin, rays) -> Float[NumpyArray, "n"]:
        """Depth of the table's top on every ray, NaN where it meets the top nowhere."""
        height = self._top_m - origin[2]
        if height >= 0:
            return np.full(len(rays), np.nan)
        with np.errstate(divide="ignore", invalid="ignore"):
            reach = height / rays[:, 2]
            meets = reach > 0
            for axis in range(2):
                place = rays[:, axis] * reach
                low, high = self._low[axis] - origin[axis], self._high[axis] - origin[axis]
                meets &= (place > low) & (place < high)
        return np.where(meets, reach, np.nan)

    def _near(self, data, pose) -> Bool[NumpyArray, "n"]:
        """False only at pixels that can see none of the things.

        A thing lies in the rectangle around the picture of its bounding box: of the corners in
        front of the camera and of the points where edges pass its plane.
        """
        camera = self.camera
        model, things = self._model, self._things
        corners = model.geom_aabb[things, None, :3] + model.geom_aabb[things, None, 3:] * _CORNERS
        turn = data.geom_xmat[things].reshape(-1, 3, 3)
        corners = corners @ turn.swapaxes(1, 2) + data.geom_xpos[things, None]
        corners = (corners - pose[:3, 3]) @ pose[:3, :3]
        start, end = corners[:, _EDGES].swapaxes(0, 2)  # each edge, thing, 3
        with np.errstate(divide="ignore", invalid="ignore"):
            along = (_NEAREST_M - start[..., 2]) / (end[..., 2] - start[..., 2])
            passes = (along >= 0) & (along <= 1)
            cuts = start + along[..., None] * (end - start)
        points = np.concatenate([corners.swapaxes(0, 1), cuts])
        visible = np.concatenate([corners.swapaxes(0, 1)[..., 2] > _NEAREST_M, passes])
        near = np.zeros((camera.height, camera.width), np.bool_)
        focal, sizes = camera.intrinsics[0, 0], (camera.width, camera.height)
        windows = []
        for axis, size in enumerate(sizes):
            place = points[..., axis] / np.maximum(points[..., 2], _NEAREST_M) * focal + size / 2
            low = np.where(visible, place, np.inf).min(axis=0)
            high = np.where(visible, place, -np.inf).max(axis=0)
            # A pixel more on each side, for rounding.
            windows.append(np.clip([np.floor(low) - 1, np.ceil(high) + 1], 0, size).astype(int))
        (left, right), (top, bottom) = windows
        for x0, x1, y0, y1 in zip(left, right, top, bottom, strict=True):
            near[y0:y1, x0:x1] = True
        return near.reshape(-1)

    def _cast(self, data, origin, rays, geoms, depth, normals=None) -> None:
        """Shoots rays (n, 3); fills `geoms` (n), `depth` (n) and `normals` (n, 3)."""
        out = None if normals is None else normals.reshape(-1)
        mujoco.mj_multiRay(
            self._model,
            data,
            origin,
            rays.reshape(-1),
            None,
            True,
            -1,
            geoms,
            depth,
            out,
            len(rays),
            1e9,
        )

    def _shade(self, data, points) -> UInt8[NumpyArray, "hw 3"]:
        """Colours of `points` (3, n) in the light of the lamp."""
        table = self._geoms == self._table
        squares = [np.floor(plane * (1 / _CHECK_M)).astype(np.int32) for plane in points[:2]]
        rows = self._geoms + 1
        rows[table & ((squares[0] + squares[1]) & 1 == 1)] = self._model.ngeom + 1
        towards = _LIGHT_M.astype(np.float32)[:, None] - points
        light = np.sum(_planes(self._normals) * towards, axis=0)
        light /= np.sqrt(np.sum(towards * towards, axis=0))
        np.maximum(light, 0.0, out=light)
        light *= _DIFFUSE
        light += _AMBIENT
        light[self._geoms < 0] = 1.0
        if self._shadows:
            self._cast_shadows(data, points, table, light)
        return _interleaved((self._palette.take(rows, axis=1) * light).astype(np.uint8))

    def _cast_shadows(self, data, points, table, light) -> None:
        """Darkens `light` where something stands between the lamp and a point of the table."""
        maybe = np.flatnonzero(table & self._may_be_dark(data, points))
        if not len(maybe):
            return
        geoms, reach = np.empty(len(maybe), np.int32), np.empty(len(maybe))
        rays = np.ascontiguousarray((points[:, maybe] - _LIGHT_M[:, None]).T)
        self._cast(data, _LIGHT_M, rays, geoms, reach)
        light[maybe[geoms != self._table]] *= _SHADOW

    def _may_be_dark(self, data, points) -> Bool[NumpyArray, "n"]:
        """False only at points (3, n) of the table where no shadow can fall.

        Saves most of the second rays. It is found once for every cell of the table's top.
        """
        cells = self._dark_cells(data)
        index = [
            np.clip((plane - low) * (1 / _CELL_M), 0, count - 1).astype(np.int32)
            for plane, low, count in zip(
                points[:2], self._low.astype(np.float32), cells.shape, strict=False
            )
        ]
        dark = cells.ravel().take(index[0] * cells.shape[1] + index[1])
        return dark | (points[2] < self._top_m - _ON_TOP_M)

    def _dark_cells(self, data) -> Bool[NumpyArray, "r c"]:
        """The cells of the table's top that a shadow may touch.

        The shadow of a bounding sphere on the top is an ellipse; it lies in the circle around the
        shadow of the sphere's centre that reaches the ellipse's far end.
        """
        x, y = self._middles
        dark = np.zeros((len(x), len(y)), np.bool_)
        height = _LIGHT_M[2] - self._top_m
        down = _LIGHT_M - data.geom_xpos[self._things]
        radius = self._model.geom_rbound[self._things] + _ON_TOP_M
        distance = np.linalg.norm(down, axis=1)
        if (distance <= radius).any() or (down[:, 2] <= 0).any():
            return ~dark
        slope = np.arccos(down[:, 2] / distance)
        widest = slope + np.arcsin(radius / distance)
        if (widest >= np.pi / 2).any():
            return ~dark
        # A circle that touches a cell reaches its middle when it grows by half a diagonal; a little
        # more covers the rounding of points to float32.
        reach = height * (np.tan(widest) - np.tan(slope)) + _CELL_M * 0.75
        centre = _LIGHT_M - down * (height / down[:, 2:])
        for (u, v, _), r in zip(centre, reach, strict=True):
            dark |= (x[:, None] - u) ** 2 + (y - v) ** 2 <= r * r
        return dark


def _planes(array: Float[NumpyArray, "n 3"]) -> Float[NumpyArray, "3 n"]:
    """As float32 with every component in one piece; NumPy is slow along an axis of 3."""
    out = np.empty((3, len(array)), np.float32)
    for axis in range(3):
        out[axis] = array[:, axis]
    return out


def _interleaved(planes: NumpyArray) -> NumpyArray:
    """(3, n) as (n, 3)."""
    out = np.empty((planes.shape[1], 3), planes.dtype)
    for axis in range(3):
        out[:, axis] = planes[axis]
    return out
