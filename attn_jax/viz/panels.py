"""Panels: pictures in rows and columns with words beside them.

All pictures are uint8 RGB. Small pictures are enlarged without smoothing, so that a reader sees the
pixels the model made. Differences are prediction minus truth, averaged over the colour channels,
red where the prediction is too bright and blue where it is too dark, white where they agree.

Axis names: n examples, a actions, k horizon, h w pixels.

    figure = prediction_panel(canvas, prediction, target)          # a matplotlib Figure
    picture = style.to_rgb(figure)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from attn_jax.core.errors import ConfigError
from attn_jax.core.layout import TokenLayout
from attn_jax.core.typing import Float, Int, NumpyArray, UInt8
from attn_jax.viz import heatmap, style

Pictures = UInt8[NumpyArray, "n h w 3"]
_LABEL_IN = 1.25
_GAP_IN = 0.09
_TITLE_IN = 0.3
_TALLEST_IN = 2.2


def signed_error(
    prediction: UInt8[NumpyArray, "*n h w 3"], truth: UInt8[NumpyArray, "*n h w 3"]
) -> Float[NumpyArray, "*n h w"]:
    """Prediction minus truth in [-1, 1], averaged over colour channels."""
    return (prediction.astype(np.float64) - truth.astype(np.float64)).mean(-1) / 255.0


def error_picture(
    prediction: UInt8[NumpyArray, "h w 3"], truth: UInt8[NumpyArray, "h w 3"]
) -> UInt8[NumpyArray, "h w 3"]:
    """Signed difference in colours, full scale at a difference of one (black against white)."""
    return heatmap.difference(signed_error(prediction, truth), scale=1.0)


def picture_grid(
    rows: Sequence[Sequence[NumpyArray | None]],
    *,
    column_titles: Sequence[str] = (),
    row_titles: Sequence[str] = (),
    width_in: float = style.PAGE_WIDTH_IN,
) -> Figure:
    """Pictures in a table of rows and columns, all at the same scale, with titles.

    Args:
      rows: pictures (h, w, 3) uint8, or None for an empty cell; every row has the same length and
        every column holds pictures of one width.
      column_titles: words above the columns.
      row_titles: words to the left of the rows.
      width_in: width of the figure, inches.

    Raises:
      ConfigError: when there is nothing to draw or the rows differ in length.
    """
    count = {len(row) for row in rows}
    if len(count) != 1 or not any(cell is not None for row in rows for cell in row):
        raise ConfigError("a picture grid needs rows of equal length with at least one picture")
    columns = count.pop()
    widths = [_largest([row[c] for row in rows], axis=1) for c in range(columns)]
    heights = [_largest(row, axis=0) for row in rows]
    label = _LABEL_IN if row_titles else 0.0
    title = _TITLE_IN * max((text.count("\n") + 1 for text in column_titles), default=0)
    inch_per_px = (width_in - label - _GAP_IN * (columns + 1)) / sum(widths)
    inch_per_px = min(inch_per_px, _TALLEST_IN / max(heights))
    full_width = label + _GAP_IN * (columns + 1) + sum(widths) * inch_per_px
    full_height = title + _GAP_IN * (len(rows) + 1) + sum(heights) * inch_per_px
    figure = style.new_figure(full_width, full_height)
    enlarged = inch_per_px * style.DPI >= 1.0

    top = full_height - title - _GAP_IN
    lefts = label + _GAP_IN + np.cumsum([0.0] + [w * inch_per_px + _GAP_IN for w in widths[:-1]])
    for column, text in enumerate(column_titles):
        centre = lefts[column] + widths[column] * inch_per_px / 2
        figure.text(
            centre / full_width,
            (full_height - title / 2 - _GAP_IN / 2) / full_height,
            text,
            ha="center",
            va="center",
            fontsize=style.FONT_PT,
            color=style.INK,
        )
    for number, row in enumerate(rows):
        tall = heights[number] * inch_per_px
        if row_titles:
            figure.text(
                (label - 0.05) / full_width,
                (top - tall / 2) / full_height,
                row_titles[number],
                ha="right",
                va="center",
                fontsize=style.FONT_PT,
                color=style.INK,
            )
        for column, cell in enumerate(row):
            if cell is None:
                continue
            height, width = cell.shape[0] * inch_per_px, cell.shape[1] * inch_per_px
            axes = figure.add_axes(
                (
                    lefts[column] / full_width,
                    (top - height) / full_height,
                    width / full_width,
                    height / full_height,
                )
            )
            axes.imshow(cell, interpolation="nearest" if enlarged else "hanning", aspect="auto")
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_color(style.FAINT)
        top -= tall + _GAP_IN
    return figure


def _largest(cells: Sequence[NumpyArray | None], axis: int) -> int:
    return max((cell.shape[axis] for cell in cells if cell is not None), default=0)


def prediction_panel(
    canvas: UInt8[NumpyArray, "n H W 3"],
    prediction: Pictures,
    target: Pictures,
    *,
    names: Sequence[str] = (),
) -> Figure:
    """One row per canvas: what the model was given, its prediction, the truth, the difference.

    Args:
      canvas: (n, H, W, 3) canvases as the model saw them or with their target.
      prediction: (n, h, w, 3) predicted frames.
      target: (n, h, w, 3) true frames.
      names: words to the left of the rows, default their number.
    """
    rows = [
        [given, guess, truth, error_picture(guess, truth)]
        for given, guess, truth in zip(canvas, prediction, target, strict=True)
    ]
    return picture_grid(
        rows,
        column_titles=("history and actions", "prediction", "truth", "difference"),
        row_titles=names or [f"canvas {i + 1}" for i in range(len(rows))],
    )


def counterfactual_panel(
    context: UInt8[NumpyArray, "h w_context 3"],
    prediction: UInt8[NumpyArray, "a h w 3"],
    truth: UInt8[NumpyArray, "a h w 3"],
    actions: Sequence[str],
    *,
    stripes: UInt8[NumpyArray, "a 3"] | None = None,
    stripe_px: int = 16,
) -> Figure:
    """One observation, one row per action: prediction, what would truly follow, the difference.

    Args:
      context: the history up to the newest frame.
      prediction: (a, h, w, 3) predicted frames.
      truth: (a, h, w, 3) true outcomes.
      actions: names of the actions.
      stripes: colour of every action's stripe; when given, each row ends its history with it.
      stripe_px: width of that stripe, pixels.
    """
    rows = []
    for number, (guess, true) in enumerate(zip(prediction, truth, strict=True)):
        history = context if number == 0 else None
        if stripes is not None:
            stripe = np.empty((len(context), stripe_px, 3), np.uint8)
            stripe[...] = stripes[number]
            history = np.concatenate([context, stripe], axis=1)
        rows.append([history, guess, true, error_picture(guess, true)])
    return picture_grid(
        rows,
        column_titles=(
            "history" if stripes is None else "history, then action",
            "prediction",
            "truth",
            "difference",
        ),
        row_titles=list(actions),
    )


def rollout_panel(
    prediction: UInt8[NumpyArray, "k h w 3"],
    truth: UInt8[NumpyArray, "k h w 3"],
    horizon: Sequence[int],
    *,
    most: int = 10,
) -> Figure:
    """A rollout by horizon: truth above, the model's own continuation below, then their difference.

    Args:
      prediction: (k, h, w, 3) frames, each predicted from earlier predictions.
      truth: (k, h, w, 3) frames that the world showed.
      horizon: number of steps ahead of each frame.
      most: largest number of columns; longer rollouts are thinned evenly, ends included.
    """
    chosen = np.linspace(0, len(horizon) - 1, min(most, len(horizon))).round().astype(int)
    rows = [
        [truth[i] for i in chosen],
        [prediction[i] for i in chosen],
        [error_picture(prediction[i], truth[i]) for i in chosen],
    ]
    return picture_grid(
        rows,
        column_titles=[f"step {horizon[i]}" for i in chosen],
        row_titles=("truth", "prediction", "difference"),
    )


def attention_panel(
    pictures: Pictures,
    maps: Float[NumpyArray, "n row key"],
    layout: TokenLayout,
    *,
    queries: Sequence[Int[NumpyArray, "_"]],
    row_names: Sequence[str],
    column_names: Sequence[str] = (),
    scale: float | None = None,
) -> tuple[Figure, float]:
    """Where selected queries look: one column per picture, one row per map, queries outlined.

    Pictures are drawn in grey, so that every colour is a weight: a green stripe would hide it.

    Args:
      pictures: (n, h, w, 3) model inputs.
      maps: (n, row, key) weights of the record's keys; a row is for example a layer.
      layout: layout of the record.
      queries: tokens of the selected queries of each picture, outlined in magenta.
      row_names: words to the left of the rows.
      column_names: words above the columns.
      scale: weight of the last colour, shared by all maps; None takes the 99.5 % quantile.

    Returns:
      The figure, and the scale used.
    """
    size = (pictures.shape[1], pictures.shape[2])
    grey = np.asarray(pictures, np.float64).mean(-1, keepdims=True)
    pictures = np.broadcast_to(grey, pictures.shape).round().astype(np.uint8)
    heat = [[heatmap.layout_heat(layout, row, size) for row in per_picture] for per_picture in maps]
    if scale is None:
        scale = float(np.nanquantile(np.asarray(heat), 0.995))
    rows = [
        [
            heatmap.outline(
                heatmap.overlay(picture, heat[column][number], scale=scale, share=0.6),
                heatmap.token_boxes(layout, queries[column]),
                width=max(1, size[1] // 224),
            )
            for column, picture in enumerate(pictures)
        ]
        for number in range(len(row_names))
    ]
    return picture_grid(rows, column_titles=column_names, row_titles=row_names), scale
