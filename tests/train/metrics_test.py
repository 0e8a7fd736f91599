"""Running means equal the mean of everything."""

import math

import jax
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from attn_jax.train.metrics import Mean, compute_all, merge_all
from tests import testing

VALUES = st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=20)


@given(VALUES, st.integers(0, 20))
def test_any_split_gives_the_same_mean(values, cut):
    parts = [part for part in (values[:cut], values[cut:]) if part]
    total = Mean()
    for part in parts:
        total = total.merge(Mean.of(np.array(part, np.float32)))
    np.testing.assert_allclose(total.compute(), np.mean(values), rtol=1e-4, atol=1e-3)


def test_masked_values_do_not_count_even_when_not_finite():
    values = np.array([[1.0, np.nan], [3.0, np.inf]])
    mean = Mean.of(values, np.array([[True, False]]))
    assert float(mean.compute()) == 2.0
    assert float(mean.count) == 2.0


def test_passes_through_jit():
    @jax.jit
    def step(state, values):
        return state.merge(Mean.of(values))

    assert float(step(step(Mean(), np.ones(3)), np.zeros(1)).compute()) == 0.75


def test_empty_is_nan():
    assert math.isnan(Mean().compute())
    assert math.isnan(float(Mean.of(np.ones(2), np.zeros(2)).compute()))


def test_merge_by_name():
    merged = merge_all({"a": Mean(1.0, 1.0)}, {"a": Mean(3.0, 1.0), "b": Mean(5.0, 1.0)})
    assert compute_all(merged) == {"a": 2.0, "b": 5.0}


if __name__ == "__main__":
    testing.main()
