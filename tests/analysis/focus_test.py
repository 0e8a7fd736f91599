"""Tests of attn_jax.analysis.focus."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from attn_jax.analysis import focus
from attn_jax.core.errors import ConfigError
from tests import testing

rows = hnp.arrays(np.float64, st.integers(2, 30), elements=st.floats(1e-6, 1.0))


def test_known_rows():
    weights = np.array([[0.25] * 4, [1.0, 0, 0, 0], [0.5, 0.5, 0, 0]])
    np.testing.assert_allclose(focus.entropy(weights), [np.log(4), 0, np.log(2)], atol=1e-15)
    np.testing.assert_allclose(focus.normalised_entropy(weights), [1, 0, 0.5], atol=1e-15)
    np.testing.assert_allclose(focus.effective_patches(weights), [4, 1, 2])
    np.testing.assert_allclose(focus.gini(weights), [0, 0.75, 0.5], atol=1e-15)
    np.testing.assert_allclose(focus.top_k_mass(weights, 1), [0.25, 1, 0.5])


def test_a_row_without_mass_is_undefined():
    for measure in (focus.entropy, focus.effective_patches, focus.gini):
        assert np.isnan(measure(np.zeros((1, 5)))).all()
    assert np.isnan(focus.normalised_entropy(np.ones((2, 1)))).all()


@given(rows)
def test_entropy_agrees_with_scipy_and_scale_does_not_matter(row):
    np.testing.assert_allclose(focus.entropy(row), scipy.stats.entropy(row), atol=1e-12)
    for measure in (focus.entropy, focus.gini, lambda w: focus.top_k_mass(w, 2)):
        np.testing.assert_allclose(measure(row * 0.3), measure(row), atol=1e-12)


@given(rows)
def test_measures_stay_in_their_range(row):
    count = len(row)
    assert 1 - 1e-9 <= focus.effective_patches(row) <= count + 1e-9
    assert -1e-12 <= focus.gini(row) <= 1 - 1 / count + 1e-12
    pairwise = np.abs(row[:, None] - row[None, :]).mean() / (2 * row.mean())
    np.testing.assert_allclose(focus.gini(row), pairwise, atol=1e-12)


def test_top_k_is_checked():
    with pytest.raises(ConfigError, match="k is 6"):
        focus.top_k_mass(np.ones(5), 6)


if __name__ == "__main__":
    testing.main()
