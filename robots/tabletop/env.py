"""Gymnasium environment of the tabletop.

An action is (7,) in [-1, 1] at 10 steps a second: translation of the hand's aim in the world (1 is
12 mm), turn of the aim about the world's axes as a rotation vector (1 is 0.15 rad), and the gripper
(-1 open, 1 closed, in between an opening in proportion). The hand follows its aim within a step and
yields when it meets something; the aim never runs more than 12 mm or 0.15 rad ahead of it.

The state is (7,): hand position in the world, metres; its turn from pointing straight down as a
rotation vector in the world, radians; opening between the fingers, metres.

Axis names: h w pixels.

    env = TabletopEnv("pick", size=64)
    observation, info = env.reset(seed=0)
    observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces
from scipy.spatial.transform import Rotation

from attn_jax.core.errors import ConfigError
from attn_jax.core.typing import Float, Int, NumpyArray, UInt8
from robots.tabletop.camera import CAMERAS, Camera, Picture, Renderer
from robots.tabletop.scene import (
    BACKGROUND_ID,
    MAX_OPENING_M,
    ROBOT_ID,
    SHAPES,
    TIMESTEP_S,
    Scene,
)
from robots.tabletop.tasks import TaskConfig, is_whole

FPS = 10
STATE_NAMES = ("x", "y", "z", "turn_x", "turn_y", "turn_z", "opening")
ACTION_NAMES = ("dx", "dy", "dz", "dturn_x", "dturn_y", "dturn_z", "grip")
MOVE_M = 0.012
TURN_RAD = 0.15
#: Kinds of pictures: key prefix in the observation -> what it holds.
VIEWS = {
    "images": "RGB, (h, w, 3) uint8",
    "masks": "ids of things, (h, w) uint8",
    "depth": "metres along the optical axis, (h, w) float32",
    "points": "point in the world, metres, (h, w, 3) float32",
}
_SUBSTEPS = round(1 / FPS / TIMESTEP_S)
_AIM_LOW = np.array([-0.20, -0.22, 0.014])
_AIM_HIGH = np.array([0.20, 0.22, 0.26])
_HOLD_STEPS = 2  # for how many steps in a row the task must be fulfilled


class TabletopEnv(gymnasium.Env):
    """One task on the table; the same seed gives the same bytes.

    `info` of reset and step holds:
      objects: names of all things; id i + 1 in masks is objects[i].
      roles: name -> "target", "distractor", "place" or "other".
      is_success: the task has been fulfilled for two steps in a row; ends the episode.
      grasped: name of the thing between the fingers now, or None.
      lifted: name of the first thing that was held `TaskConfig.lift_m` above its rest (7 cm, in
        unplug 6), or None.
      positions: (o, 3) float64, origins of all things in the world, metres.
      task: the prompt. prompts: name -> prompt of the same scene with another target.
      seed: of this episode, or None.

    Args:
      task: name of a task with its defaults, or a TaskConfig.
      size: side of all pictures, pixels, or None to take each camera's own.
      cameras: names of CAMERAS or Camera values.
      views: which of VIEWS the observation holds.
      shadows: draw cast shadows.
      max_steps: an episode is cut off after so many; None for the task's own number.
      render_mode: None or "rgb_array" (all cameras side by side).

    Raises:
      ConfigError: an unknown name, two cameras of one name, or a bad size.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": FPS}  # noqa: RUF012

    def __init__(
        self,
        task: str | TaskConfig = "pick",
        *,
        size: int | None = 64,
        cameras: Sequence[str | Camera] = ("front", "wrist"),
        views: Sequence[str] = ("images", "masks"),
        shadows: bool = True,
        max_steps: int | None = None,
        render_mode: str | None = None,
    ):
        self.task = TaskConfig(task) if isinstance(task, str) else task
        self.cameras = tuple(_camera(camera, size) for camera in cameras)
        self.views = tuple(views)
        self.max_steps = self.task.max_steps if max_steps is None else max_steps
        self.render_mode = render_mode
        self._shadows = shadows
        names = [camera.name for camera in self.cameras]
        if len(set(names)) < len(names) or not names:
            raise ConfigError(f"cameras need distinct names, got {names}", where="cameras")
        if unknown := set(views) - set(VIEWS):
            raise ConfigError(
                f"unknown views {sorted(unknown)}", where="views", fix=f"Known: {', '.join(VIEWS)}"
            )
        if not is_whole(self.max_steps) or self.max_steps < 1:
            raise ConfigError(
                f"an episode of {self.max_steps!r} steps", where="max_steps", fix="Use 1 or more"
            )
        if render_mode not in (None, "rgb_array"):
            raise ConfigError(f"unknown render_mode {render_mode!r}", fix="Use rgb_array or None")
        self.action_space = spaces.Box(-1.0, 1.0, (len(ACTION_NAMES),), np.float32)
        self.observation_space = spaces.Dict(self._spaces())
        self._steps = self._held_steps = 0
        self._seed: int | None = None
        self._lifted: str | None = None
        self._renderers: list[Renderer] = []  # until reset

    def _spaces(self) -> dict[str, spaces.Space]:
        low = np.array([-1, -1, -1, -np.pi, -np.pi, -np.pi, -0.02], np.float32)
        high = np.array([1, 1, 1, np.pi, np.pi, np.pi, MAX_OPENING_M + 0.02], np.float32)
        found: dict[str, spaces.Space] = {
            "observation.state": spaces.Box(low, high),
            "task": spaces.Text(100, charset=string.ascii_lowercase + " "),
        }
        for camera in self.cameras:
            size = (camera.height, camera.width)
            for view in self.views:
                found[f"observation.{view}.{camera.name}"] = {
                    "images": spaces.Box(0, 255, (*size, 3), np.uint8),
                    "masks": spaces.Box(0, 255, size, np.uint8),
                    "depth": spaces.Box(0, np.inf, size, np.float32),
                    "points": spaces.Box(-np.inf, np.inf, (*size, 3), np.float32),
                }[view]
        return found

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Starts an episode.

        Args:
          seed: of the scene; None draws the next scene of the present sequence.
          options: `scene`, a Scene to use instead of a drawn one; `target`, the name of another
            portable thing of the drawn scene to ask for: everything but the prompt and the roles
            stays the same.

        Raises:
          ConfigError: an unknown option, a target that is not there, no Scene, or one without
            roles.
        """
        super().reset(seed=seed)
        options = dict(options or {})
        if unknown := set(options) - {"scene", "target"}:
            raise ConfigError(f"unknown options {sorted(unknown)}", fix="Use scene or target")
        scene = options.get("scene")
        if not isinstance(scene, Scene | None):
            raise ConfigError(f"a scene {scene!r}", where="options", fix="Give a Scene")
        scene = scene or self.task.sample(self.np_random)
        self.task.check(scene)
        if "target" in options:
            scene = self.task.retarget(scene, options["target"])
        self._build(scene)
        self._seed = seed
        self._steps = self._held_steps = 0
        self._lifted = None
        return self._observation(), self._info()

    def _build(self, scene: Scene) -> None:
        """Compiles a scene and puts everything at rest."""
        self.scene = scene
        self.model = mujoco.MjModel.from_xml_string(scene.mjcf())
        self.data = mujoco.MjData(self.model)
        for side in ("left", "right"):
            self.data.qpos[self.model.joint(side).qposadr] = MAX_OPENING_M / 2
        self.data.ctrl[:] = MAX_OPENING_M / 2
        self._bodies = [self.model.body(f"thing{i}").id for i in range(len(scene.things))]
        self._hand = self.model.body("hand").id
        self._fingers = [self.model.body(side).id for side in ("left", "right")]
        ids = np.full(self.model.nbody, ROBOT_ID, np.uint8)
        ids[0] = BACKGROUND_ID
        ids[self._bodies] = np.arange(1, len(self._bodies) + 1)
        # Last entry: no geom at all, which -1 picks.
        self._ids = np.append(ids[self.model.geom_bodyid], np.uint8(BACKGROUND_ID))
        self._renderers = [
            Renderer(self.model, camera, shadows=self._shadows) for camera in self.cameras
        ]
        mujoco.mj_step(self.model, self.data, 2 * _SUBSTEPS)
        mujoco.mj_forward(self.model, self.data)
        self._aim_position = np.array(scene.hand_position)
        self._aim_turn = Rotation.from_rotvec([0.0, 0.0, scene.hand_yaw_rad])

    def step(
        self, action: Float[NumpyArray, "7"]
    ) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Acts for a tenth of a second. The reward is 1 on success, else 0.

        Raises:
          ConfigError: before reset, or the action is not 7 finite numbers. Numbers beyond 1 are
            clipped.
        """
        self.advance(action)
        done = self.task.done(self.scene, self.grasped, self.positions)
        self._held_steps = self._held_steps + 1 if done else 0
        info = self._info()
        return (
            self._observation(),
            float(info["is_success"]),
            info["is_success"],
            self._steps >= self.max_steps,
            info,
        )

    def advance(self, action: Float[NumpyArray, "7"]) -> None:
        """Simulates one control step without rendering; raises as `step`."""
        self._require_scene()
        action = np.asarray(action, np.float64)
        if action.shape != (len(ACTION_NAMES),) or not np.isfinite(action).all():
            raise ConfigError(
                f"an action is {len(ACTION_NAMES)} finite numbers, got {action.tolist()}",
                fix=f"Give {', '.join(ACTION_NAMES)} in [-1, 1]",
            )
        action = np.clip(action, -1.0, 1.0)
        start, turn = self._aim_position, self._aim_turn
        end = np.clip(start + MOVE_M * action[:3], _AIM_LOW, _AIM_HIGH)
        delta = TURN_RAD * action[3:6]
        self.data.ctrl[:] = (1 - action[6]) / 2 * MAX_OPENING_M / 2
        pieces = 5
        for piece in range(1, pieces + 1):
            share = piece / pieces
            self.data.mocap_pos[0] = start + share * (end - start)
            self.data.mocap_quat[0] = (Rotation.from_rotvec(share * delta) * turn).as_quat(
                scalar_first=True
            )
            mujoco.mj_step(self.model, self.data, _SUBSTEPS // pieces)
        mujoco.mj_forward(self.model, self.data)
        position, now = self.hand_pose
        lead = end - position
        self._aim_position = position + lead * min(1.0, MOVE_M / max(np.linalg.norm(lead), 1e-9))
        ahead = (Rotation.from_rotvec(delta) * turn * now.inv()).as_rotvec()
        ahead = ahead * min(1.0, TURN_RAD / max(np.linalg.norm(ahead), 1e-9))
        self._aim_turn = Rotation.from_rotvec(ahead) * now
        self._steps += 1
        if self._lifted is None and (held := self.grasped) is not None:
            index = [thing.name for thing in self.scene.things].index(held)
            rest = self.scene.things[index].position[2]
            if self.positions[index, 2] >= rest + self.task.lift_m:
                self._lifted = held

    @property
    def hand_pose(self) -> tuple[Float[NumpyArray, "3"], Rotation]:
        """Position of the hand in the world, metres, and its turn from pointing straight down."""
        quaternion = self.data.xquat[self._hand]
        return self.data.xpos[self._hand].copy(), Rotation.from_quat(quaternion, scalar_first=True)

    @property
    def opening_m(self) -> float:
        """Distance between the fingers' inner faces."""
        return float(sum(self.data.joint(side).qpos[0] for side in ("left", "right")))

    @property
    def state(self) -> Float[NumpyArray, "7"]:
        """Hand position, rotation vector, opening; see the module."""
        position, turn = self.hand_pose
        return np.concatenate([position, turn.as_rotvec(), [self.opening_m]]).astype(np.float32)

    @property
    def positions(self) -> Float[NumpyArray, "o 3"]:
        """Origins of all things in the world, metres."""
        return self.data.xpos[self._bodies].copy()

    def yaw_rad(self, index: int) -> float:
        """Turn about z of thing `index`."""
        turn = self.data.xmat[self._bodies[index]].reshape(3, 3)
        return float(np.arctan2(turn[1, 0], turn[0, 0]))

    @property
    def grasped(self) -> str | None:
        """Name of the portable thing that both fingers touch, or None."""
        touching = [set(), set()]
        for pair in self.model.geom_bodyid[self.data.contact.geom]:
            for side, finger in enumerate(self._fingers):
                if finger in pair:
                    touching[side].update(int(body) for body in pair)
        for body, thing in zip(self._bodies, self.scene.things, strict=True):
            if body in touching[0] & touching[1] and not SHAPES[thing.shape].fixed:
                return thing.name
        return None

    def pictures(self) -> dict[str, Picture]:
        """Every camera's picture of the present state; ConfigError before reset."""
        self._require_scene()
        return {
            camera.name: renderer.render(self.data)
            for camera, renderer in zip(self.cameras, self._renderers, strict=True)
        }

    @property
    def camera_poses(self) -> dict[str, Float[NumpyArray, "4 4"]]:
        """Every camera's pose now: camera to world, in the camera's frame of `camera.py`."""
        return {
            camera.name: renderer.pose(self.data)
            for camera, renderer in zip(self.cameras, self._renderers, strict=True)
        }

    def _require_scene(self) -> None:
        if not self._renderers:
            raise ConfigError("there is no scene yet", where="TabletopEnv", fix="Call reset first")

    def segment(self, geoms: Int[NumpyArray, "h w"]) -> UInt8[NumpyArray, "h w"]:
        """Ids of things from ids of geoms."""
        return self._ids[geoms]

    def _observation(self) -> dict[str, Any]:
        observation: dict[str, Any] = {
            "observation.state": self.state,
            "task": self.task.prompt(self.scene),
        }
        for name, picture in self.pictures().items():
            for view in self.views:
                observation[f"observation.{view}.{name}"] = {
                    "images": lambda p: p.rgb,
                    "masks": lambda p: self.segment(p.geoms),
                    "depth": lambda p: p.depth_m,
                    "points": lambda p: p.points_m,
                }[view](picture)
        return observation

    def _info(self) -> dict[str, Any]:
        things = self.scene.things
        return {
            "objects": tuple(thing.name for thing in things),
            "roles": {thing.name: thing.role for thing in things},
            "is_success": self._held_steps >= _HOLD_STEPS,
            "grasped": self.grasped,
            "lifted": self._lifted,
            "positions": self.positions,
            "task": self.task.prompt(self.scene),
            "prompts": self.task.prompts(self.scene),
            "seed": self._seed,
        }

    def render(self) -> UInt8[NumpyArray, "h w 3"] | None:
        """All cameras side by side, or None without a render mode."""
        if self.render_mode is None:
            return None
        pictures = [picture.rgb for picture in self.pictures().values()]
        height = max(picture.shape[0] for picture in pictures)
        return np.concatenate(
            [np.pad(p, ((0, height - p.shape[0]), (0, 0), (0, 0))) for p in pictures], axis=1
        )


def _camera(camera: str | Camera, size: int | None) -> Camera:
    if size is not None and not is_whole(size):
        raise ConfigError(f"pictures of {size!r} pixels", where="size", fix="Use a whole number")
    if isinstance(camera, str):
        if camera not in CAMERAS:
            raise ConfigError(
                f"unknown camera {camera!r}", fix=f"Use a Camera or one of {', '.join(CAMERAS)}"
            )
        camera = CAMERAS[camera]
    return camera if size is None else camera.of_size(size, size)
