"""Records a robot: observation, action, observation, ..., always ending with an observation.

with SessionWriter(path, action_space=robot.action_space, robot_type="ToroidalDot") as writer:
    summary = record(robot, select, writer, num_observations=1000)
"""

from __future__ import annotations

import collections
import dataclasses

from attn_jax.core.errors import ConfigError
from attn_jax.data.session_writer import SessionWriter
from attn_jax.data.sessions import action_index
from robots.interface import EpisodicRobot, RobotError, RobotInterface
from robots.selectors import Action, Selector


@dataclasses.dataclass(frozen=True)
class RecordSummary:
    """What was recorded.

    Attributes:
      observations: frames written.
      actions: actions written.
      episodes: episodes begun.
      action_counts: times each action of the action space was taken.
    """

    observations: int
    actions: int
    episodes: int
    action_counts: tuple[int, ...]


def record(
    robot: RobotInterface,
    select: Selector,
    writer: SessionWriter,
    *,
    num_observations: int,
    episodes: int = 1,
) -> RecordSummary:
    """Runs the robot and writes what it sees and does. Neither robot nor writer is closed.

    Args:
      robot: must be an `EpisodicRobot` for more than one episode.
      select: chooses actions; StopIteration ends the recording early.
      writer: of a new session.
      num_observations: frames over all episodes, see `episode_lengths`.
      episodes: the robot starts afresh for each, and no action joins two of them.

    Raises:
      ConfigError: fewer observations than episodes, or the robot cannot start afresh.
      RobotError: no picture, or an action failed. What was recorded before stays.
    """
    lengths = episode_lengths(num_observations, episodes)
    if episodes > 1 and not isinstance(robot, EpisodicRobot):
        raise ConfigError(f"{type(robot).__name__} cannot start a second episode")
    observations = 0
    counts: collections.Counter[int] = collections.Counter()
    finished = False
    for episode, length in enumerate(lengths):
        if episode:
            robot.new_episode()
        if episodes > 1:
            writer.start_episode()
        history: list[Action] = []
        frame = _observe(robot, writer)
        observations += 1
        for _ in range(length - 1):
            try:
                action = select(frame, robot.action_space, history)
            except StopIteration:
                finished = True
                break
            counts[_act(robot, writer, action)] += 1
            history.append(action)
            frame = _observe(robot, writer)
            observations += 1
        if finished:
            break
    return RecordSummary(
        observations=observations,
        actions=counts.total(),
        episodes=episode + 1,
        action_counts=tuple(counts[i] for i in range(len(robot.action_space))),
    )


def episode_lengths(num_observations: int, episodes: int) -> tuple[int, ...]:
    """Observations of each episode; the first ones take the remainder.

    Raises:
      ConfigError: fewer observations than episodes, or no episode.
    """
    if episodes < 1 or num_observations < episodes:
        raise ConfigError(
            f"{num_observations} observations cannot fill {episodes} episodes",
            fix="Ask for at least one observation per episode",
        )
    return tuple(
        num_observations // episodes + (i < num_observations % episodes) for i in range(episodes)
    )


def _observe(robot: RobotInterface, writer: SessionWriter):
    frame = robot.get_observation()
    if frame is None:
        raise RobotError(f"{type(robot).__name__} gave no picture", where=writer.path)
    writer.observation(frame)
    return frame


def _act(robot: RobotInterface, writer: SessionWriter, action: Action) -> int:
    """Executes, then records: an action that failed was not taken. Returns its number."""
    space = robot.action_space
    number = action_index(action, space)
    if not robot.execute_action(action):
        raise RobotError(
            f"{type(robot).__name__} could not execute {dict(action)}", where=writer.path
        )
    writer.action(action)
    return number
