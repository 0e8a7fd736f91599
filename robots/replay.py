"""A recording that behaves like a robot: it shows the recorded frames one after another.

Actions are accepted and change nothing.

    robot = ReplayRobot(SessionReader("sessions/dot"))
    frame = robot.get_observation()
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from attn_jax.core.typing import UInt8
from attn_jax.data.sessions import ACTION, SessionReader


class ReplayRobot:
    """Replays a session.

    Args:
      reader: read by nobody else.
    """

    def __init__(self, reader: SessionReader):
        self._reader = reader

    @property
    def action_space(self) -> list[dict[str, Any]]:
        """That of the recorded robot."""
        return self._reader.action_space

    def get_observation(self) -> UInt8[np.ndarray, "h w 3"] | None:
        """The next recorded frame; None before the recorded action was passed, or at the end."""
        return self._reader.get_next_observation()

    def execute_action(self, action: Mapping[str, Any]) -> bool:
        """Goes on to the next frame, whatever the action; always works."""
        self._reader.get_next_action()
        return True

    def new_episode(self) -> None:
        """Goes on to the next frame that follows without an action."""
        if (event := self._reader.peek()) is not None and event.type == ACTION:
            self._reader.get_next_action()

    def cleanup(self) -> None:
        """Nothing to release."""
