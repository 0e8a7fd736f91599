from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest

from attn_jax.nn import positions
from tests import testing


def test_table_by_hand():
    table = positions.sincos_grid((2, 3), 8, normalised=False)
    assert table.shape == (6, 8) and table.dtype == np.float32
    # Two frequencies, 1 and 0.01; features: sin row, cos row, sin column, cos column.
    row, column = 1, 2
    angles = np.array([1.0, 0.01])
    expected = [*np.sin(row * angles), *np.cos(row * angles)]
    expected += [*np.sin(column * angles), *np.cos(column * angles)]
    np.testing.assert_allclose(table[row * 3 + column], expected, atol=1e-6)


def test_normalised_positions_run_from_zero_to_one():
    squeezed = positions.sincos_grid((3, 5), 8, normalised=True)
    corners = positions.sincos_grid((2, 2), 8, normalised=False)
    np.testing.assert_array_equal(squeezed[[0, 4, 10, 14]], corners)
    single = positions.sincos_grid((1, 1), 8, normalised=True)
    assert np.isfinite(single).all()


def test_integer_positions_tell_neighbours_apart_and_squeezed_ones_hardly():
    def gap(normalised):
        table = positions.sincos_grid((14, 44), 256, normalised=normalised)
        return np.linalg.norm(table[1] - table[0])

    assert gap(True) < 0.05
    assert gap(False) > 20 * gap(True)


def test_width_must_be_a_multiple_of_four():
    with pytest.raises(ValueError, match="multiple of 4 features, got 6"):
        positions.sincos_grid((2, 2), 6, normalised=False)


@hypothesis.given(st.integers(-50, 50), st.integers(-50, 50), st.integers(-50, 50))
def test_rotary_products_depend_on_the_difference_of_positions(m, n, shift):
    rng = np.random.default_rng(0)
    q, k = (jnp.asarray(rng.normal(size=(1, 1, 2, 8)), jnp.float32) for _ in range(2))

    def product(a, b):
        def turn(x, position):
            where = jnp.full((1, 1, 2), position, jnp.float32) * jnp.asarray([1.0, -2.0])
            return positions.axial_rotary(x, where)

        return np.einsum("bnhd,bnhd->h", turn(q, a), turn(k, b))

    np.testing.assert_allclose(product(m, n), product(m + shift, n + shift), atol=2e-4)


def test_rotary_turns_by_row_and_column_and_keeps_lengths():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 1, 1, 8)), jnp.float32)

    def turned(row, column):
        return positions.axial_rotary(x, jnp.asarray([[[row, column]]], jnp.float32))

    np.testing.assert_allclose(turned(0, 0), x, atol=1e-6)
    moved_row, moved_column = turned(3, 0) - x, turned(0, 3) - x
    # Pairs are (i, i + 4): 0 and 1 turn with the row, 2 and 3 with the column.
    np.testing.assert_allclose(moved_row[..., [2, 3, 6, 7]], 0, atol=1e-6)
    np.testing.assert_allclose(moved_column[..., [0, 1, 4, 5]], 0, atol=1e-6)
    assert np.abs(moved_row[..., [0, 4]]).max() > 0.1
    lengths = [float(jnp.linalg.norm(y)) for y in (x, turned(3, 5))]
    assert lengths[0] == pytest.approx(lengths[1], rel=1e-6)


def test_half_split_rotation_by_hand():
    x = jnp.asarray([1.0, 2.0, 3.0, 4.0])[None, None, None]
    out = positions.rotate_half_split(x, jnp.asarray([np.pi / 2, 0.0])[None, None])
    np.testing.assert_allclose(out[0, 0, 0], [-3, 2, 1, 4], atol=1e-6)
    assert positions.rotate_half_split(x.astype(jnp.bfloat16), jnp.zeros((1, 1, 2))).dtype == (
        jnp.bfloat16
    )


if __name__ == "__main__":
    testing.main()
