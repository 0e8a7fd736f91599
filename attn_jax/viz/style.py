"""Look of every figure: fonts readable at page width, colours for every kind of eye and print.

Figures use matplotlib's object interface only, so drawing keeps no global state and needs no
display.

    figure = new_figure(9.0, 3.0)
    axes = figure.add_subplot()
    picture = to_rgb(figure)              # (h, w, 3) uint8
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from attn_jax.core.typing import NumpyArray, UInt8

PAGE_WIDTH_IN = 9.0
DPI = 150
FONT_PT = 10.0
SMALL_PT = 8.5
INK = "#1b1f24"
FAINT = "#c9ced6"
#: Okabe and Ito's qualitative colours, ordered by contrast on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5b5b5b", "#F0E442")


def new_figure(width_in: float, height_in: float) -> Figure:
    """An empty white figure of the given size, inches, with a canvas that renders to memory."""
    figure = Figure(figsize=(width_in, height_in), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def tidy(axes: Axes) -> Axes:
    """Applies fonts, a light grid and open spines to an axes; returns it."""
    axes.tick_params(labelsize=SMALL_PT, colors=INK, length=3)
    axes.xaxis.label.set_fontsize(FONT_PT)
    axes.yaxis.label.set_fontsize(FONT_PT)
    axes.title.set_fontsize(FONT_PT)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)
    axes.grid(True, color=FAINT, linewidth=0.5, alpha=0.6)
    axes.set_axisbelow(True)
    return axes


def to_rgb(figure: Figure) -> UInt8[NumpyArray, "h w 3"]:
    """Renders a figure made by `new_figure`."""
    canvas = figure.canvas
    if not isinstance(canvas, FigureCanvasAgg):
        canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def colour_of(number: int) -> str:
    """Colour of the n-th series; repeats after the palette ends."""
    return PALETTE[number % len(PALETTE)]
