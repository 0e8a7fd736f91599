"""Tests of attn_jax.viz.plots."""

import numpy as np
import pytest

from attn_jax.analysis import flowmaps
from attn_jax.core.errors import ConfigError
from attn_jax.viz import plots, style
from tests import testing
from tests.analysis import records


def _line(axes, label):
    return next(line for line in axes.get_lines() if line.get_label() == label)


def test_learning_curve_draws_points_marks_and_rates():
    figure = plots.learning_curve(
        {"validation": ([1, 2, 3], [0.1, float("nan"), 0.01])},
        marks={"copy last": 0.0147, "all black": 0.0198, "undefined": float("nan")},
        rates={"hits": ([1, 3], [0.0, 1.0])},
    )
    upper, lower = figure.axes
    assert _line(upper, "validation").get_xdata().tolist() == [1, 3]
    levels = sorted(line.get_ydata()[0] for line in upper.get_lines() if len(line.get_ydata()) == 2)
    assert {0.0147, 0.0198} <= set(levels)
    words = " ".join(text.get_text() for text in upper.texts)
    assert "copy last 0.0147" in words and "undefined" not in words
    assert _line(lower, "hits").get_ydata().tolist() == [0.0, 1.0]
    assert upper.get_yscale() == "log"
    low, high = upper.get_ylim()
    assert low < 0.01 and high > 0.1
    assert style.to_rgb(figure).std() > 0


def test_marks_that_lie_close_get_words_that_do_not_overlap():
    figure = plots.learning_curve(
        {"v": ([1, 2], [1.0, 0.001])}, marks={"a": 0.0198, "b": 0.0197, "c": 0.0196}
    )
    heights = sorted(text.xyann[1] for text in figure.axes[0].texts)
    assert min(np.diff(heights)) >= 0.06


def test_a_curve_without_points_is_refused():
    for losses in ({}, {"v": ([], [])}, {"v": ([1], [float("inf")])}):
        with pytest.raises(ConfigError, match="no learning curve"):
            plots.learning_curve(losses)


def test_error_by_horizon_leaves_out_rates_that_are_unknown():
    known = plots.error_by_horizon([1, 2], {"model": [0.1, 0.2]}, rates={"hits": [1.0, 0.5]})
    assert len(known.axes) == 2
    unknown = plots.error_by_horizon(
        [1, 2], {"model": [0.1, 0.2]}, rates={"hits": [float("nan")] * 2}
    )
    assert len(unknown.axes) == 1
    assert unknown.axes[0].get_ylim()[0] == 0
    with pytest.raises(ConfigError, match="no rollout"):
        plots.error_by_horizon([], {"model": []})


def test_layer_head_matrix_writes_every_number():
    table = np.array([[0.0, 0.25], [0.5, np.nan]])
    deep = plots.HeadTable(table, (3, 4), (0, 1))
    shallow = plots.HeadTable(np.full((1, 3), 0.1), (0,), (0, 1, 2))
    figure = plots.layer_head_matrix(
        {"decoder": deep, "encoder": shallow}, label="mass", reference=0.14
    )
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.texts] == ["0.00", "0.25", "0.50", "n/a"]
    assert [t.get_color() for t in axes.texts] == ["white", "white", "black", "black"]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["3", "4"]
    assert axes.images[0].get_clim() == (0.0, 0.5)
    style.to_rgb(figure)
    with pytest.raises(ConfigError, match="no table"):
        plots.layer_head_matrix({}, label="mass")


def test_columns_with_names_and_more_of_them_than_words_fit():
    named = plots.HeadTable(np.ones((2, 2)), (0, 1), ("other object", "noise 1"))
    figure = plots.layer_head_matrix({"a": named}, label="change", x_label="compared with")
    axes = figure.axes[0]
    assert axes.get_xlabel() == "compared with"
    assert [t.get_text() for t in axes.get_xticklabels()] == ["other object", "noise 1"]
    assert {t.get_rotation() for t in axes.get_xticklabels()} == {35.0}
    wide = plots.HeadTable(np.ones((2, 40)), (0, 1), range(40))
    figure = plots.layer_head_matrix({"a": wide}, label="mass")
    assert not figure.axes[0].texts and figure.axes[0].images


def test_averaged_heads_and_an_empty_table_still_draw():
    empty = plots.HeadTable(np.full((2, 1), np.nan), (0, 1), ())
    figure = plots.layer_head_matrix({"a": empty}, label="mass")
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["mean"]


def test_budget_bars_stack_to_one():
    budget = flowmaps.budget(records.record(records.GEOMETRY.layout), query="target")
    figure = plots.budget_bars([budget])
    axes = figure.axes[0]
    tops = {}
    for bar in axes.patches:
        if bar.get_height() > 0:
            place = round(bar.get_x() + bar.get_width() / 2, 3)
            tops[place] = max(tops.get(place, 0), bar.get_y() + bar.get_height())
    assert len(tops) == len(budget.layers) + 1
    np.testing.assert_allclose(list(tops.values()), 1.0, atol=1e-5)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == list(budget.names)[::-1]
    with pytest.raises(ConfigError, match="no attention budget"):
        plots.budget_bars([])


if __name__ == "__main__":
    testing.main()
