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
    with pytest.raises(ConfigError, match="no test"):
        effect_plots.effects(
            family_table(difference=[np.nan] * 3), labels=["a", "b", "c"], x_label=""
        )


def test_labels_say_what_applies():
    row = pd.Series({"metric": "lift", "layer": 3, "head": -1, "camera": "wrist", "query": ""})
    words = effect_plots.label_of(row, ["metric", "query", "layer", "head", "camera"])
    assert words == "lift, layer 3, wrist"
    row["metric"] = "action_l2_std"
    assert effect_plots.label_of(row, ["metric"]) == "distance of the actions"


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
