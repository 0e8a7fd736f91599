"""Tests of attn_jax.viz.panels."""

import numpy as np
import pytest

from attn_jax.core.errors import ConfigError
from attn_jax.viz import panels, style
from tests import testing
from tests.analysis import records
from tests.viz import canvas_runs


def _words(figure):
    return [text.get_text() for text in figure.texts]


def _shown(figure):
    return [axes.images[0].get_array() for axes in figure.axes]


def test_signed_error_has_the_sign_of_the_fault():
    dark, bright = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)
    assert (panels.signed_error(bright, dark) == 1.0).all()
    assert (panels.signed_error(dark, bright) == -1.0).all()
    red, green, blue = panels.error_picture(bright, dark)[0, 0].astype(int)
    assert red > blue and red > green
    assert panels.error_picture(bright, bright).min() > 240


def test_prediction_panel_shows_the_pictures_it_was_given():
    pictures = canvas_runs.pictures()
    figure = panels.prediction_panel(pictures["canvas"], pictures["prediction"], pictures["target"])
    shown = _shown(figure)
    assert len(shown) == 4 * 4
    np.testing.assert_array_equal(shown[0], pictures["canvas"][0])
    np.testing.assert_array_equal(shown[5], pictures["prediction"][1])
    np.testing.assert_array_equal(shown[6], pictures["target"][1])
    assert {"prediction", "truth", "difference", "canvas 4"} <= set(_words(figure))


def test_pictures_keep_their_shape_on_the_page():
    pictures = canvas_runs.pictures()
    figure = panels.prediction_panel(pictures["canvas"], pictures["prediction"], pictures["target"])
    width, height = figure.get_size_inches()
    assert width == pytest.approx(style.PAGE_WIDTH_IN)
    for axes, picture in zip(figure.axes, _shown(figure), strict=True):
        box = axes.get_position()
        ratio = (box.width * width) / (box.height * height)
        assert ratio == pytest.approx(picture.shape[1] / picture.shape[0], rel=1e-6)


def test_counterfactual_rows_carry_their_own_stripe():
    pictures = canvas_runs.pictures()
    context = pictures["counterfactual/context"][0][:, :144]
    arguments = (pictures["counterfactual/prediction"][0], pictures["counterfactual/truth"][0])
    colours = np.array(canvas_runs.STRIPES, np.uint8)
    figure = panels.counterfactual_panel(context, *arguments, canvas_runs.ACTIONS, stripes=colours)
    shown = _shown(figure)
    assert len(shown) == 8
    assert shown[0][0, -1].tolist() == [255, 0, 0]
    assert shown[4][0, -1].tolist() == [0, 255, 0]
    np.testing.assert_array_equal(shown[6], pictures["counterfactual/truth"][0][1])
    plain = panels.counterfactual_panel(context, *arguments, canvas_runs.ACTIONS)
    assert len(plain.axes) == 7  # the history once


def test_long_rollouts_are_thinned_with_their_ends():
    frames = np.zeros((30, 8, 8, 3), np.uint8)
    figure = panels.rollout_panel(frames, frames, list(range(1, 31)), most=5)
    steps = [word for word in _words(figure) if word.startswith("step")]
    assert len(steps) == 5 and steps[0] == "step 1" and steps[-1] == "step 30"
    assert len(figure.axes) == 15


def test_attention_panel_shares_one_scale_and_outlines_the_queries():
    layout = records.GEOMETRY.layout
    maps = np.full((2, 3, 57), 0.01)
    maps[1, 2, layout.positions("frame0", "key")[0]] = 0.5
    pictures = np.full((2, 64, 224, 3), 90, np.uint8)
    queries = [layout.tokens("target")[:1], layout.tokens("target")[5:6]]
    figure, scale = panels.attention_panel(
        pictures, maps, layout, queries=queries, row_names=["a", "b", "c"], scale=0.5
    )
    assert scale == 0.5
    shown = _shown(figure)
    assert len(shown) == 6
    assert shown[0][0, 160].tolist() == [255, 0, 255]
    np.testing.assert_array_equal(shown[0], shown[2])  # same map, same colours in every row
    assert shown[5][0, 0].astype(int).sum() > shown[0][0, 0].astype(int).sum()
    _, automatic = panels.attention_panel(
        pictures, maps, layout, queries=queries, row_names=["a", "b", "c"]
    )
    assert 0.01 <= automatic <= 0.5


def test_an_empty_or_ragged_grid_is_refused():
    picture = np.zeros((2, 2, 3), np.uint8)
    for rows in ([], [[None]], [[picture], [picture, picture]]):
        with pytest.raises(ConfigError, match="picture grid"):
            panels.picture_grid(rows)


if __name__ == "__main__":
    testing.main()
