"""A short recording of the toroidal dot, for tests of launchers."""

import pathlib

from attn_jax.data.session_writer import SessionWriter
from robots.record import record
from robots.selectors import random_duration
from robots.toroidal_dot import DotConfig, ToroidalDot


def record_dot(path: pathlib.Path, observations: int = 40) -> pathlib.Path:
    """Records 64-pixel frames into `path`, which it returns."""
    robot = ToroidalDot(DotConfig.of_size(64), seed=3)
    with SessionWriter(path, action_space=robot.action_space, robot_type="ToroidalDot") as writer:
        record(robot, random_duration(1, 3, seed=3), writer, num_observations=observations)
    return path
