"""Host values survive the trip through text exactly."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from attn_jax.train.host_text import json_text, json_value
from tests import testing

VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**130), 2**130),
        st.floats(allow_nan=False),
        st.text(),
        st.binary(),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(VALUES)
def test_round_trip(value):
    assert json_value(json_text(value)) == value


def test_arrays():
    arrays = [
        np.array([np.nan, -0.0, 1e-300]),
        np.zeros((0, 3), np.int8),
        np.float32(0.1),
        np.array([[True, False]]),
        jnp.arange(3, dtype=jnp.int32),
        np.arange(12).reshape(3, 4).T,
    ]
    for array, back in zip(arrays, json_value(json_text(arrays)), strict=True):
        assert (back.dtype, back.shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(back, array)
    assert json_value(json_text(np.zeros(2))).flags.writeable


def test_a_generator_continues():
    rng = np.random.default_rng(5)
    rng.normal(size=3)
    state = json_value(json_text(rng.bit_generator.state))
    other = np.random.default_rng()
    other.bit_generator.state = state
    assert rng.normal() == other.normal()


if __name__ == "__main__":
    testing.main()
