"""The tabletop as a LeRobot robot, for `lerobot-rollout`: every action is a tenth of a second."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lerobot.robots import Robot, RobotConfig

from robots.tabletop.env import ACTION_NAMES, STATE_NAMES, TabletopEnv

_CAMERA, _POSITION = "observation.images.", ".pos"  # LeRobot passes on what is called so


@RobotConfig.register_subclass("attn_jax_tabletop")
@dataclass
class TabletopRobotConfig(RobotConfig):
    """`seed` is the scene's; after `actions` actions the robot interrupts as a user would."""

    seed: int = 0
    size: int = 64
    actions: int = 12


class TabletopRobot(Robot):
    """Steps the environment where a real robot would move."""

    config_class = TabletopRobotConfig
    name = "attn_jax_tabletop"

    def __init__(self, config: TabletopRobotConfig):
        super().__init__(config)
        self._env = TabletopEnv("pick", size=config.size)
        self._config, self._last, self._connected = config, {}, False
        self._left = config.actions

    @property
    def observation_features(self) -> dict[str, Any]:
        pictures = {camera.name: (camera.height, camera.width, 3) for camera in self._env.cameras}
        return {f"{name}{_POSITION}": float for name in STATE_NAMES} | pictures

    @property
    def action_features(self) -> dict[str, Any]:
        return {f"{name}{_POSITION}": float for name in ACTION_NAMES}

    @property
    def is_connected(self) -> bool:
        return self._connected

    @property
    def is_calibrated(self) -> bool:
        return True

    def connect(self, calibrate: bool = True) -> None:
        self._last, _ = self._env.reset(seed=self._config.seed)
        self._connected = True

    def calibrate(self) -> None:
        pass

    def configure(self) -> None:
        pass

    def get_observation(self) -> dict[str, Any]:
        state = zip(STATE_NAMES, self._last["observation.state"], strict=True)
        return {f"{name}{_POSITION}": float(value) for name, value in state} | {
            camera.name: self._last[_CAMERA + camera.name] for camera in self._env.cameras
        }

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        values = [float(action[f"{name}{_POSITION}"]) for name in ACTION_NAMES]
        self._last, *_ = self._env.step(values)
        self._left -= 1
        if not self._left:  # a duration would depend on how fast this machine is
            raise KeyboardInterrupt
        return action

    def disconnect(self) -> None:
        self._connected = False
