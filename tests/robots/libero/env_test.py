"""LIBERO's simulator: pictures, masks and states; real assets, few steps."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from attn_jax.core.calibration import points_in
from attn_jax.core.errors import ConfigError
from robots.interface import PolicyEnv
from robots.libero.env import CAMERAS, LiberoEnv, rotation_vector
from tests import testing

testing.require_module("libero")
testing.require_library("OSMesa")
# Its packages warn on import and of the age of what they use.
pytestmark = [pytest.mark.bridge, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

SIZE = 128


@pytest.fixture(scope="module")
def env():
    made = LiberoEnv("libero_object", (0,), size=SIZE, settle_steps=2)
    made.reset(made.tasks[0], seed=0, episode=0)
    yield made
    made.close()


def test_rotation_vector():
    quaternion = Rotation.from_rotvec([0.3, -0.2, 0.9]).as_quat()
    np.testing.assert_allclose(rotation_vector(quaternion), [0.3, -0.2, 0.9], atol=1e-7)
    np.testing.assert_array_equal(rotation_vector(np.array([0, 0, 0, 1.0])), 0)


def test_view_and_objects(env):
    assert isinstance(env, PolicyEnv)
    view = env.view()
    assert {name: p.shape for name, p in view.images.items()} == dict.fromkeys(
        CAMERAS, (SIZE, SIZE, 3)
    )
    assert view.state.shape == (8,) and view.state.dtype == np.float32
    assert "pick up the cream cheese and place it in the basket" in env.other_prompts
    assert not any("alphabet soup" in prompt for prompt in env.other_prompts)
    objects = env.objects()
    assert objects.roles["alphabet_soup_1"] == "target" and objects.roles["basket_1"] == "place"
    assert set(objects.roles) == set(objects.names)


def test_masks_stand_where_the_objects_are(env):
    """The centre of every mask is near the projection of the object's position."""
    objects, sim = env.objects(), env._env.sim
    camera = sim.model.camera_name2id("agentview")
    focal = 0.5 * SIZE / np.tan(np.deg2rad(sim.model.cam_fovy[camera]) / 2)
    rotation = sim.data.cam_xmat[camera].reshape(3, 3) @ np.diag([1, -1, -1])
    for number, name in enumerate(objects.names):
        mask = objects.masks["image"][number]
        if mask.sum() < 30 or name == "basket_1":
            continue  # the position of the basket is at its bottom
        x, y, z = rotation.T @ (env._raw[f"{name}_pos"] - sim.data.cam_xpos[camera])
        column, row = SIZE / 2 + focal * x / z, SIZE / 2 + focal * y / z
        rows, columns = np.nonzero(mask)
        # Upright in the camera; a policy sees LeRobot's turn of the picture, which is upside down
        # in rows already, so that left and right change sides.
        found = rows.mean(), SIZE - 1 - columns.mean()
        np.testing.assert_allclose(found, (row, column), atol=5, err_msg=name)


def test_cameras_find_each_others_points(env):
    """What both see of a thing is the thing in both pictures."""
    objects, seen = env.objects(), env.calibration()
    pixels = np.argwhere(objects.masks["image"].any(0)).astype(np.float64)
    found = points_in(seen["image"], seen["image2"], pixels)[0]
    both = np.isfinite(found).all(-1)
    assert both.sum() > 30
    mine, theirs = (np.rint(p[both]).astype(int).T for p in (pixels, found))
    same = (
        objects.masks["image"][:, mine[0], mine[1]]
        & objects.masks["image2"][:, theirs[0], theirs[1]]
    )
    assert same.any(0).mean() > 0.9


def test_the_same_seed_and_actions_give_the_same_states(env):
    states = []
    for _ in range(2):
        prompt = env.reset(env.tasks[0], seed=3, episode=1)
        outcome = env.step(np.array([0.5, 0, 0, 0, 0, 0, -1], np.float32))
        states.append(env.view().state)
    assert prompt == "pick up the alphabet soup and place it in the basket"
    np.testing.assert_array_equal(*states)
    assert not outcome.done and not outcome.success
    for action in (np.zeros(4), np.full(7, np.nan)):
        with pytest.raises(ConfigError, match="7 finite numbers"):
            env.step(action)


def test_unknown_names():
    with pytest.raises(ConfigError, match="no suite 'kitchen'"):
        LiberoEnv("kitchen")
    with pytest.raises(ConfigError, match="tasks 0 to 9"):
        LiberoEnv("libero_object", (10,))
    with pytest.raises(ConfigError, match="names a task twice"):
        LiberoEnv("libero_object", (3, 3))
    own, longer = LiberoEnv("libero_object"), LiberoEnv("libero_object", max_steps=400)
    assert (own.max_steps, longer.max_steps) == (280, 400)


if __name__ == "__main__":
    testing.main()
