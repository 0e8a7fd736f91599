"""The tabletop for rollouts: one task, the cameras and state of its Gymnasium environment.

env = TabletopRollouts("pick", size=64)
prompt = env.reset(env.tasks[0], seed=3, episode=0)
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np

from attn_jax.core.calibration import Calibration
from attn_jax.core.errors import ConfigError
from attn_jax.core.typing import Float, NumpyArray
from robots.interface import EnvTask, Objects, Outcome, View
from robots.tabletop.env import FPS, TabletopEnv
from robots.tabletop.tasks import TaskConfig

_IMAGES, _MASKS = "observation.images.", "observation.masks."
_DEPTH = "observation.depth."


class TabletopRollouts:
    """`TabletopEnv` as `robots.interface.PolicyEnv`; pictures are as the camera gives them."""

    fps = float(FPS)

    def __init__(
        self,
        task: str = "pick",
        *,
        colours: Sequence[str] = TaskConfig.colours,
        shapes: Sequence[str] = TaskConfig.shapes,
        distractors: int = TaskConfig.distractors,
        **settings: Any,
    ):
        """Takes the fields of `TaskConfig` and the arguments of `TabletopEnv`.

        Raises:
          ConfigError: as these, or it has no such argument.
        """
        known = inspect.signature(TabletopEnv).parameters
        if unknown := set(settings) - set(known):
            raise ConfigError(
                f"the tabletop has no {', '.join(sorted(unknown))}",
                where="env",
                fix=f"It has {', '.join(known)}, and for `task` colours, shapes, distractors",
            )
        drawn = TaskConfig(task, tuple(colours), tuple(shapes), distractors)
        self._env = TabletopEnv(drawn, **{"views": ("images", "masks", "depth")} | settings)
        self.tasks = (EnvTask("tabletop", 0, task),)
        turns = {"model_rot180": False, "video_rot180": False}
        self.geometry = {camera.name: turns for camera in self._env.cameras}

    def reset(self, task: EnvTask, *, seed: int, episode: int) -> str:
        """Begins the episode of a seed; returns its prompt."""
        self._observation, self._info = self._env.reset(seed=seed)
        return str(self._observation["task"])

    @property
    def other_prompts(self) -> tuple[str, ...]:
        """Those that mean another thing of the scene."""
        own = self._observation["task"]
        return tuple(prompt for prompt in self._info["prompts"].values() if prompt != own)

    def view(self) -> View:
        """The pictures of the present observation."""
        images = {camera: self._observation[_IMAGES + camera] for camera in self.geometry}
        return View(images, self._observation["observation.state"])

    def objects(self) -> Objects:
        """The masks of the present observation."""
        names = tuple(self._info["objects"])
        ids = np.arange(1, len(names) + 1)[:, None, None]
        masks = {camera: self._observation[_MASKS + camera] == ids for camera in self.geometry}
        return Objects(names, dict(self._info["roles"]), masks)

    def calibration(self) -> dict[str, Calibration]:
        """Of every camera at the present observation."""
        poses = self._env.camera_poses
        return {
            camera.name: Calibration(
                self._observation[_DEPTH + camera.name][None],
                poses[camera.name][None],
                camera.intrinsics,
            )
            for camera in self._env.cameras
        }

    def step(self, action: Float[NumpyArray, "a"]) -> Outcome:
        """Acts for a tenth of a second; a policy of another action size is a ConfigError."""
        self._observation, reward, ended, cut, self._info = self._env.step(action)
        return Outcome(float(reward), bool(ended or cut), bool(self._info["is_success"]))

    def close(self) -> None:
        """Releases the environment; may be called twice."""
        self._env.close()
