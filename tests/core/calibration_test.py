"""Tests of attn_jax.core.calibration on planes and walls, whose depth has a formula."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from attn_jax.core.calibration import Calibration, joined, points_in, unproject
from tests import testing

HEIGHT, WIDTH = 24, 32
CENTRES = np.stack(np.mgrid[0:HEIGHT, 0:WIDTH], -1).astype(np.float64)


def camera(position, turn=(0.0, 0.0, 0.0), *, focal=30.0, mirrored=False):
    """Pose and intrinsics of a camera above the ground that looks down, then turned (radians)."""
    pose = np.eye(4)
    down = np.diag([1.0, -1.0, -1.0])
    pose[:3, :3] = down @ Rotation.from_rotvec(turn).as_matrix()
    pose[:3, 3] = position
    across = -focal if mirrored else focal
    return pose, np.array([[across, 0, WIDTH / 2], [0, focal, HEIGHT / 2], [0, 0, 1.0]])


def rays(pose, intrinsics):
    y, x = CENTRES[..., 0] + 0.5, CENTRES[..., 1] + 0.5
    slopes = [(x - intrinsics[0, 2]) / intrinsics[0, 0], (y - intrinsics[1, 2]) / intrinsics[1, 1]]
    return np.stack([*slopes, np.ones_like(x)], -1) @ pose[:3, :3].T


def above_ground(*arguments, **settings):
    """A camera that sees the plane z = 0, and the points of it that its pixels show."""
    pose, intrinsics = camera(*arguments, **settings)
    direction = rays(pose, intrinsics)
    depth = -pose[2, 3] / direction[..., 2]
    assert (depth > 0).all()
    points = pose[:3, 3] + depth[..., None] * direction
    return Calibration(depth[None], pose[None], intrinsics), points


small = st.floats(-0.15, 0.15)


@given(st.tuples(small, small, small), st.tuples(small, small), st.booleans())
def test_points_of_the_ground_are_found_in_the_other_picture(turn, place, mirrored):
    """Its own formula: the world point of every pixel, projected."""
    one, points = above_ground((0.0, 0.0, 1.0))
    other, _ = above_ground((*place, 1.2), turn, mirrored=mirrored)
    np.testing.assert_allclose(unproject(one.depth_m, one.pose, one.intrinsics)[0], points)
    found = points_in(one, other, CENTRES)
    assert found.shape == (1, HEIGHT, WIDTH, 2)
    back = np.linalg.inv(other.pose[0])
    seen = points @ back[:3, :3].T + back[:3, 3]
    pixels = seen @ other.intrinsics.T
    expected = (pixels[..., :2] / pixels[..., 2:])[..., ::-1] - 0.5
    inside = ((expected > -0.5) & (expected < [HEIGHT - 0.5, WIDTH - 0.5])).all(-1)
    assert inside.any()
    np.testing.assert_array_equal(np.isfinite(found[0]).all(-1), inside)
    np.testing.assert_allclose(found[0][inside], expected[inside], atol=1e-9)


def test_a_camera_finds_its_own_points():
    one, _ = above_ground((0.1, -0.2, 0.8), (0.1, -0.1, 0.3))
    np.testing.assert_allclose(points_in(one, one, CENTRES)[0], CENTRES, atol=1e-9)
    half = Calibration(one.depth_m.astype(np.float16), one.pose, one.intrinsics)
    np.testing.assert_allclose(points_in(half, half, CENTRES)[0], CENTRES, atol=1e-9)


def test_a_camera_moved_right_sees_things_further_left():
    """By the focal length of 30 pixels times 0.1 m over the distance of 1 m."""
    one, _ = above_ground((0.0, 0.0, 1.0))
    other, _ = above_ground((0.1, 0.0, 1.0))
    found = points_in(one, other, np.array([[12.0, 10.0]]))
    np.testing.assert_allclose(found, [[[12.0, 7.0]]], atol=1e-9)


def test_what_is_not_seen_is_nan():
    one, _ = above_ground((0.0, 0.0, 1.0))
    other, _ = above_ground((0.1, 0.0, 1.0))
    points = np.array([[5.0, 10.0], [12.0, 10.0], [12.0, 1.0], [40.0, 3.0], [-1.0, 3.0]])
    assert np.isfinite(points_in(one, other, points)).all(-1).tolist() == [
        [True, True, False, False, False]
    ]
    one.depth_m[0, 5, 10] = 0  # nothing there
    other.depth_m[0, 12, 7] = 0.9  # something nearer
    assert not np.isfinite(points_in(one, other, points)).any()
    other.depth_m[0, 12, 7] = 0.99  # as near as a slope within the pixel may be
    assert np.isfinite(points_in(one, other, points)).all(-1).sum() == 1
    other.depth_m[0, 12, 7] = 0  # the other camera sees nothing there, so nothing hides it
    assert np.isfinite(points_in(one, other, points)).all(-1).sum() == 1


def test_what_lies_behind_the_other_camera_is_not_seen():
    one, _ = above_ground((0.0, 0.0, 1.0))
    pose, intrinsics = camera((0.0, 0.0, -1.0))
    other = Calibration(np.zeros((1, HEIGHT, WIDTH)), pose[None], intrinsics)
    assert np.isnan(points_in(one, other, CENTRES)).all()


def test_moments_are_apart():
    parts = [above_ground((0.0, 0.0, height))[0] for height in (0.5, 1.0, 2.0)]
    moving = joined(parts)
    assert moving.depth_m.shape == (3, HEIGHT, WIDTH) and moving.pose.shape == (3, 4, 4)
    still = joined([parts[1]] * 3)
    whole = points_in(still, moving, CENTRES[::5, ::5])
    for number in range(3):
        alone = points_in(parts[1], parts[number], CENTRES[::5, ::5])[0]
        np.testing.assert_array_equal(whole[number], alone)
    late = moving.at(np.array([2, 0]))
    np.testing.assert_array_equal(late.pose, np.concatenate([parts[2].pose, parts[0].pose]))
    assert late.depth_m[0, 0, 0] == pytest.approx(4 * late.depth_m[1, 0, 0])


if __name__ == "__main__":
    testing.main()
