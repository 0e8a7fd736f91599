"""What a robot is to the recorder, and what an environment is to rollouts.

A robot shows pictures and takes actions from a short list; an environment (`PolicyEnv`) has
language tasks, several cameras and continuous actions.

class MyRobot:
    action_space = [{"action": 0}, {"action": 1}]
    def get_observation(self): ...
    def execute_action(self, action): ...
    def cleanup(self): ...
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from attn_jax.core.calibration import Calibration
from attn_jax.core.errors import InputError


class RobotError(InputError):
    """A robot did not answer, refused an action, or was asked for one it does not have."""


@runtime_checkable
class RobotInterface(Protocol):
    """A robot with one camera picture and few discrete actions."""

    @property
    def action_space(self) -> list[dict[str, Any]]:
        """The actions that `execute_action` knows."""
        ...

    def get_observation(self) -> np.ndarray | None:
        """The current picture, (h, w, 3) uint8 RGB; None when the camera gives none."""
        ...

    def execute_action(self, action: Mapping[str, Any]) -> bool:
        """Carries the action out and returns whether that worked.

        Raises:
          RobotError: the action is not in the action space.
        """
        ...

    def cleanup(self) -> None:
        """Stops motion and releases what is held; may be called twice."""
        ...


@runtime_checkable
class EpisodicRobot(RobotInterface, Protocol):
    """A robot that can be put into a fresh start state."""

    def new_episode(self) -> None:
        """Puts the robot into the start state of the next episode."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """What a policy sees of an environment.

    Attributes:
      images: camera -> (h, w, 3) uint8 in model space: as the policy's pre-processor gets it.
      state: (s,) float32.
    """

    images: Mapping[str, np.ndarray]
    state: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Objects:
    """Where the objects are in the pictures of the present view.

    Attributes:
      names: names of the objects.
      roles: object -> `target`, `distractor`, `place` or `other`.
      masks: camera -> (object, h, w) bool, in the space of the camera's picture.
    """

    names: tuple[str, ...]
    roles: Mapping[str, str]
    masks: Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one step led to: reward, whether the episode is over, whether it was a success."""

    reward: float
    done: bool
    success: bool


@dataclasses.dataclass(frozen=True)
class EnvTask:
    """A task of an environment.

    Attributes:
      group: name of the suite.
      number: of the task in its suite.
      name: what it is called.
    """

    group: str
    number: int
    name: str


@runtime_checkable
class PolicyEnv(Protocol):
    """An environment with language tasks and cameras, as rollouts drive it; one at a time."""

    @property
    def fps(self) -> float:
        """Steps a second."""
        ...

    @property
    def tasks(self) -> tuple[EnvTask, ...]:
        """Tasks that `reset` takes."""
        ...

    @property
    def geometry(self) -> Mapping[str, Mapping[str, bool]]:
        """Camera -> `model_rot180`, `video_rot180`: how pictures are turned from the camera's."""
        ...

    @property
    def other_prompts(self) -> tuple[str, ...]:
        """Instructions that would make sense in the scene of this episode, without its own."""
        ...

    def reset(self, task: EnvTask, *, seed: int, episode: int) -> str:
        """Begins an episode and returns its prompt.

        Args:
          task: one of `tasks`.
          seed: of everything that is drawn.
          episode: how often the task has been begun before, for recorded start states.
        """
        ...

    def view(self) -> View:
        """Renders what the policy sees now."""
        ...

    def objects(self) -> Objects:
        """Renders where the objects are now."""
        ...

    def calibration(self) -> Mapping[str, Calibration]:
        """Camera -> where it is and how far it sees now, one moment; empty if that is not known."""
        ...

    def step(self, action: np.ndarray) -> Outcome:
        """Carries out one action, (a,) float32, in units of the robot."""
        ...

    def close(self) -> None:
        """Releases what is held; may be called twice."""
        ...
