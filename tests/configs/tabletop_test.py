import pytest

from attn_jax.core.errors import ConfigError
from configs.tabletop import get_config
from robots.tabletop.tasks import TASKS, TaskConfig
from tests import testing


def test_defaults_are_those_of_the_task():
    config = get_config()
    task = TaskConfig()
    assert (config.robot.task, config.robot.distractors) == (task.name, task.distractors)
    assert tuple(config.robot.colours) == task.colours
    assert tuple(config.robot.shapes) == task.shapes
    assert (config.seed, config.episodes, config.robot.size) == (0, 200, 64)


def test_arguments():
    assert get_config("size=96,task=place").robot.size == 96
    assert get_config("tiny").episodes == 2
    for name in TASKS:
        assert get_config(f"task={name}").robot.task == name


@pytest.mark.parametrize("arg", ["task=juggle", "size=big", "colour=red"])
def test_bad_arguments(arg):
    with pytest.raises(ConfigError):
        get_config(arg)


if __name__ == "__main__":
    testing.main()
