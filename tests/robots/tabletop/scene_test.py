import mujoco
import numpy as np
import pytest

from attn_jax.core.errors import ConfigError
from robots.tabletop.scene import COLOURS, SHAPES, Scene, Thing
from tests import testing


def settled(scene, seconds=1.0):
    model = mujoco.MjModel.from_xml_string(scene.mjcf())
    data = mujoco.MjData(model)
    mujoco.mj_step(model, data, round(seconds / model.opt.timestep))
    return model, data


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_rests_where_it_is_put(shape):
    things = [Thing(shape, "red", (0.05, -0.04), yaw_rad=0.3)]
    if shape == "plug":
        things.append(Thing("socket", "red", (0.05, -0.04), yaw_rad=0.3))
    _, data = settled(Scene(tuple(things)))
    body = data.body("thing0")
    assert np.allclose(body.xpos, things[0].position, atol=1.5e-3)
    turn = body.xmat.reshape(3, 3)
    assert np.arctan2(turn[1, 0], turn[0, 0]) == pytest.approx(0.3, abs=0.02)
    assert turn[2, 2] > 0.999


@pytest.mark.parametrize("shape", SHAPES)
def test_radius_holds_the_shape(shape):
    model, data = settled(Scene((Thing(shape, "blue", (0.0, 0.0)),)), seconds=0.01)
    body = model.body("thing0").id
    corners = []
    for geom in np.flatnonzero(model.geom_bodyid == body):
        centre, half = model.geom_aabb[geom].reshape(2, 3)
        signs = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, -1).T
        local = centre + half * signs
        corners.append(data.geom_xpos[geom] + local @ data.geom_xmat[geom].reshape(3, 3).T)
    reach = np.hypot(*(np.concatenate(corners) - data.xpos[body])[:, :2].T).max()
    slack = 1.45 if shape in ("ball", "cylinder") else 1.1  # their boxes are larger than they
    assert reach <= SHAPES[shape].radius_m * slack


def test_hand_hovers_where_it_is_put():
    _, data = settled(Scene((), hand_position=(0.02, -0.03, 0.12), hand_yaw_rad=0.4))
    assert np.allclose(data.body("hand").xpos, (0.02, -0.03, 0.12), atol=1e-3)
    turn = data.body("hand").xmat.reshape(3, 3)
    assert np.arctan2(turn[1, 0], turn[0, 0]) == pytest.approx(0.4, abs=0.01)


def test_colours_reach_the_model():
    model, _ = settled(Scene((Thing("cube", "yellow", (0.0, 0.0)),)), seconds=0.01)
    geom = np.flatnonzero(model.geom_bodyid == model.body("thing0").id)[0]
    assert np.allclose(model.geom_rgba[geom, :3], COLOURS["yellow"], atol=1e-6)


def test_bad_things():
    with pytest.raises(ConfigError, match="unknown shape 'cone'"):
        Thing("cone", "red", (0.0, 0.0))
    with pytest.raises(ConfigError, match="unknown colour 'beige'"):
        Thing("cube", "beige", (0.0, 0.0))
    cube = Thing("cube", "red", (0.0, 0.0))
    with pytest.raises(ConfigError, match="two things of one name"):
        Scene((cube, cube))


if __name__ == "__main__":
    testing.main()
