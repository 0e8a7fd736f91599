"""Small random episodes, and their comparison.

episode = fake_episode(3, size=(6, 8), num_objects=2)
equal(read_episode(folder), episode)
"""

from __future__ import annotations

import numpy as np

from attn_jax.core.calibration import Calibration
from attn_jax.data.episodes import Episode


def fake_episode(
    calls: int = 2,
    *,
    size: tuple[int, int] = (6, 8),
    num_objects: int = 1,
    seed: int = 0,
    calibrated: bool = False,
) -> Episode:
    """An episode of two cameras, `front` with masks and `wrist` without; random content."""
    rng = np.random.default_rng(seed)
    pictures = {
        camera: rng.integers(0, 256, (calls, *size, 3), np.uint8) for camera in ("front", "wrist")
    }
    names = tuple(f"object{i}" for i in range(num_objects))
    return Episode(
        info={
            "prompt": "find the duck toy and pick it up",
            "success": bool(seed % 2),
            "geometry": {"front": {"model_rot180": True, "video_rot180": False}},
        },
        env_step=np.arange(calls) * 8,
        images=pictures,
        objects=names,
        roles=dict.fromkeys(names[:1], "target"),
        masks={"front": rng.random((calls, num_objects, *size)) < 0.3},
        state=rng.normal(size=(calls, 8)).astype(np.float32),
        actions=rng.normal(size=(calls, 5, 7)).astype(np.float32),
        calibration={
            camera: Calibration(
                rng.uniform(0, 2, (calls, *size)).astype(np.float16),
                rng.normal(size=(calls, 4, 4)),
                rng.normal(size=(3, 3)),
            )
            for camera in (pictures if calibrated else ())
        },
    )


def equal(found: Episode, expected: Episode) -> None:
    """Asserts that two episodes have the same content and types."""
    assert found.info == expected.info
    assert (found.objects, found.roles) == (expected.objects, expected.roles)
    assert found.cameras == expected.cameras and set(found.masks) == set(expected.masks)
    pairs = [(found.env_step, expected.env_step), (found.state, expected.state)]
    pairs += [(found.images[camera], expected.images[camera]) for camera in expected.images]
    pairs += [(found.masks[camera], expected.masks[camera]) for camera in expected.masks]
    assert found.calibration.keys() == expected.calibration.keys()
    for camera, wanted in expected.calibration.items():
        given = found.calibration[camera]
        pairs += [(given.depth_m, wanted.depth_m), (given.pose, wanted.pose)]
        pairs.append((given.intrinsics, wanted.intrinsics))
    assert (found.actions is None) == (expected.actions is None)
    if found.actions is not None and expected.actions is not None:
        pairs.append((found.actions, expected.actions))
    for a, b in pairs:
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
