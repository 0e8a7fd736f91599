import pytest

from attn_jax.core.errors import ConfigError
from configs import tabletop
from configs.rollout import get_config
from tests import testing


def test_environments():
    config = get_config("libero,suite=libero_goal,size=224")
    assert (config.env.name, config.env.suite, config.env.size) == ("libero", "libero_goal", 224)
    assert (config.seed, config.episodes, config.n_envs, config.max_steps) == (1000, 10, 1, None)
    tiny = get_config("libero,tiny")
    assert (tiny.episodes, tiny.max_steps, tiny.env.task_ids) == (1, 4, (0,))
    crowded = get_config("tabletop,task=place,distractors=3").env
    assert (crowded.task, crowded.distractors) == ("place", 3)


def test_a_tabletop_as_it_is_recorded():
    """Every field of the recorder's robot but the limit of steps, which rollouts have apart."""
    recorded = tabletop.get_config("task=place,size=48").robot.to_dict()
    recorded.pop("max_steps")
    assert get_config("tabletop,task=place,size=48").env.to_dict() == recorded


@pytest.mark.parametrize(
    "arg",
    [
        None,
        "libero,tabletop",
        "kitchen",
        "libero,size=big",
        "libero,distractors=3",
        "tabletop,suite=libero_goal",
    ],
)
def test_bad_arguments(arg):
    with pytest.raises(ConfigError):
        get_config(arg)


if __name__ == "__main__":
    testing.main()
