"""The rendering benchmark compares the same rays, and reports what it says."""

import numpy as np

from benchmarks import tabletop_render
from robots.tabletop.camera import Renderer
from robots.tabletop.env import TabletopEnv
from tests import testing


def test_the_loop_sees_the_same():
    env = TabletopEnv("place", size=12)
    env.reset(seed=1)
    for camera in env.cameras:
        renderer = Renderer(env.model, camera)
        geoms, depth = tabletop_render.loop(env, renderer)
        picture = renderer.render(env.data)
        assert np.array_equal(geoms, picture.geoms)
        assert np.allclose(depth, picture.depth_m, atol=1e-5)


def test_what_is_reported():
    result = tabletop_render.measure(rounds=2, small=True)
    assert result["ratio_to_mj_ray_loop"] > 0
    assert set(result["wrist_16_shadows_ms"]) == {"least", "median"}
    assert all(value["least"] > 0 for value in result.values() if isinstance(value, dict))


if __name__ == "__main__":
    testing.main()
