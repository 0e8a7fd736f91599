"""Plots of numbers: learning curves, error by horizon, layer-by-head tables, attention budgets.

Every function returns a matplotlib Figure made without global state; `style.to_rgb` renders it.
Axes carry units, and levels that mean "no skill" are drawn as labelled lines, because a loss alone
says little.

Axis names: l layer, h head, g token group.

    figure = learning_curve({"validation": (samples, mse)}, marks={"copy last": 0.0147})
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure

from attn_jax.analysis.flowmaps import Budget
from attn_jax.core.errors import ConfigError
from attn_jax.core.typing import Float, NumpyArray
from attn_jax.viz import heatmap, style

Number = float | int
Curve = tuple[Sequence[Number], Sequence[Number]]


def learning_curve(
    losses: Mapping[str, Curve],
    *,
    marks: Mapping[str, Number] | None = None,
    rates: Mapping[str, Curve] | None = None,
    x_label: str = "training samples",
    y_label: str = "mean squared error",
) -> Figure:
    """Losses against training, with no-skill levels; rates in a panel below when given.

    Args:
      losses: series name -> (x, y); drawn on a logarithmic scale. Non-finite points are left out.
      marks: name -> level that takes no learning, drawn dashed and labelled.
      rates: series name -> (x, y) in [0, 1], for example hit rates.
      x_label: unit of x.
      y_label: unit of the losses.

    Raises:
      ConfigError: when there is no point to draw.
    """
    errors = {name: _finite(curve, positive=True) for name, curve in losses.items()}
    errors = {name: curve for name, curve in errors.items() if len(curve[0])}
    if not errors:
        raise ConfigError("no loss was logged: there is no learning curve to draw")
    shares = {name: _finite(curve) for name, curve in (rates or {}).items()}
    shares = {name: curve for name, curve in shares.items() if len(curve[0])}
    figure = style.new_figure(style.PAGE_WIDTH_IN, 5.4 if shares else 3.6)
    ratios = [2.2, 1.0] if shares else [1.0]
    grid = figure.add_gridspec(
        len(ratios),
        1,
        height_ratios=ratios,
        hspace=0.12,
        left=0.09,
        right=0.82,
        top=0.97,
        bottom=0.13,
    )
    upper = style.tidy(figure.add_subplot(grid[0]))
    for number, (name, (x, y)) in enumerate(errors.items()):
        few = "o" if len(x) < 40 else ""
        upper.plot(x, y, few + "-", color=style.colour_of(number), lw=1.8, ms=4, label=name)
    upper.set_yscale("log")
    upper.set_ylabel(y_label)
    upper.legend(fontsize=style.SMALL_PT, frameon=False, loc="best")
    _level_marks(upper, {n: v for n, v in (marks or {}).items() if np.isfinite(v) and v > 0})
    lower = upper
    if shares:
        lower = style.tidy(figure.add_subplot(grid[1], sharex=upper))
        upper.tick_params(labelbottom=False)
        for number, (name, (x, y)) in enumerate(shares.items()):
            few = "o" if len(x) < 40 else ""
            lower.plot(x, y, few + "-", color=style.colour_of(2 + number), lw=1.8, ms=4, label=name)
        lower.set_ylim(-0.03, 1.03)
        lower.set_ylabel("rate")
        lower.legend(fontsize=style.SMALL_PT, frameon=False, loc="best")
    lower.set_xlabel(x_label)
    return figure


def _finite(curve: Curve, *, positive: bool = False) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(curve[0], np.float64), np.asarray(curve[1], np.float64)
    good = np.isfinite(x) & np.isfinite(y) & ((y > 0) | (not positive))
    return x[good], y[good]


def _level_marks(axes: Axes, marks: Mapping[str, Number]) -> None:
    """Dashed levels with their names at the right margin, spread so that words do not overlap."""
    if not marks:
        return
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0.7 * min(marks.values())), max(1.5 * high, 1.5 * max(marks.values())))
    low, high = np.log(axes.get_ylim())
    ordered = sorted(marks.items(), key=lambda item: item[1])
    places = [(np.log(level) - low) / (high - low) for _, level in ordered]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + 0.065)
    for (name, level), place in zip(ordered, places, strict=True):
        axes.axhline(level, color=style.INK, lw=1.0, ls=(0, (5, 3)))
        axes.annotate(
            f"{name} {level:.3g}",
            (1.0, (np.log(level) - low) / (high - low)),
            (1.03, place),
            xycoords="axes fraction",
            textcoords="axes fraction",
            va="center",
            fontsize=style.SMALL_PT,
            color=style.INK,
            arrowprops={"arrowstyle": "-", "lw": 0.6, "color": style.INK, "relpos": (0, 0.5)},
        )


def error_by_horizon(
    horizon: Sequence[int],
    errors: Mapping[str, Sequence[Number]],
    *,
    rates: Mapping[str, Sequence[Number]] | None = None,
    y_label: str = "mean squared error",
) -> Figure:
    """Errors (and rates, at the right) against the number of steps predicted ahead.

    Args:
      horizon: steps ahead of each point.
      errors: series name -> one error per point.
      rates: series name -> one value in [0, 1] per point.
      y_label: unit of the errors.

    Raises:
      ConfigError: when there is no point to draw.
    """
    if not len(horizon) or not errors:
        raise ConfigError("no rollout was evaluated: there is no error to draw")
    rates = {n: v for n, v in (rates or {}).items() if np.isfinite(np.asarray(v, float)).any()}
    figure = style.new_figure(style.PAGE_WIDTH_IN, 3.2)
    grid = figure.add_gridspec(
        1, 2 if rates else 1, wspace=0.28, left=0.09, right=0.98, top=0.96, bottom=0.17
    )
    left = style.tidy(figure.add_subplot(grid[0]))
    for number, (name, values) in enumerate(errors.items()):
        left.plot(
            horizon,
            np.asarray(values, np.float64),
            "os^D"[number % 4] + "-",
            color=style.colour_of(number),
            lw=1.8,
            ms=4,
            label=name,
        )
    left.set_ylim(bottom=0)
    left.set_ylabel(y_label)
    panels = [left]
    if rates:
        right = style.tidy(figure.add_subplot(grid[1]))
        for number, (name, values) in enumerate(rates.items()):
            right.plot(
                horizon,
                np.asarray(values, np.float64),
                "os^D"[number % 4] + "-",
                color=style.colour_of(2 + number),
                lw=1.8,
                ms=4,
                label=name,
            )
        right.set_ylim(-0.03, 1.03)
        right.set_ylabel("rate")
        panels.append(right)
    for axes in panels:
        axes.set_xlabel("steps ahead")
        axes.set_xticks(list(horizon)[:: max(1, len(horizon) // 10)])
        axes.legend(fontsize=style.SMALL_PT, frameon=False)
    return figure


@dataclasses.dataclass(frozen=True)
class HeadTable:
    """One number per layer and head, or per layer and anything else that has a name.

    Attributes:
      values: (layer, head).
      layers: layer number of each row.
      heads: number or name of each column; empty when heads were averaged.
    """

    values: Float[NumpyArray, "l h"]
    layers: Sequence[int]
    heads: Sequence[int | str]


def layer_head_matrix(
    tables: Mapping[str, HeadTable],
    *,
    label: str,
    x_label: str = "head",
    reference: float | None = None,
    number_format: str = "{:.2f}",
) -> Figure:
    """Tables of one number per layer and head side by side, numbers written into the cells.

    Args:
      tables: title -> table; all share one colour scale that starts at 0.
      label: what the number is, written at the colour bar.
      x_label: what the columns are.
      reference: level to mark on the colour bar, for example what chance gives.
      number_format: format of the number in a cell.

    Raises:
      ConfigError: when there is no table.
    """
    if not tables:
        raise ConfigError("no table of layers and heads was given")
    finite = [t.values[np.isfinite(t.values)] for t in tables.values()]
    top = max([float(v.max()) for v in finite if v.size] + [reference or 0.0]) or 1.0
    deepest = max(len(table.layers) for table in tables.values())
    columns = [table.values.shape[1] for table in tables.values()]
    named = max(len(str(head)) for table in tables.values() for head in (*table.heads, ""))
    slanted = 0.06 * named if named > 3 else 0.0  # room for names below the columns, inches
    height = max(2.1, 0.34 * deepest + 1.0) + slanted
    # Words in cells need 0.3 in; where there are more columns the colours alone tell.
    written = 0.31 * sum(columns) <= 0.78 * style.PAGE_WIDTH_IN
    width = min(style.PAGE_WIDTH_IN, 0.62 * sum(columns) + 0.6 * len(tables) + 1.3)
    figure = style.new_figure(max(width, 4.5), height)
    bottom, top_in = (0.5 + slanted) / height, 0.32 / height
    grid = figure.add_gridspec(
        1,
        len(tables),
        width_ratios=columns,
        left=0.08,
        right=0.86,
        top=1 - top_in,
        bottom=bottom,
        wspace=0.2,
    )
    for number, (title, table) in enumerate(tables.items()):
        axes = style.tidy(figure.add_subplot(grid[number]))
        axes.grid(False)
        axes.set_facecolor(style.FAINT)
        axes.imshow(table.values, cmap=heatmap.SEQUENTIAL, vmin=0.0, vmax=top, aspect="auto")
        for (row, column), value in np.ndenumerate(table.values if written else np.zeros((0, 0))):
            shade = "white" if value <= 0.6 * top else "black"  # black for NaN, on grey
            text = number_format.format(value) if np.isfinite(value) else "n/a"
            axes.text(
                column, row, text, ha="center", va="center", color=shade, fontsize=style.SMALL_PT
            )
        names = [str(head) for head in table.heads] or ["mean"]
        axes.set_xticks(range(len(names)), names)
        if slanted:
            axes.set_xticks(range(len(names)), names, rotation=35, ha="right")
        axes.set_yticks(range(len(table.layers)), [str(layer) for layer in table.layers])
        axes.set_xlabel(x_label)
        axes.set_title(title, fontsize=style.FONT_PT)
        if number == 0:
            axes.set_ylabel("layer")
    bar = figure.colorbar(
        ScalarMappable(Normalize(0.0, top), heatmap.SEQUENTIAL),
        cax=figure.add_axes((0.885, bottom, 0.018, 1 - bottom - top_in)),
    )
    bar.set_label(label, fontsize=style.SMALL_PT)
    bar.ax.tick_params(labelsize=style.SMALL_PT)
    if reference is not None:
        bar.ax.axhline(reference, color="white", lw=2.5)
        bar.ax.axhline(reference, color=style.PALETTE[1], lw=1.5)
    return figure


def _is_light(colour: str) -> bool:
    """Whether dark words are easier to read on a colour than white ones."""
    red, green, blue = to_rgb(colour)
    return 0.299 * red + 0.587 * green + 0.114 * blue > 0.55


def budget_bars(budgets: Sequence[Budget], *, titles: Sequence[str] = ()) -> Figure:
    """Stacked shares of attention per layer (mean over heads), one panel per budget.

    Every bar sums to 1. The last bar of a panel, set apart, is the share of keys that each group
    has: what attention without preference would give.

    Raises:
      ConfigError: when there is no budget.
    """
    if not budgets:
        raise ConfigError("no attention budget was given")
    names = list(dict.fromkeys(name for budget in budgets for name in budget.names))
    hues = {name: style.colour_of(number) for number, name in enumerate(names)}
    widths = [len(budget.layers) + 1.8 for budget in budgets]
    figure = style.new_figure(style.PAGE_WIDTH_IN, 3.4)
    grid = figure.add_gridspec(
        1,
        len(budgets),
        width_ratios=widths,
        wspace=0.16,
        left=0.07,
        right=0.84,
        top=0.9,
        bottom=0.15,
    )
    for number, budget in enumerate(budgets):
        axes = style.tidy(figure.add_subplot(grid[number]))
        axes.grid(False)
        places = np.append(np.arange(len(budget.layers)), len(budget.layers) + 0.6)
        shares = np.concatenate([budget.mass.mean(1), budget.area[None]], axis=0)
        below = np.zeros(len(places))
        for column, name in enumerate(budget.names):
            share = shares[:, column]
            hatch = "//" if name.startswith("sep") else None
            axes.bar(
                places, share, 0.8, below, color=hues[name], edgecolor="white", lw=0.6, hatch=hatch
            )
            for place, base, height in zip(places, below, share, strict=True):
                if height >= 0.09:
                    axes.text(
                        place,
                        base + height / 2,
                        f"{height:.2f}".lstrip("0"),
                        ha="center",
                        va="center",
                        fontsize=style.SMALL_PT - 1,
                        color="black" if hatch or _is_light(hues[name]) else "white",
                        bbox={"facecolor": "white", "pad": 0.6, "lw": 0} if hatch else None,
                    )
            below = below + share
        axes.set_ylim(0, 1)
        axes.set_xticks(places, [*(str(layer) for layer in budget.layers), "keys"])
        axes.set_xlabel("layer")
        axes.set_title(titles[number] if titles else budget.stream, fontsize=style.FONT_PT)
        if number == 0:
            axes.set_ylabel("share of attention")
    handles = [
        axes.bar([0], [0], color=hues[name], hatch="//" if name.startswith("sep") else None)[0]
        for name in names
    ]
    figure.legend(
        handles[::-1], names[::-1], fontsize=style.SMALL_PT, frameon=False, loc="center right"
    )
    return figure
