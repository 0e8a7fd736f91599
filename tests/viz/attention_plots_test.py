"""Tests of attn_jax.viz.attention_plots."""

import numpy as np
import pytest
from matplotlib.collections import LineCollection

from attn_jax.core.errors import ConfigError, LayoutError
from attn_jax.viz import attention_plots, heatmap, style
from tests import testing
from tests.analysis import records

LAYOUT = records.GEOMETRY.layout
PICTURE = np.zeros((64, 224, 3), np.uint8)
QUERIES = LAYOUT.tokens("target")[[0, 5]]


def _segments(figure):
    return [
        c
        for c in figure.axes[0].collections
        if isinstance(c, LineCollection) and len(c.get_paths())
    ]


def test_a_line_joins_the_query_with_the_patch_it_looks_at():
    maps = np.zeros((1, 2, 57))
    key = LAYOUT.positions("frame0", "key")[6]
    maps[0, 1, key] = 0.7
    figure = attention_plots.attention_lines(
        PICTURE, maps, LAYOUT, QUERIES, layers=(2,), quantile=1.0
    )
    (lines,) = _segments(figure)
    (segment,) = lines.get_segments()
    boxes = heatmap.token_boxes(LAYOUT, np.array([QUERIES[1], key]))
    centres = boxes[:, :2] + 7.5
    np.testing.assert_allclose(segment, centres[:, ::-1])
    assert lines.get_linewidths()[0] == attention_plots.WIDEST_PT
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["layer 2"]


def test_each_layer_keeps_its_strongest_share():
    rng = np.random.default_rng(0)
    maps = rng.random((3, 2, 57)) * np.array([1.0, 0.1, 0.01])[:, None, None]
    figure = attention_plots.attention_lines(
        PICTURE, maps, LAYOUT, QUERIES, layers=(0, 1, 2), quantile=0.9
    )
    counts = [len(c.get_segments()) for c in _segments(figure)]
    assert len(counts) == 3 and len(set(counts)) == 1
    assert counts[0] == pytest.approx(0.1 * 2 * 56, abs=2)
    style.to_rgb(figure)


def test_cls_is_never_the_end_of_a_line():
    maps = np.zeros((1, 2, 57))
    maps[..., LAYOUT.positions("cls", "key")] = 1.0
    figure = attention_plots.attention_lines(
        PICTURE, maps, LAYOUT, QUERIES, layers=(0,), quantile=1.0
    )
    assert not _segments(figure)


def test_lines_need_patches():
    only_cls = LAYOUT.restrict(keys=["cls"])
    with pytest.raises(LayoutError, match="place in the picture"):
        attention_plots.attention_lines(
            PICTURE, np.zeros((1, 2, 1)), only_cls, QUERIES, layers=(0,)
        )
    with pytest.raises(ConfigError, match="quantile"):
        attention_plots.attention_lines(
            PICTURE, np.zeros((1, 2, 57)), LAYOUT, QUERIES, layers=(0,), quantile=95.0
        )


def test_matrix_orders_keys_by_group_and_names_them():
    maps = np.zeros((2, 57))
    for number, group in enumerate(LAYOUT.groups):
        maps[:, list(group.indices)] = number
    figure = attention_plots.attention_matrix(maps, LAYOUT, ["a", "b"])
    axes = figure.axes[0]
    drawn = np.asarray(axes.images[0].get_array())[0]
    assert (np.diff(drawn) >= 0).all()
    names = [text.get_text() for text in axes.texts]
    assert names == list(LAYOUT.names)
    borders = [line.get_xdata()[0] for line in axes.get_lines()]
    assert borders == [0.5, 16.5, 20.5, 36.5, 40.5]
    style.to_rgb(figure)


def test_matrix_of_an_encoder_leaves_out_what_was_not_recorded():
    layout = records.GEOMETRY.encoder_layout()
    figure = attention_plots.attention_matrix(np.ones((1, 41)), layout, ["a"])
    assert "frame2" not in [text.get_text() for text in figure.axes[0].texts]
    with pytest.raises(ConfigError, match="2 labels for 1 rows"):
        attention_plots.attention_matrix(np.ones((1, 41)), layout, ["a", "b"])


def test_action_budget_stacks_to_the_recorded_mass():
    masses = np.array([[0.5, 0.0, 0.3], [0.2, 0.0, 0.6]])
    figure = attention_plots.action_budget(masses, ("front", "pad", "text"), title="layer 5")
    axes = figure.axes[0]
    tops = {}
    for bar in axes.patches:
        place = round(bar.get_x() + bar.get_width() / 2)
        tops[place] = max(tops.get(place, 0.0), bar.get_y() + bar.get_height())
    assert tops == pytest.approx({0: 0.8, 1: 0.8})
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["text", "front"]
    layers = attention_plots.action_budget(
        masses, ("front", "pad", "text"), x_label="layer", places=(4, 9)
    ).axes[0]
    assert layers.get_xlabel() == "layer"
    assert [label.get_text() for label in layers.get_xticklabels()] == ["4", "9"]
    with pytest.raises(ConfigError, match="2 names for 3 groups"):
        attention_plots.action_budget(masses, ("front", "text"))


if __name__ == "__main__":
    testing.main()
