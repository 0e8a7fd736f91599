import collections

import numpy as np
import pytest

from attn_jax.core.errors import ConfigError
from robots.tabletop.scene import SHAPES, Scene, Thing
from robots.tabletop.tasks import TASKS, TaskConfig, scatter
from tests import testing


def scenes(task, count):
    return [task.sample(np.random.default_rng(seed)) for seed in range(count)]


@pytest.mark.parametrize("distractors", [0, 1, 3])
@pytest.mark.parametrize("name", TASKS)
def test_scenes_are_as_promised(name, distractors):
    task = TaskConfig(name, distractors=distractors)
    for scene in scenes(task, 40):
        roles = collections.Counter(thing.role for thing in scene.things)
        assert roles["target"] == 1 and roles["distractor"] == distractors
        assert roles["place"] == (name == "place")
        movable = [thing for thing in scene.things if not SHAPES[thing.shape].fixed]
        for i, one in enumerate(movable):
            for other in movable[:i]:
                assert np.hypot(*np.subtract(one.place, other.place)) > 0.06
        assert task.prompt(scene) in task.prompts(scene).values()
        assert len(set(task.prompts(scene).values())) == distractors + 1


def test_neither_place_nor_order_tells_the_target():
    found = scenes(TaskConfig("pick"), 400)
    first = np.mean([scene.things[0].role == "target" for scene in found])
    assert 0.42 < first < 0.58  # 400 coins: 3.2 standard deviations
    y = [thing.place[1] for scene in found for thing in scene.things if thing.role == "target"]
    assert abs(np.mean(y)) < 0.012
    names = {thing.name for scene in found for thing in scene.things}
    assert len(names) == 12


def test_the_same_generator_gives_the_same_scene():
    task = TaskConfig("place")
    assert scenes(task, 3) == scenes(task, 3)
    assert len(set(scenes(task, 20))) == 20


def test_prompts():
    cube, ball = Thing("cube", "red", (0.0, 0.0), role="target"), Thing("ball", "blue", (0.1, 0.0))
    tray = Thing("tray", "green", (-0.1, 0.0), role="place")
    scene = Scene((cube, ball, tray))
    assert TaskConfig("pick").prompt(scene) == "find the red cube and pick it up"
    assert TaskConfig("place").prompt(scene) == "put the red cube in the green tray"
    plug = Scene((Thing("plug", "red", (0.0, 0.0), role="target"),))
    assert TaskConfig("unplug").prompt(plug) == "unplug the red plug"


def test_retarget_swaps_roles_only():
    task = TaskConfig("place")
    scene = task.sample(np.random.default_rng(0))
    other = next(thing.name for thing in scene.things if thing.role == "distractor")
    swapped = task.retarget(scene, other)
    assert task.prompt(swapped) == task.prompts(scene)[other] != task.prompt(scene)
    assert [thing.name for thing in swapped.things] == [thing.name for thing in scene.things]
    assert [thing.position for thing in swapped.things] == [t.position for t in scene.things]
    with pytest.raises(ConfigError, match="no 'green tray' to ask for"):
        task.retarget(scene, "green tray")


@pytest.mark.parametrize(
    ("name", "held", "rise", "shift", "done"),
    [
        ("pick", "red cube", 0.08, 0.0, True),
        ("pick", "red cube", 0.06, 0.0, False),
        ("pick", "blue ball", 0.08, 0.0, False),
        ("pick", None, 0.08, 0.0, False),
        ("place", None, 0.005, 0.0, True),
        ("place", None, 0.005, 0.06, False),
        ("place", None, 0.04, 0.0, False),
        ("place", "red cube", 0.005, 0.0, False),
    ],
)
def test_when_it_is_done(name, held, rise, shift, done):
    things = (
        Thing("cube", "red", (0.05, 0.0), role="target"),
        Thing("ball", "blue", (0.05, 0.1), role="distractor"),
        Thing("tray", "green", (-0.1, 0.0), role="place"),
    )
    place = things[2].place if name == "place" else things[0].place
    cube = (place[0] + shift, place[1], things[0].position[2] + rise)
    positions = [cube, things[1].position, things[2].position]
    assert TaskConfig(name).done(Scene(things), held, positions) == done


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "juggle"}, "unknown task 'juggle'"),
        ({"colours": ("red", "mauve")}, "mauve"),
        ({"colours": ()}, "cannot draw"),
        ({"shapes": ("cube", "cube")}, "each once"),
        ({"shapes": ("tray",)}, "tray"),
        ({"distractors": 4}, "4 distractors"),
        ({"distractors": -1}, "-1 distractors"),
        ({"colours": ("red",), "shapes": ("cube",)}, "1 distractors"),
        ({"name": "unplug", "colours": ("red",)}, "1 distractors"),
        ({"name": "place", "colours": ("red",)}, "1 distractors"),
    ],
)
def test_bad_tasks(fields, message):
    with pytest.raises(ConfigError, match=message):
        TaskConfig(**fields)


def test_too_much_for_the_table():
    with pytest.raises(ConfigError, match="do not fit"):
        scatter(np.random.default_rng(0), [0.2, 0.2], ((0.0, 0.0), (0.1, 0.1)))


if __name__ == "__main__":
    testing.main()
