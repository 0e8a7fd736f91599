"""Tests of attn_jax.viz.effect_plots."""

import numpy as np
import pandas as pd
import pytest

from attn_jax.core.errors import ConfigError
from attn_jax.viz import effect_plots, style
from tests import testing


def family_table(**changes):
    columns = {
        "difference": [0.4, -0.1, np.nan],
        "ci_low": [0.2, -0.3, np.nan],
        "ci_high": [0.6, 0.2, np.nan],
        "p_holm": [0.01, 0.6, np.nan],
    }
    return pd.DataFrame(columns | changes)


def test_effects_fill_what_holds_and_leave_out_what_has_no_number():
    figure = effect_plots.effects(family_table(), labels=["a", "b", "c"], x_label="lift - 1")
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    points = [line for line in axes.lines if line.get_marker() == "o"]
    assert [point.get_xdata()[0] for point in points] == [0.4, -0.1]
    assert points[0].get_markerfacecolor() != "white" == points[1].get_markerfacecolor()
    assert axes.get_xlabel() == "lift - 1"
    long = effect_plots.effects(family_table(), labels=["a" * 75, "b", "c"], x_label="")
    style.to_rgb(long)
    assert axes.get_position().x0 < 0.1 < 0.5 < long.axes[0].get_position().x0
    assert long.axes[0].get_yticklabels()[0].get_window_extent().x0 > 0
    with pytest.raises(ConfigError, match="no test"):
        effect_plots.effects(
            family_table(difference=[np.nan] * 3), labels=["a", "b", "c"], x_label=""
        )


def test_labels_say_what_applies():
    row = pd.Series({"metric": "lift", "layer": 3, "head": -1, "camera": "wrist", "query": ""})
    words = effect_plots.label_of(row, ["metric", "query", "layer", "head", "camera"])
    assert words == "lift, layer 3, wrist camera"
    row["metric"] = "action_l2_std"
    assert effect_plots.label_of(row, ["metric"]) == "distance of the actions"
    row["query"] = "action"
    assert effect_plots.label_of(row, ["query", "camera"]) == "actions, wrist camera"


def outcome_rows(**changes):
    """Two successes and a failure, two layers, one camera."""
    lines = [
        {"episode": e, "outcome": o, "layer": layer, "camera": "wrist", "value": value + layer}
        for e, o, value in (("a", "success", 1.0), ("b", "success", 3.0), ("c", "failure", 0.5))
        for layer in (4, 5)
    ]
    return pd.DataFrame(lines).assign(**changes)


def test_layer_means_take_an_episode_as_one():
    rows = outcome_rows()
    # A second object of episode a; it counts once, with the mean of its objects.
    rows = pd.concat([rows, rows[rows.episode == "a"].assign(value=7.0 + rows.layer)])
    good, bad = effect_plots.layer_means(rows, "outcome")
    assert (good["camera"], good["name"], good["episodes"]) == ("wrist", "success", 2)
    assert good["layer"] == [4, 5]
    assert good["mean"] == pytest.approx([(8 + 7) / 2, (9 + 8) / 2])  # a: (5 + 11) / 2, b: 7
    # Standard deviation of (8, 7) is 1 / root 2, over root 2.
    assert good["half_width"] == pytest.approx([1.96 * 0.5] * 2)
    assert (bad["mean"], bad["half_width"]) == (pytest.approx([4.5, 5.5]), [0.0, 0.0])


def test_bars_stand_side_by_side_for_every_layer():
    measures = {"overlap": outcome_rows(), "IoU": outcome_rows(camera="front")}
    figure = effect_plots.bars_by_layer(measures)
    assert len(figure.axes) == 4
    good, bad = figure.axes[0].containers[1], figure.axes[0].containers[3]
    assert [bar.get_height() for bar in good] == [6.0, 7.0]
    assert [bar.get_height() for bar in bad] == [4.5, 5.5]
    lefts = [(g.get_x(), b.get_x()) for g, b in zip(good, bad, strict=True)]
    assert all(left < right < left + 1 for left, right in lefts)
    both = pd.concat([outcome_rows(), outcome_rows(camera="z", value=[*range(6, 12)])])
    low, high = effect_plots.bars_by_layer({"overlap": both}).axes[1].get_ylim()
    assert low == 0 and high > 11, "the second camera fits on the scale that both share"
    assert "n = 2" in figure.legends[0].get_texts()[0].get_text()
    assert style.to_rgb(figure).shape[2] == 3
    with pytest.raises(ConfigError, match="no episode"):
        effect_plots.bars_by_layer({"overlap": outcome_rows(value=np.nan)})


def test_by_layer_draws_means_over_episodes():
    rows = pd.DataFrame(
        [
            {"episode": e, "layer": layer, "camera": camera, "role": role, "value": value + layer}
            for e, value in (("a", 1.0), ("b", 3.0))
            for layer in (0, 1)
            for camera in ("front", "wrist")
            for role in ("target", "distractor")
        ]
    )
    figure = effect_plots.by_layer(rows, split="role", y_label="lift", level=1.0, level_name="even")
    assert [axes.get_title() for axes in figure.axes] == ["camera front", "camera wrist"]
    curve = figure.axes[0].containers[0].lines[0]
    np.testing.assert_allclose(curve.get_ydata(), [2.0, 3.0])
    assert style.to_rgb(figure).shape[2] == 3
    with pytest.raises(ConfigError, match="no value"):
        effect_plots.by_layer(rows.assign(value=np.nan), split="role", y_label="lift")


def test_by_outcome_has_a_point_per_episode():
    measures = {"lift": {"success": [1.0, 2.0, 3.0, np.nan], "failure": [0.5]}, "none": {"x": []}}
    figure = effect_plots.by_outcome(measures)
    (axes,) = figure.axes
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == ["success\nn = 3", "failure\nn = 1"]
    assert sorted(axes.lines[0].get_ydata()) == [1.0, 2.0, 3.0]
    with pytest.raises(ConfigError, match="no episode"):
        effect_plots.by_outcome({"lift": {"success": [np.nan]}})


if __name__ == "__main__":
    testing.main()
