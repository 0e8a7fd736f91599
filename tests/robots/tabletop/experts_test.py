import numpy as np
import pytest

from robots.tabletop.env import TabletopEnv
from robots.tabletop.experts import Expert
from robots.tabletop.tasks import TASKS, TaskConfig
from tests import testing


def run(task, seeds, noise=0.0, target=None):
    """Length of every episode; None without success. Pictures of 4 pixels cost nothing."""
    env = TabletopEnv(task, size=4, cameras=("front",), views=("images",), shadows=False)
    expert, lengths = Expert(env), []
    for seed in seeds:
        random = np.random.default_rng(seed)
        _, info = env.reset(seed=seed)
        if target is not None:
            others = [name for name, role in info["roles"].items() if role == "distractor"]
            env.reset(seed=seed, options={"target": others[0]})
        terminated, step = False, 0
        while not terminated and step < env.max_steps:
            step += 1
            action = expert.act()
            assert action.dtype == np.float32 and np.abs(action).max() <= 1
            action[:6] += noise * random.normal(size=6)
            *_, terminated, _, info = env.step(action)
        lengths.append(step if info["is_success"] else None)
    return lengths


@pytest.mark.parametrize(("name", "longest"), [("pick", 40), ("unplug", 40), ("place", 65)])
def test_success_over_ten_seeds(name, longest):
    lengths = run(name, range(10))
    assert None not in lengths
    assert 15 < np.mean(lengths) < longest and max(lengths) < TASKS[name] * 0.9


@pytest.mark.parametrize("name", TASKS)
def test_errors_are_put_right(name):
    lengths = run(name, range(20, 26), noise=0.25)
    assert sum(length is not None for length in lengths) >= 5


def test_the_other_thing_can_be_asked_for():
    assert None not in run("pick", range(5), target="other")


def test_long_things_and_many_of_them():
    task = TaskConfig("pick", shapes=("stick", "bar", "cube"), distractors=3)
    lengths = run(task, range(6))
    assert sum(length is not None for length in lengths) >= 5


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_success_over_a_hundred_seeds(name):
    lengths = run(name, range(1000, 1100), noise=0.1)
    assert sum(length is not None for length in lengths) >= 95


if __name__ == "__main__":
    testing.main()
