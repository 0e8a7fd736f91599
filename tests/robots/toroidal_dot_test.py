import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_jax.core.errors import ConfigError
from robots.interface import RobotError
from robots.toroidal_dot import (
    MOVE,
    DotConfig,
    ToroidalDot,
    disc,
    locate_dot,
    render,
    step,
    toroidal_distance,
)
from tests import testing

SMALL = DotConfig.of_size(64)
positions = st.integers(0, 63)


def reference_frame(x, y, size, radius):
    """The dot pixel by pixel."""
    frame = np.zeros((size, size, 3), np.uint8)
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            if dx * dx + dy * dy <= radius * radius:
                frame[(y + dy) % size, (x + dx) % size] = 255
    return frame


@given(positions, positions)
def test_frame_equals_the_reference(x, y):
    assert np.array_equal(render(x, y, SMALL), reference_frame(x, y, 64, 5))


@pytest.mark.parametrize(("size", "move"), [(224, 27), (112, 13), (64, 7)])
def test_standard_worlds(size, move):
    config = DotConfig.of_size(size)
    assert (config.move, config.radius) == (move, 5)
    assert disc(size, 5).sum() == 81
    robot = ToroidalDot(config, seed=1)
    start = (robot.x, robot.y)
    visited = set()
    for _ in range(size):
        visited.add(robot.x)
        assert robot.execute_action({"action": 1}) is True
    assert (robot.x, robot.y) == start and len(visited) == size
    robot.execute_action({"action": 0})
    assert (robot.x, robot.y) == start


def test_default_is_the_large_world():
    assert DotConfig() == DotConfig.of_size(224)
    assert ToroidalDot().get_observation().shape == (224, 224, 3)


def test_start_comes_from_the_seed():
    random = np.random.RandomState(7)
    expected = [(random.randint(0, 64), random.randint(0, 64)) for _ in range(3)]
    robot = ToroidalDot(SMALL, seed=7)
    seen = [(robot.x, robot.y)]
    for _ in range(2):
        robot.new_episode()
        seen.append((robot.x, robot.y))
    assert seen == expected


def test_fixed_start():
    robot = ToroidalDot(SMALL, seed=7, initial_y=30)
    free = ToroidalDot(SMALL, seed=7)
    assert (robot.x, robot.y) == (free.x, 30)
    assert ToroidalDot(SMALL, initial_x=70).x == 6


@pytest.mark.parametrize("action", [{"action": 2}, {}, {"action": 1, "duration": 1}])
def test_unknown_action(action):
    robot = ToroidalDot(SMALL)
    x = robot.x
    with pytest.raises(RobotError, match="unknown action"):
        robot.execute_action(action)
    assert robot.x == x


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seed": -1}, "seed"),
        ({"seed": 2**32}, "seed"),
        ({"delay_s": -1.0}, "delay_s"),
        ({"delay_s": float("nan")}, "delay_s"),
    ],
)
def test_robots_that_cannot_be(options, said):
    with pytest.raises(ConfigError, match=said):
        ToroidalDot(SMALL, **options)


@pytest.mark.parametrize(
    ("size", "move", "radius"), [(8, 3, 4), (64, 0, 5), (64, 64, 5), (9, 1, -1)]
)
def test_worlds_that_cannot_be(size, move, radius):
    with pytest.raises(ConfigError, match="does not fit"):
        DotConfig(size, move, radius)
    with pytest.raises(ConfigError, match="no standard"):
        DotConfig.of_size(100)


@given(positions, positions, st.sampled_from([np.uint8, np.float32]))
def test_a_clean_dot_is_found_exactly(x, y, dtype):
    image = render(x, y, SMALL)
    fit = locate_dot(image if dtype == np.uint8 else image.astype(dtype) / 255, radius=5)
    assert (fit.x, fit.y) == (x, y)
    assert abs(fit.brightness - 1) < 1e-5


def test_a_batch_is_fitted_at_once():
    places = [(0, 0), (63, 5), (30, 31), (1, 62)]
    frames = np.stack([render(x, y, SMALL) for x, y in places]).reshape(2, 2, 64, 64, 3)
    fit = locate_dot(frames, radius=5)
    assert list(zip(fit.x.ravel(), fit.y.ravel(), strict=True)) == places
    assert fit.brightness.shape == (2, 2) and fit.brightness.dtype == np.float32


@given(positions, positions, st.integers(0, 99))
def test_a_faint_noisy_dot_is_found(x, y, seed):
    noise = np.random.default_rng(seed).normal(0, 0.1, (64, 64, 3))
    fit = locate_dot(0.5 * render(x, y, SMALL) / 255 + noise, radius=5)
    assert toroidal_distance(fit.x, fit.y, x, y, 64) <= 1.5
    assert 0.4 < fit.brightness < 0.65


def test_no_dot_has_no_brightness():
    assert locate_dot(np.zeros((64, 64, 3), np.uint8), 5).brightness < 1e-6
    grey = locate_dot(np.full((64, 64, 3), 0.3, np.float32), 5)
    assert abs(grey.brightness - 0.3) < 1e-3


@given(positions, positions, positions, positions)
def test_distance_is_the_shortest_of_all_ways(x1, y1, x2, y2):
    ways = [np.hypot(x1 - x2 + 64 * i, y1 - y2 + 64 * j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    assert toroidal_distance(x1, y1, x2, y2, 64) == pytest.approx(min(ways))


@given(positions)
def test_step_is_pure_and_wraps(x):
    assert step(x, {"action": MOVE}, SMALL) == (x + 7) % 64
    assert step(x, {"action": 0}, SMALL) == x


if __name__ == "__main__":
    testing.main()
