"""A tiny environment of the kind that rollouts drive: a point that actions push over a picture.

env = PointEnv()
prompt = env.reset(env.tasks[0], seed=3, episode=0)
"""

from __future__ import annotations

import numpy as np

from attn_jax.core.calibration import Calibration
from robots.interface import EnvTask, Objects, Outcome, View

SIZE = (24, 32)


class PointEnv:
    """Episodes last 2 + seed % 5 steps and succeed when the seed is even."""

    fps = 10.0
    tasks = (
        EnvTask("points", 0, "pick up the red cube"),
        EnvTask("points", 1, "place it on the plate"),
    )
    geometry = {  # noqa: RUF012
        "front": {"model_rot180": True, "video_rot180": True},
        "wrist": {"model_rot180": True, "video_rot180": False},
    }

    def __init__(self):
        self.resets: list[tuple[str, int, int]] = []
        self.closed = False

    @property
    def other_prompts(self) -> tuple[str, ...]:
        return tuple(task.name for task in self.tasks if task.name != self._prompt)

    def reset(self, task: EnvTask, *, seed: int, episode: int) -> str:
        self.resets.append((task.name, seed, episode))
        self._seed, self._step, self._prompt = seed, 0, task.name
        self._rng = np.random.default_rng([seed, task.number])
        self._place = self._rng.uniform(-0.5, 0.5, 3).astype(np.float32)
        blocks = self._rng.integers(0, 200, (3, 4, 3), np.uint8)  # a video keeps blocks
        self._background = blocks.repeat(8, axis=0).repeat(8, axis=1)
        return task.name

    def _pixel(self) -> tuple[int, int]:
        x, y = np.clip((self._place[:2] + 1) / 2, 0, 0.99)
        return int(y * SIZE[0]), int(x * SIZE[1])

    def view(self) -> View:
        images = {}
        for camera in self.geometry:
            picture = self._background.copy()
            picture[self._pixel()] = 255
            images[camera] = picture
        return View(images, self._place.copy())

    def objects(self) -> Objects:
        mask = np.zeros((1, *SIZE), bool)
        mask[0, *self._pixel()] = True
        return Objects(("point",), {"point": "target"}, {"front": mask})

    def calibration(self) -> dict[str, Calibration]:
        intrinsics = np.array([[16.0, 0, 16], [0, 16, 12], [0, 0, 1]])
        return {
            camera: Calibration(np.full((1, *SIZE), 1.0 + self._step), np.eye(4)[None], intrinsics)
            for camera in self.geometry
        }

    def step(self, action: np.ndarray) -> Outcome:
        self._place += 0.05 * np.tanh(action[:3]).astype(np.float32)
        self._step += 1
        done = self._step == 2 + self._seed % 5
        success = done and self._seed % 2 == 0
        return Outcome(float(success), done, success)

    def close(self) -> None:
        self.closed = True
