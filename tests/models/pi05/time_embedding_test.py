from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from attn_jax.models.pi05.time_embedding import embed_time, time_table
from tests import testing

PERIODS = (4e-3, 4.0)
embed = jax.jit(lambda times: embed_time(times, 64, *PERIODS))


def test_the_slowest_and_fastest_sinusoids():
    table = time_table(np.float32([0.0, 0.001]), 8, *PERIODS)
    assert table.shape == (2, 8) and table.dtype == np.float32
    np.testing.assert_array_equal(table[0], [0, 0, 0, 0, 1, 1, 1, 1])
    # A period of 4e-3 is a quarter turn at 0.001; one of 4 hardly moves.
    np.testing.assert_allclose(table[1, [0, 4]], [1.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(table[1, 3], 2 * np.pi * 0.001 / 4, rtol=1e-5)


@given(st.lists(st.floats(0, 1, width=32), min_size=8, max_size=8))
def test_times_of_a_running_program_are_as_exact_as_the_table(times):
    found = np.asarray(embed(jnp.float32(times)))
    np.testing.assert_allclose(found, time_table(np.float32(times), 64, *PERIODS), atol=1e-6)


def test_plain_float32_would_not_be():
    times = np.linspace(0.9, 1, 200, dtype=np.float32)
    angles = np.float32(2 * np.pi / PERIODS[0]) * times
    error = np.abs(np.sin(angles) - time_table(times, 8, *PERIODS)[:, 0]).max()
    assert error > 1e-5


if __name__ == "__main__":
    testing.main()
