"""A tiny gymnasium environment as lerobot-eval takes them: two cameras, a state, a task."""

from __future__ import annotations

import gymnasium
import numpy as np
from gymnasium import spaces

CAMERAS = ("front", "wrist")
SIZE = (24, 32)


class TinyEnv(gymnasium.Env):
    """Episodes last `lengths[seed % 3]` steps and succeed when the seed is even."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    lengths = (2, 3, 7)
    _max_episode_steps = 6
    task = task_description = "pick up the red cube"

    def __init__(self):
        pictures = {c: spaces.Box(0, 255, (*SIZE, 3), np.uint8) for c in CAMERAS}
        self.observation_space = spaces.Dict(
            {
                "pixels": spaces.Dict(pictures),
                "agent_pos": spaces.Box(-10, 10, (3,), np.float64),
            }
        )
        self.action_space = spaces.Box(-1, 1, (4,), np.float32)
        self.render_mode = "rgb_array"

    def _observation(self):
        picture = np.full((*SIZE, 3), 20 * self._step, np.uint8)
        picture[: 2 + self._seed % 7] = 200
        return {
            "pixels": {camera: picture.copy() for camera in CAMERAS},
            "agent_pos": np.array([self._seed % 5 / 10, self._step / 10, self._pushed]),
        }

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        # An automatic reset has no seed: the episode that must not be recorded.
        self._seed = 99 if seed is None else seed
        self._step, self._pushed = 0, 0.0
        return self._observation(), {"is_success": False}

    def step(self, action):
        self._step += 1
        self._pushed = float(np.tanh(action).mean()) / 10
        done = self._step == self.lengths[self._seed % 3]
        success = done and self._seed % 2 == 0
        return self._observation(), float(success), done, False, {"is_success": success}

    def render(self):
        return self._observation()["pixels"]["front"]
