import mujoco
import numpy as np
import pytest

from attn_jax.core.errors import ConfigError
from robots.tabletop.camera import CAMERAS, FRONT, TOP, WRIST, Camera, Renderer
from robots.tabletop.scene import Scene, Thing
from tests import testing

SCENE = Scene(
    (
        Thing("cube", "red", (0.05, 0.08), 0.3),
        Thing("ball", "blue", (-0.05, -0.08)),
        Thing("stick", "green", (0.06, -0.05), 0.2),
    )
)


@pytest.fixture(scope="module")
def world():
    model = mujoco.MjModel.from_xml_string(SCENE.mjcf())
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data


@pytest.mark.parametrize("name", CAMERAS)
def test_pixels_equal_single_rays(world, name):
    model, data = world
    camera = CAMERAS[name].of_size(12, 18)
    picture = Renderer(model, camera).render(data)
    geom = np.zeros(1, np.int32)
    focal = 6 / np.tan(np.radians(camera.fovy_deg) / 2)
    for i, j in np.ndindex(12, 18):
        ray = picture.pose[:3, :3] @ [(j + 0.5 - 9) / focal, (i + 0.5 - 6) / focal, 1.0]
        depth = mujoco.mj_ray(model, data, picture.pose[:3, 3], ray, None, True, -1, geom)
        assert picture.geoms[i, j] == geom[0]
        assert picture.depth_m[i, j] == pytest.approx(max(depth, 0), abs=1e-5)


@pytest.mark.parametrize("name", CAMERAS)
def test_depth_and_points_agree(world, name):
    model, data = world
    camera = CAMERAS[name].of_size(32, 32)
    picture = Renderer(model, camera).render(data)
    hit = picture.geoms >= 0
    homogeneous = np.concatenate([picture.points_m, np.ones((32, 32, 1))], axis=-1)
    local = homogeneous @ np.linalg.inv(picture.pose).T
    assert np.allclose(local[..., 2][hit], picture.depth_m[hit], atol=1e-5)
    pixels = local[..., :3] @ camera.intrinsics.T
    y, x = np.mgrid[0:32, 0:32] + 0.5
    assert np.allclose((pixels[..., 0] / pixels[..., 2])[hit], x[hit], atol=1e-3)
    assert np.allclose((pixels[..., 1] / pixels[..., 2])[hit], y[hit], atol=1e-3)
    table = picture.geoms == model.geom("table").id
    on_top = table & (np.abs(picture.points_m[..., 0]) < 0.29)
    assert on_top.any() and np.abs(picture.points_m[on_top][:, 2]).max() < 1e-5


def test_orientation_of_the_front_camera(world):
    """Asymmetric on purpose: the cube is near and to the right (y > 0), the ball far and left."""
    model, data = world
    picture = Renderer(model, FRONT).render(data)
    centre = {}
    for index in (0, 1):
        geom = np.flatnonzero(model.geom_bodyid == model.body(f"thing{index}").id)[0]
        centre[index] = np.argwhere(picture.geoms == geom).mean(axis=0)
    assert centre[0][1] > 32 > centre[1][1]  # columns
    assert centre[0][0] > centre[1][0]  # rows: near is further down


def test_colours_are_those_of_the_things(world):
    model, data = world
    picture = Renderer(model, TOP).render(data)
    for index, channel in ((0, 0), (1, 2), (2, 1)):
        geom = np.flatnonzero(model.geom_bodyid == model.body(f"thing{index}").id)[0]
        seen = picture.rgb[picture.geoms == geom]
        assert len(seen) > 20 and (seen.argmax(axis=1) == channel).all()


def test_the_wrist_camera_moves_with_the_hand(world):
    model, data = world
    renderer = Renderer(model, WRIST)
    before = renderer.pose(data)
    moved = mujoco.MjData(model)
    moved.qpos[:] = data.qpos
    moved.qpos[model.joint("hand").qposadr[0]] += 0.03
    mujoco.mj_forward(model, moved)
    assert np.allclose(renderer.pose(moved)[:3, 3] - before[:3, 3], (0.03, 0, 0))
    assert np.allclose(renderer.pose(moved)[:3, :3], before[:3, :3])


def test_shadows_darken_only_the_table(world):
    model, data = world
    lit = Renderer(model, FRONT, shadows=False).render(data)
    shaded = Renderer(model, FRONT, shadows=True).render(data)
    changed = (lit.rgb != shaded.rgb).any(axis=-1)
    assert 0.005 < changed.mean() < 0.3
    assert (lit.geoms[changed] == model.geom("table").id).all()
    assert (shaded.rgb[changed] < lit.rgb[changed]).all()


@pytest.mark.parametrize("name", CAMERAS)
def test_no_shadow_is_left_out(world, name, monkeypatch):
    model, data = world
    renderer = Renderer(model, CAMERAS[name].of_size(40, 40))
    quick, cast = renderer.render(data), renderer._may_be_dark
    table = quick.points_m[quick.geoms == model.geom("table").id].astype(float).T
    assert 0 < cast(data, table).mean() < 0.5
    monkeypatch.setattr(renderer, "_may_be_dark", lambda _, points: np.ones(points.shape[1], bool))
    np.testing.assert_array_equal(renderer.render(data).rgb, quick.rgb)


INSIDE = Camera("inside", (0.05, 0.09, 0.03), (0.05, 0.0, 0.02))
BELOW = Camera("below", (0.3, 0.1, -0.2), (0.0, 0.0, 0.0))
# Above one end of the stick's middle and along it: half of it is behind the camera.
ALONG = Camera("along", (0.06, -0.05, 0.05), (0.16, -0.03, 0.05), fovy_deg=130.0)


@pytest.mark.parametrize("camera", [*CAMERAS.values(), INSIDE, BELOW, ALONG], ids=lambda c: c.name)
@pytest.mark.parametrize("height", [0.0, -0.1])
def test_no_thing_is_left_out(world, camera, height, monkeypatch):
    """What is not cast is what casting gives; lowered, the hand is in front of every camera."""
    model, _ = world
    data = mujoco.MjData(model)
    data.qpos[model.joint("hand").qposadr[0] + 2] += height
    mujoco.mj_forward(model, data)
    renderer = Renderer(model, camera.of_size(48, 40))
    quick = renderer.render(data)
    monkeypatch.setattr(renderer, "_near", lambda *_: np.ones(48 * 40, np.bool_))
    cast = renderer.render(data)
    np.testing.assert_array_equal(quick.geoms, cast.geoms)
    np.testing.assert_array_equal(quick.rgb, cast.rgb)
    np.testing.assert_allclose(quick.depth_m, cast.depth_m, atol=1e-7)


def test_only_the_open_table_is_not_cast(world, monkeypatch):
    model, data = world
    renderer, cast = Renderer(model, FRONT), []
    monkeypatch.setattr(renderer, "_cast_shadows", lambda *_: None)
    original = renderer._cast
    monkeypatch.setattr(
        renderer, "_cast", lambda *args: (cast.append(len(args[2])), original(*args))[1]
    )
    picture = renderer.render(data)
    table = (picture.geoms == model.geom("table").id).sum()
    assert picture.geoms.size - table <= cast[0] < picture.geoms.size - 0.5 * table


def test_rays_into_the_sky(world):
    model, data = world
    up = Camera("up", (0, 0, 0.5), (0, 0, 1), (1, 0, 0), height=4, width=4)
    picture = Renderer(model, up).render(data)
    assert (picture.geoms == -1).all() and (picture.depth_m == 0).all()
    assert np.allclose(picture.points_m, (0, 0, 0.5))
    assert (picture.rgb == picture.rgb[0, 0]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": 0}, "no picture of 0"),
        ({"fovy_deg": 180.0}, "degrees"),
        ({"name": "a b"}, "letters"),
        ({"up": (0.0, 0.0, 0.0)}, "looks along"),
        ({"position": (float("nan"), 0.0, 0.36)}, "looks along"),
        ({"look_at": (0.40, 0.0, 0.36)}, "at itself"),
    ],
)
def test_bad_cameras(change, message):
    fields = {"name": "x", "position": (0.40, 0.0, 0.36), "look_at": (0.0, 0.0, 0.0)} | change
    with pytest.raises(ConfigError, match=message):
        Camera(**fields)


if __name__ == "__main__":
    testing.main()
