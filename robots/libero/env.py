"""LIBERO's tasks for rollouts, as LeRobot presents them to a policy.

Cameras: `image` (LIBERO's agentview) and `image2` (wrist), turned by 180 degrees; in videos the
wrist camera stays as the simulator gives it. State (8,): position of the end effector (metres),
its rotation vector (radians), the two finger joints (metres). Action (7,) in [-1, 1]: change of
position and rotation, gripper (-1 open, 1 closed); 20 steps a second. Pictures are rendered only
when they are asked for.

    env = LiberoEnv("libero_object", task_ids=(0,), size=256)
    prompt = env.reset(env.tasks[0], seed=0, episode=0)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from attn_jax.core.calibration import Calibration
from attn_jax.core.errors import ConfigError
from attn_jax.core.geometry import rot180
from attn_jax.core.typing import Float, NumpyArray
from robots.interface import EnvTask, Objects, Outcome, View
from robots.libero import shims

FPS = 20
MAX_STEPS = {
    "libero_spatial": 280,
    "libero_object": 280,
    "libero_goal": 300,
    "libero_10": 520,
    "libero_90": 400,
}
CAMERAS = {"image": "agentview", "image2": "robot0_eye_in_hand"}
_REST = np.array([0, 0, 0, 0, 0, 0, -1.0])


class LiberoEnv:
    """One suite; the simulator is built anew when the task changes."""

    fps = float(FPS)

    def __init__(
        self,
        suite: str,
        task_ids: Sequence[int] | None = None,
        *,
        size: int = 256,
        settle_steps: int = 10,
        max_steps: int | None = None,
    ):
        """Reads the suite; simulates nothing yet.

        Args:
          suite: for example `libero_object`.
          task_ids: numbers of tasks; None means all.
          size: side of the pictures, pixels.
          settle_steps: steps of rest after every reset, until nothing moves any more.
          max_steps: an episode ends after so many; None takes the suite's number.

        Raises:
          ConfigError: LIBERO is missing, or it has no such suite or task, or one is named twice.
        """
        shims.prepare()
        from libero.libero import benchmark  # pyright: ignore[reportMissingImports]

        known = benchmark.get_benchmark_dict()
        if suite not in known:
            raise ConfigError(
                f"LIBERO has no suite {suite!r}", fix=f"Known: {', '.join(sorted(known))}"
            )
        self._suite = known[suite]()
        count = len(self._suite.tasks)
        chosen = tuple(range(count)) if task_ids is None else tuple(task_ids)
        if any(not 0 <= number < count for number in chosen):
            raise ConfigError(f"{suite} has tasks 0 to {count - 1}, got {chosen}")
        if len(set(chosen)) < len(chosen):
            raise ConfigError(f"names a task twice: {chosen}", where="task_ids")
        self.tasks = tuple(EnvTask(suite, n, self._suite.get_task(n).name) for n in chosen)
        self.geometry = {
            "image": {"model_rot180": True, "video_rot180": True},
            "image2": {"model_rot180": True, "video_rot180": False},
        }
        self.size = size
        self.max_steps = MAX_STEPS.get(suite, 500) if max_steps is None else max_steps
        self._settle_steps = settle_steps
        self._task: EnvTask | None = None
        self._env: Any = None
        self._steps = 0

    def reset(self, task: EnvTask, *, seed: int, episode: int) -> str:
        """Begins an episode at start state `episode` of the task; returns its prompt."""
        if task != self._task:
            self._build(task)
        self._env.seed(seed)
        self._env.reset()
        states = np.asarray(self._suite.get_task_init_states(task.number))
        self._raw = self._env.set_init_state(states[episode % len(states)])
        for _ in range(self._settle_steps):
            self._raw = self._env.step(_REST)[0]
        for robot in self._env.robots:
            robot.controller.use_delta = True
        self._steps = 0
        return self._suite.get_task(task.number).language

    @property
    def other_prompts(self) -> tuple[str, ...]:
        """Those of other tasks of the suite that name a thing which is here and not in the own."""
        if self._task is None:
            return ()
        own = self._suite.get_task(self._task.number).language
        here = [name.rstrip("_0123456789").replace("_", " ") for name in self._names()]
        here = [words for words in here if words not in own]
        prompts = dict.fromkeys(task.language for task in self._suite.tasks)
        return tuple(prompt for prompt in prompts if any(words in prompt for words in here))

    def _names(self) -> tuple[str, ...]:
        inner = self._env.env
        return tuple(inner.objects_dict) + tuple(inner.fixtures_dict)

    def _build(self, task: EnvTask) -> None:
        self.close()
        from libero.libero import get_libero_path  # pyright: ignore[reportMissingImports]
        from libero.libero.envs import OffScreenRenderEnv  # pyright: ignore[reportMissingImports]

        entry = self._suite.get_task(task.number)
        path = os.path.join(get_libero_path("bddl_files"), entry.problem_folder, entry.bddl_file)
        self._env = OffScreenRenderEnv(
            bddl_file_name=path,
            camera_heights=self.size,
            camera_widths=self.size,
            control_freq=FPS,
            horizon=self.max_steps + self._settle_steps + 1,
            ignore_done=True,
        )
        self._task = task
        # Rendering takes most of the time of a step; `view` does it when it is asked to.
        for camera in CAMERAS.values():
            self._env.env.modify_observable(f"{camera}_image", "enabled", False)
            self._env.env.modify_observable(f"{camera}_image", "active", False)

    def view(self) -> View:
        """Renders both cameras."""
        images = {
            name: np.ascontiguousarray(rot180(self._render(camera), axes=(0, 1)))
            for name, camera in CAMERAS.items()
        }
        state = np.concatenate(
            [
                self._raw["robot0_eef_pos"],
                rotation_vector(self._raw["robot0_eef_quat"]),
                self._raw["robot0_gripper_qpos"],
            ]
        )
        return View(images, state.astype(np.float32))

    def _render(self, camera: str, **options: Any) -> NumpyArray:
        return self._env.sim.render(
            camera_name=camera, width=self.size, height=self.size, **options
        )

    def depth(self) -> dict[str, Float[NumpyArray, "h w"]]:
        """Renders the distance of every pixel of `view` along the optical axis, metres."""
        model = self._env.sim.model
        near, far = model.vis.map.znear * model.stat.extent, model.vis.map.zfar * model.stat.extent
        out = {}
        for name, camera in CAMERAS.items():
            _, buffer = self._render(camera, depth=True)
            metres = near / (1 - rot180(buffer, axes=(0, 1)).astype(np.float64) * (1 - near / far))
            out[name] = metres.astype(np.float32)
        return out

    def camera(self, name: str) -> tuple[Float[NumpyArray, "3 3"], Float[NumpyArray, "4 4"]]:
        """Intrinsics (pixels) and pose (camera to world, metres) of the pictures of `view` now.

        The camera's frame has x right, y down and z along the optical axis; pixel edges are counted
        from 0, as on the tabletop. fx is negative: LeRobot's turn of a picture that the simulator
        gives bottom row first leaves it mirrored.
        """
        sim = self._env.sim
        number = sim.model.camera_name2id(CAMERAS[name])
        focal = 0.5 * self.size / np.tan(np.radians(sim.model.cam_fovy[number]) / 2)
        middle = self.size / 2
        pose = np.eye(4)
        pose[:3, :3] = sim.data.cam_xmat[number].reshape(3, 3) @ np.diag([1, -1, -1])
        pose[:3, 3] = sim.data.cam_xpos[number]
        return np.array([[-focal, 0, middle], [0, focal, middle], [0, 0, 1]]), pose

    def calibration(self) -> dict[str, Calibration]:
        """Renders the depth of both cameras."""
        out = {}
        for name, metres in self.depth().items():
            intrinsics, pose = self.camera(name)
            out[name] = Calibration(metres[None], pose[None], intrinsics)
        return out

    @property
    def of_interest(self) -> tuple[str, ...]:
        """Objects that the task of this episode is about: its target, then the place to put it."""
        return tuple(self._env.obj_of_interest)

    def position(self, name: str) -> Float[NumpyArray, "3"]:
        """Where an object is, metres in the world; `gripper` is the end effector."""
        return self._raw["robot0_eef_pos" if name == "gripper" else f"{name}_pos"]

    def simulator_state(self) -> Float[NumpyArray, "n"]:
        """All that `restore` needs to come back to this moment of the episode."""
        return np.array(self._env.get_sim_state())

    def restore(self, state: Float[NumpyArray, "n"]) -> None:
        """Goes to a moment that `simulator_state` kept, to look at it; acting on is undefined."""
        self._raw = self._env.regenerate_obs_from_state(state)

    def objects(self) -> Objects:
        """Renders which geom is where, and tells objects by their geoms; all else is the robot.

        The first object of interest of the task is its target, the second the place to put it.
        """
        inner = self._env.env
        names = self._names()
        # Robot, mount and gripper are instances too, or belong to none: no object either way.
        instances = inner.model.geom_ids_to_instances
        number = np.full(inner.sim.model.ngeom + 1, -1)
        for geom, instance in instances.items():
            if instance in names:
                number[geom] = names.index(instance)
        masks = {}
        for name, camera in CAMERAS.items():
            geoms = rot180(self._render(camera, segmentation=True)[..., 1], axes=(0, 1))
            masks[name] = number[geoms] == np.arange(len(names))[:, None, None]
        interest = self.of_interest
        roles = {name: "distractor" for name in inner.objects_dict}
        roles |= {name: "other" for name in inner.fixtures_dict}
        roles |= {n: r for n, r in zip(interest, ("target", "place"), strict=False) if n in names}
        return Objects(names, roles, masks)

    def step(self, action: Float[NumpyArray, "7"]) -> Outcome:
        """Acts for a twentieth of a second; actions beyond [-1, 1] are clipped.

        Raises:
          ConfigError: the action is not 7 finite numbers.
        """
        action = np.asarray(action)
        if action.shape != (7,) or not np.isfinite(action).all():
            raise ConfigError(
                f"LIBERO takes 7 finite numbers as an action, got {action.tolist()}",
                fix="Give a movement of 3, a turn of 3 and the gripper, in [-1, 1]",
            )
        self._raw, reward, _, _ = self._env.step(np.clip(np.asarray(action, np.float64), -1, 1))
        self._steps += 1
        success = bool(self._env.check_success())
        return Outcome(float(reward), success or self._steps >= self.max_steps, success)

    def close(self) -> None:
        """Releases the simulator; may be called twice."""
        if self._env is not None:
            self._env.close()
            self._env = self._task = None


def rotation_vector(quaternion: Float[NumpyArray, "4"]) -> Float[NumpyArray, "3"]:
    """Axis times angle of a quaternion x, y, z, w, as LeRobot has it; angle in 0..2pi."""
    w = float(np.clip(quaternion[3], -1, 1))
    length = np.sqrt(1 - w * w)
    if length <= 1e-10:
        return np.zeros(3)
    return np.asarray(quaternion[:3]) / length * 2 * np.arccos(w)
