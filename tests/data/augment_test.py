import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_jax.core.errors import ConfigError
from attn_jax.data import augment
from tests import testing
from tests.data.fake_sessions import noise


def test_none_shifts_nothing():
    assert not augment.draw_shifts(None, 0, np.arange(5), (8, 8)).any()


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=5), st.integers(0, 1000))
def test_a_shift_depends_on_seed_and_position_only(positions, seed):
    together = augment.draw_shifts("toroidal_shift", seed, np.array(positions), (16, 24))
    for position, shift in zip(positions, together, strict=True):
        alone = augment.draw_shifts("toroidal_shift", seed, np.array([position]), (16, 24))
        assert (alone[0] == shift).all()
    assert (together >= 0).all() and (together < (16, 24)).all()


def test_shifts_cover_the_frame():
    shifts = augment.draw_shifts("toroidal_shift", 0, np.arange(400), (4, 6))
    assert {tuple(shift) for shift in shifts} == {(y, x) for y in range(4) for x in range(6)}


def test_roll_goes_down_and_right_around_the_edges():
    frame = np.zeros((2, 4, 5, 3), np.uint8)
    frame[:, 3, 4] = 9
    rolled = augment.roll_frames(frame, np.array([2, 3]))
    assert (rolled[:, 1, 2] == 9).all() and rolled.sum() == frame.sum()


@given(st.integers(0, 15), st.integers(0, 15))
def test_roll_is_undone_by_the_opposite_roll(dy, dx):
    frame = noise(0)
    there = augment.roll_frames(frame, np.array([dy, dx]))
    assert np.array_equal(augment.roll_frames(there, np.array([-dy, -dx])), frame)


def test_unknown_name():
    with pytest.raises(ConfigError, match="toroidal_shift"):
        augment.draw_shifts("mirror", 0, np.arange(1), (8, 8))


if __name__ == "__main__":
    testing.main()
