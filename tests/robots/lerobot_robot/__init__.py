"""A package of its own, because LeRobot imports all of the package that it discovers."""

from tests.robots.lerobot_robot.tabletop_robot import TabletopRobot, TabletopRobotConfig

__all__ = ["TabletopRobot", "TabletopRobotConfig"]
