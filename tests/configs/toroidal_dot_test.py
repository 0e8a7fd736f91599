import pytest

from attn_jax.core.errors import ConfigError
from configs.toroidal_dot import get_config
from tests import testing


@pytest.mark.parametrize(
    ("arg", "size", "move"), [(None, 224, 27), ("size=112", 112, 13), ("size=64", 64, 7)]
)
def test_sizes(arg, size, move):
    config = get_config(arg)
    assert (config.robot.size, config.robot.move, config.robot.radius) == (size, move, 5)
    assert (config.seed, config.steps, config.episodes) == (0, 1000, 1)


@pytest.mark.parametrize("arg", ["size=100", "tiny", "size=big"])
def test_bad_arguments(arg):
    with pytest.raises(ConfigError):
        get_config(arg)


if __name__ == "__main__":
    testing.main()
