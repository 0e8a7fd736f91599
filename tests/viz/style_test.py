"""Tests of attn_jax.viz.style."""

import sys

import numpy as np

from attn_jax.viz import style
from tests import testing


def test_a_figure_renders_at_its_size_without_pyplot():
    figure = style.new_figure(2.0, 1.0)
    style.tidy(figure.add_subplot()).plot([0, 1], [0, 1])
    picture = style.to_rgb(figure)
    assert picture.shape == (style.DPI, 2 * style.DPI, 3) and picture.dtype == np.uint8
    assert picture[0, 0].tolist() == [255, 255, 255]
    assert picture.min() < 100
    assert "matplotlib.pyplot" not in sys.modules


def test_rendering_is_deterministic():
    def draw():
        figure = style.new_figure(2.0, 1.0)
        style.tidy(figure.add_subplot()).plot([0, 1], [1, 0], color=style.colour_of(9))
        return style.to_rgb(figure)

    np.testing.assert_array_equal(draw(), draw())


def test_colours_repeat_after_the_palette():
    assert style.colour_of(len(style.PALETTE)) == style.colour_of(0)
    assert len(set(style.PALETTE)) == len(style.PALETTE)


if __name__ == "__main__":
    testing.main()
