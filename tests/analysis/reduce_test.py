"""Tests of attn_jax.analysis.reduce."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_jax.analysis import focus, reduce
from attn_jax.core.errors import ConfigError, LayoutError, RecordError
from attn_jax.core.record import AttentionRecord
from tests import testing
from tests.analysis import records


@pytest.mark.parametrize("how", ["mean", "max", "min", "sum", "median"])
def test_join_is_numpy_in_float64(how):
    values = np.random.default_rng(0).random((3, 4)).astype(np.float16)
    out = reduce.join(values, how, 1)
    assert out.dtype == np.float64
    np.testing.assert_array_equal(out, getattr(np, how)(values.astype(np.float64), axis=1))


def test_join_each_keeps_the_axis_and_bad_names_are_refused():
    assert reduce.join(np.ones((3, 4)), "each", 0).shape == (3, 4)
    with pytest.raises(ConfigError, match=r"unknown reduction 'avg'.*mean"):
        reduce.join(np.ones(3), "avg", 0)
    with pytest.raises(ConfigError, match="empty"):
        reduce.join(np.ones((0, 2)), "max", 0)


def test_padding_and_dummy_cameras_are_no_queries():
    record = records.record(records.padded_layout())
    assert reduce.valid_queries(record).tolist() == [0, 1, 2, 3, 8, 9]
    assert reduce.valid_queries(record, "text").tolist() == [8, 9]
    assert reduce.valid_queries(record, "image/*").tolist() == [0, 1, 2, 3]
    with pytest.raises(LayoutError, match="no real token"):
        reduce.valid_queries(record, "pad")


def test_group_axes_are_not_token_axes():
    layout = records.padded_layout()
    grouped = AttentionRecord(
        "s", np.ones((1, 1, 1, 1, 1, 11)), layout, (0,), (0,), reduction="patch_map",
        query_names=("text",),
    )  # fmt: skip
    with pytest.raises(RecordError, match="query groups"):
        reduce.valid_queries(grouped)


def test_maps_unfold_to_the_patch_grid_and_match_numpy():
    record = records.record(records.GEOMETRY.layout)
    layout = record.layout
    out = reduce.reduce_record(record, query="target", key="frame1")
    assert out.shape == (2, 1, 2, 4, 4)
    rows, columns = layout.positions("target", "query"), layout.positions("frame1", "key")
    expected = record.values[..., rows[:, None], columns].astype(np.float64).mean((3, 4))
    np.testing.assert_allclose(out.reshape(expected.shape), expected, rtol=1e-12)


def test_each_keeps_heads_and_queries():
    record = records.record(records.GEOMETRY.layout)
    out = reduce.reduce_record(record, query="target", heads="each", queries="each")
    assert out.shape == (2, 1, 2, 3, 16, 57)
    np.testing.assert_allclose(out.sum(-1), 1.0, atol=1e-5)
    assert reduce.reduce_record(record, key="all").shape == (2, 1, 2, 57)
    assert reduce.reduce_record(record, key="sep?").shape == (2, 1, 2, 8)


def test_span_is_a_part_of_the_group():
    record = records.record(records.padded_layout())
    word = reduce.reduce_record(record, query="text", span=(1, 2))
    np.testing.assert_array_equal(word, reduce.reduce_record(record, query="text/word/cube"))
    with pytest.raises(ConfigError, match="empty"):
        reduce.reduce_record(record, query="text", span=(2, 3))


def test_mean_over_heads_and_queries_keeps_mass():
    record = records.record(records.GEOMETRY.layout)
    out = reduce.reduce_record(record, query="target")
    np.testing.assert_allclose(out.sum(-1), 1.0, atol=1e-6)


@given(seed=st.integers(0, 50), quantile=st.floats(0, 1))
def test_quantile_filter_keeps_the_strongest(seed, quantile):
    values = np.random.default_rng(seed).random((3, 20))
    out = reduce.quantile_filter(values, quantile, axes=(-1,))
    kept = out > 0
    assert np.all(kept.any(-1))
    np.testing.assert_array_equal(out[kept], values[kept])
    for row, keep in zip(values, kept, strict=True):
        assert not (~keep).any() or row[keep].min() >= row[~keep].max()
    assert kept.sum(-1).min() >= np.floor((1 - quantile) * 20)


def test_quantile_is_checked():
    with pytest.raises(ConfigError, match="outside"):
        reduce.quantile_filter(np.ones(3), 95.0)


def test_top_k_is_ordered_and_ties_go_to_the_lower_index():
    indices, values = reduce.top_k(np.array([[1.0, 3.0, 3.0, 0.0], [4.0, 1.0, 2.0, 3.0]]), 2)
    assert indices.tolist() == [[1, 2], [0, 3]]
    assert values.tolist() == [[3.0, 3.0], [4.0, 3.0]]
    with pytest.raises(ConfigError, match="k is 5"):
        reduce.top_k(np.ones(4), 5)


def test_focused_heads_by_hand():
    """Head 1 of the first layer has one patch, head 2 of the second; the others are even."""
    layout = records.padded_layout()
    logits = np.zeros((2, 1, 2, 3, 11, 11))
    logits[:, :, 0, 1, :, 2] = logits[:, :, 1, 2, :, 3] = 9.0
    logits[0, :, 0, 0, :, 1] = 0.5  # in one call only
    record = records.record(layout, logits=logits)
    maps = reduce.reduce_record(record, query="text", key="image/base", heads="focused:1")
    values = record.values.astype(np.float64)[..., [8, 9], :][..., :4].mean(-2)
    expected = np.stack([values[:, :, 0, 1], values[:, :, 1, 2]], axis=2)
    np.testing.assert_allclose(maps.reshape(expected.shape), expected, rtol=1e-12)
    two = reduce.reduce_record(record, query="text", key="image/base", heads="focused:2")
    expected = np.stack([values[:, :, 0, [1, 0]].mean(2), values[:, :, 1, [2, 0]].mean(2)], axis=2)
    np.testing.assert_allclose(two.reshape(expected.shape), expected, rtol=1e-12)
    every = reduce.reduce_record(record, query="text", key="image/base", heads="focused:3")
    mean = reduce.reduce_record(record, query="text", key="image/base")
    np.testing.assert_allclose(every, mean, rtol=1e-12)
    with pytest.raises(ConfigError, match=r"4 focused heads of 3.*reduce=patch_map"):
        reduce.reduce_record(record, query="text", key="image/base", heads="focused:4")


def test_count_of_heads_above_a_quantile_by_hand():
    maps = np.array([[0.1, 0.2, 0.3, 0.4], [0.4, 0.1, 0.3, 0.2], [0.25, 0.25, 0.25, 0.25]])
    found = reduce.join_heads(maps[None, None, :, None], "count:0.5")
    assert found[0, 0, 0].tolist() == [1, 0, 2, 1]  # an even map has nothing above its median
    found = reduce.join_heads(maps[None, None, :, None], "count:0.75")
    assert found[0, 0, 0].tolist() == [1, 0, 0, 1]


@pytest.mark.parametrize(
    "how", ["focused", "focused:0", "focused:1.5", "count:1", "count", "sharp"]
)
def test_unknown_reductions_of_heads(how):
    with pytest.raises(ConfigError, match=r"unknown reduction of heads.*focused:<heads>"):
        reduce.join_heads(np.ones((1, 1, 2, 1, 4)), how)


def test_per_head_averages_rows_of_a_group():
    record = records.record(records.GEOMETRY.layout, calls=3)
    table = reduce.per_head(record, focus.entropy, query="target", key="frame0")
    maps = record.select(query="target", key="frame0").reshape(3, 2, 3, 16, 16)
    np.testing.assert_allclose(table, focus.entropy(maps).mean((0, 3)), rtol=1e-12)


def test_per_head_skips_rows_without_mass():
    record = records.record(records.GEOMETRY.layout)
    values = record.values.copy()
    columns = record.layout.positions("frame0", "key")
    values[0][..., columns] = 0
    values[:, :, 1, 2][..., columns] = 0
    emptied = type(record)("decoder", values, record.layout, record.layers, record.heads)
    table = reduce.per_head(emptied, focus.effective_patches, query="target", key="frame0")
    full = reduce.per_head(record, focus.effective_patches, query="target", key="frame0")
    assert np.isnan(table[1, 2]) and np.isfinite(table).sum() == 5
    assert np.all(np.abs(table[0] - full[0]) < 5)


if __name__ == "__main__":
    testing.main()
