"""The scripted controller in LIBERO, replayed states, depth and camera poses; real assets."""

from __future__ import annotations

import numpy as np
import pytest

from attn_jax.core.errors import ConfigError
from robots.libero.demonstrations import demonstrate
from robots.libero.env import CAMERAS, LiberoEnv
from tests import testing

testing.require_module("libero")
testing.require_library("OSMesa")
pytestmark = [pytest.mark.bridge, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

SIZE = 64


@pytest.fixture(scope="module")
def env():
    made = LiberoEnv("libero_object", (0,), size=SIZE)
    yield made
    made.close()


def test_the_controller_picks_and_places(env):
    demo, *others = (
        demonstrate(env, env.tasks[0], seed=0, episode=number, keep_every=every)
        for number, every in enumerate((30, 500, 500, 500, 500))  # pictures take most of the time
    )
    assert demo.success and sum(other.success for other in others) >= 3
    length = demo.info["length"]
    assert length == -(-demo.info["steps"] // 30) == len(demo.frames["action"])
    assert demo.info["prompt"] == "pick up the alphabet soup and place it in the basket"
    assert demo.info["roles"]["alphabet_soup_1"] == "target"
    assert demo.frames["observation.state"].shape == (length, 8)
    assert np.abs(demo.frames["action"]).max() <= 1
    # It begins above the table with open fingers and ends with the thing in sight, over the basket.
    number = demo.info["objects"].index("alphabet_soup_1") + 1
    seen = demo.masks["image"] == number
    assert seen.shape == (length, SIZE, SIZE) and seen[0].any()
    fingers = demo.frames["observation.state"][:, 6]
    assert fingers[0] > 0.03 and fingers[length // 2] < fingers[0] - 0.005


def test_replayed_states_look_as_they_did(env):
    env.reset(env.tasks[0], seed=0, episode=2)
    seen, states = [], []
    for _ in range(3):
        env.step(np.array([0.6, -0.3, -0.5, 0, 0, 0, 1], np.float32))
        states.append(env.simulator_state())
        env.restore(states[-1])  # brings positions up to the state, as replaying does
        seen.append((env.view(), env.objects(), env.depth()))
    for state, (view, objects, depth) in zip(states, seen, strict=True):
        env.restore(state)
        again = env.view()
        np.testing.assert_array_equal(again.state, view.state)
        for camera in CAMERAS:
            np.testing.assert_array_equal(again.images[camera], view.images[camera])
            np.testing.assert_array_equal(env.objects().masks[camera], objects.masks[camera])
            np.testing.assert_array_equal(env.depth()[camera], depth[camera])
    assert not np.array_equal(seen[0][0].images["image2"], seen[2][0].images["image2"])


def test_unprojected_masks_lie_where_the_objects_are(env):
    env.reset(env.tasks[0], seed=0, episode=0)
    env.restore(env.simulator_state())
    depth, objects = env.depth(), env.objects()
    found = 0
    for number, name in enumerate(objects.names):
        points = []
        for camera in CAMERAS:
            intrinsics, pose = env.camera(camera)
            rows, columns = np.nonzero(objects.masks[camera][number])
            pixels = np.stack([columns + 0.5, rows + 0.5, np.ones(len(rows))])
            inside = np.linalg.inv(intrinsics) @ pixels * depth[camera][rows, columns]
            points.append((pose[:3, :3] @ inside).T + pose[:3, 3])
        cloud = np.concatenate(points)
        if len(cloud) < 9 or name == "basket_1":
            continue  # the position of the basket is at its bottom
        found += 1
        # What is seen is the near side of a thing, up to half its height from its middle.
        np.testing.assert_allclose(
            np.median(cloud, axis=0), env.position(name), atol=0.05, err_msg=name
        )
    assert found >= 3


def test_other_tasks_are_refused():
    env = LiberoEnv("libero_goal", (0,), size=SIZE)
    with pytest.raises(ConfigError, match="only puts one thing somewhere"):
        demonstrate(env, env.tasks[0], seed=0, episode=0)
    env.close()


if __name__ == "__main__":
    testing.main()
