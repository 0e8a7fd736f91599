"""What a picture of the tabletop costs: our renderer against one `mujoco.mj_ray` per pixel.

    python -m benchmarks.tabletop_render [--small] [--rounds=N] [--json]

The scene is a pick task with two things; a picture is rgb with shadows, depth, segmentation and
points. The loop casts the same rays one by one from Python and does no shading, at 32 x 32 pixels
(`--small`: 16 x 16). Both take turns; the ratio is the median over rounds. The milliseconds at 64
and 224 pixels are CPU time of this thread, least and median, so that other programs count less.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import mujoco
import numpy as np
from absl import flags

from launch import app
from robots.tabletop.camera import Renderer
from robots.tabletop.env import TabletopEnv

_ROUNDS = flags.DEFINE_integer("rounds", 15, "How often each is timed.", allow_override=True)
_SMALL = flags.DEFINE_bool(
    "small", False, "Small pictures: a smoke test of the benchmark.", allow_override=True
)


def loop(env: TabletopEnv, renderer: Renderer) -> tuple[np.ndarray, np.ndarray]:
    """Geoms (h, w) and depth (h, w) by one mj_ray per pixel."""
    camera = renderer.camera
    pose = renderer.pose(env.data)
    geoms = np.empty((camera.height, camera.width), np.int32)
    depth = np.empty((camera.height, camera.width))
    found = np.zeros(1, np.int32)
    origin = pose[:3, 3].copy()
    for index, ray in enumerate(camera.rays(pose[:3, :3]).reshape(-1, 3)):
        reach = mujoco.mj_ray(env.model, env.data, origin, ray, None, True, -1, found)
        geoms.flat[index] = found[0]
        depth.flat[index] = max(reach, 0.0)
    return geoms, depth


def cpu_ms(function: Callable[[], Any]) -> float:
    """CPU time of one call, milliseconds."""
    start = time.thread_time()
    function()
    return 1e3 * (time.thread_time() - start)


def measure(rounds: int, small: bool) -> dict[str, Any]:
    """Times both and returns milliseconds and the ratio."""
    env = TabletopEnv("pick", size=16 if small else 32)
    env.reset(seed=0)
    renderers = {camera.name: Renderer(env.model, camera) for camera in env.cameras}
    ratios = []
    for _ in range(rounds):
        for renderer in renderers.values():
            slow = cpu_ms(lambda r=renderer: loop(env, r))
            ratios.append(slow / cpu_ms(lambda r=renderer: r.render(env.data)))
    result: dict[str, Any] = {
        "pixels": env.cameras[0].height,
        "ratio_to_mj_ray_loop": statistics.median(ratios),
    }
    for size in (16,) if small else (64, 224):
        for camera in env.cameras:
            for shadows in (True, False):
                renderer = Renderer(env.model, camera.of_size(size, size), shadows=shadows)
                times = [cpu_ms(lambda r=renderer: r.render(env.data)) for _ in range(rounds)]
                name = f"{camera.name}_{size}_{'shadows' if shadows else 'plain'}_ms"
                result[name] = {"least": min(times), "median": statistics.median(times)}
    return result


def main() -> dict[str, Any]:
    """Prints a line per measurement and returns them."""
    result = measure(_ROUNDS.value, _SMALL.value)
    for name, value in result.items():
        if isinstance(value, dict):
            print(f"{name:28s} least {value['least']:7.2f}  median {value['median']:7.2f}")
    pixels = result["pixels"]
    print(f"{pixels} x {pixels}: {result['ratio_to_mj_ray_loop']:.1f} times as fast as the loop")
    return result


if __name__ == "__main__":
    app.run(main)
