"""Scripted experts: they know where everything is and act like a careful demonstrator.

An expert looks at the present state only, so that what it does next follows from what a policy can
see: hand, opening, things.

    expert = Expert(env)
    action = expert.act()              # (7,) float32 in [-1, 1]
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from attn_jax.core.typing import Float, NumpyArray
from robots.tabletop.env import MOVE_M, TURN_RAD, TabletopEnv
from robots.tabletop.scene import SHAPES

_TRAVEL_M = 0.085  # height of the fingertips above the table on the way to a thing
_CARRY_M = 0.11  # on the way to a tray
_RELEASE_M = 0.055
_NEAR_M = 0.012  # sideways error at which the hand goes down
_AT_M = 0.006  # error at which the fingers close
_GAIN = 0.7  # share of an error that one step removes; arrivals are soft
_OPEN, _CLOSED = -1.0, 1.0


class Expert:
    """Picks up the target of the environment's scene, and puts it into the tray if there is one.

    Args:
      env: after `reset`; one expert serves all its episodes.
    """

    def __init__(self, env: TabletopEnv):
        self._env = env

    def act(self) -> Float[NumpyArray, "7"]:
        """The next action."""
        env = self._env
        things = env.scene.things
        roles = {thing.role: i for i, thing in enumerate(things)}
        index = roles["target"]
        shape = SHAPES[things[index].shape]
        hand, turn = env.hand_pose
        target = env.positions[index]
        grasp = target + np.array([0.0, 0.0, shape.grasp_m])
        yaw = self._yaw_error(index, turn)
        held = env.grasped == things[index].name
        if env.task.name == "place":
            tray = env.positions[roles["place"]]
            if np.abs(target[:2] - tray[:2]).max() < 0.03 and (
                not held or hand[2] < _RELEASE_M + 0.01
            ):
                return self._towards([*hand[:2], _CARRY_M], 0.0, _OPEN)
            if held:
                return self._carry(hand, tray)
        if held:
            return self._towards([*hand[:2], hand[2] + 2 * MOVE_M], 0.0, _CLOSED)
        aside = float(np.hypot(*(grasp - hand)[:2]))
        if aside > _NEAR_M or (abs(yaw) > 0.15 and hand[2] > _TRAVEL_M - 0.01):
            height = max(_TRAVEL_M, hand[2] - 0.02) if aside < 0.06 else max(_TRAVEL_M, hand[2])
            return self._towards([*grasp[:2], height], yaw, _OPEN)
        if aside < _AT_M and abs(hand[2] - grasp[2]) < _AT_M:
            return self._towards(grasp, 0.0, _CLOSED)
        return self._towards(grasp, yaw, _OPEN)

    def _carry(self, hand: np.ndarray, tray: np.ndarray) -> np.ndarray:
        """Up, over the tray, down."""
        aside = float(np.hypot(*(tray - hand)[:2]))
        if aside < _NEAR_M:
            return self._towards([*tray[:2], _RELEASE_M], 0.0, _CLOSED)
        if hand[2] < _CARRY_M - 0.02 and aside > 0.06:
            return self._towards([*hand[:2], _CARRY_M], 0.0, _CLOSED)
        return self._towards([*tray[:2], _CARRY_M], 0.0, _CLOSED)

    def _yaw_error(self, index: int, turn: Rotation) -> float:
        """Smallest turn about z after which the fingers fit the thing, radians."""
        now = float(turn.as_rotvec()[2])
        period = SHAPES[self._env.scene.things[index].shape].symmetry_rad
        wanted = self._env.yaw_rad(index) if period else 0.0
        period = period or 2 * np.pi
        return (wanted - now + period / 2) % period - period / 2

    def _towards(self, place, yaw: float, grip: float) -> np.ndarray:
        """Action that brings the hand to `place`, upright, turned by `yaw` more."""
        hand, turn = self._env.hand_pose
        step = np.asarray(place) - hand
        step = _GAIN * step / max(MOVE_M, float(_GAIN * np.abs(step).max()))
        tilt = turn.as_rotvec() * [1.0, 1.0, 0.0]
        rotate = np.clip((np.array([0.0, 0.0, yaw]) - tilt) / TURN_RAD, -1.0, 1.0)
        return np.concatenate([step, rotate, [grip]]).astype(np.float32)
