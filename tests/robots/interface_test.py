from attn_jax.core.errors import InputError
from robots.interface import EpisodicRobot, RobotError, RobotInterface
from robots.toroidal_dot import ToroidalDot
from tests import testing


class Minimal:
    action_space = ({"action": 0},)

    def get_observation(self):
        return None

    def execute_action(self, action):
        return True

    def cleanup(self):
        pass


def test_a_plain_class_is_a_robot():
    assert isinstance(Minimal(), RobotInterface)
    assert not isinstance(Minimal(), EpisodicRobot)
    assert isinstance(ToroidalDot(), EpisodicRobot)
    assert not isinstance(object(), RobotInterface)


def test_robot_errors_are_input_errors():
    assert issubclass(RobotError, InputError)


if __name__ == "__main__":
    testing.main()
