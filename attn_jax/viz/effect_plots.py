"""Plots of statistics: effects with their intervals, measures by layer, outcomes side by side.

Tables are those of `launch.aggregate`: one row per test (`analysis.aggregate.COLUMNS`) or one row
per episode and measure (`analysis.tables.COLUMNS`). Intervals of effects are the BCa intervals of
the table, those of means are 1.96 standard errors over episodes.

    figure = effects(table[table.family == "target_lift"], x_label="lift - 1")
    figure = by_layer(lift_rows, split="role", level=1.0, y_label="lift")
    figure = by_outcome({"lift": {"success": values, "failure": others}})
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from attn_jax.core.errors import ConfigError
from attn_jax.viz import style
from attn_jax.viz.metric_names import metric, query_words

ALPHA = 0.05
MOST_EFFECTS = 24
#: The outline of fewer episodes would show the smoothing, not the episodes.
FEWEST_FOR_VIOLIN = 6
OUTCOME_COLOURS = {
    "success": style.PALETTE[0],
    "failure": style.PALETTE[1],
    "unknown": style.PALETTE[6],
}
_ROW_IN = 0.24


def label_of(row: Any, columns: Sequence[str]) -> str:
    """What distinguishes a test, in words: `lift, actions, layer 3, wrist camera`."""
    words = []
    for column in columns:
        value = row[column]
        if column == "metric":
            words.append(metric(str(value)).label)
        elif isinstance(value, str):
            named = {"query": query_words(value), "camera": f"{value} camera"}
            words += [named.get(column, value)] if value else []
        elif np.isfinite(value) and int(value) >= 0:
            words.append(f"{column} {int(value)}")
    return ", ".join(words)


def effects(table: Any, *, labels: Sequence[str], x_label: str, title: str = "") -> Figure:
    """A line per test: the estimated difference with its interval, filled where it is significant.

    Args:
      table: rows of one family, in the order to draw; at most `MOST_EFFECTS` are drawn.
      labels: one per row.
      x_label: what the difference is, with its unit.
      title: above the figure.

    Raises:
      ConfigError: no test has a number.
    """
    rows = [
        (label, row)
        for label, (_, row) in zip(labels, table.iterrows(), strict=True)
        if np.isfinite(row.difference)
    ][:MOST_EFFECTS]
    if not rows:
        raise ConfigError("no test of this family has a number to draw")
    height = 0.75 + _ROW_IN * len(rows) + (0.25 if title else 0.0)
    figure = style.new_figure(style.PAGE_WIDTH_IN, height)
    # At most 0.075 in a letter, so that labels neither run off the page nor leave it empty.
    left = min(0.66, 0.03 + 0.075 * max(len(label) for label, _ in rows) / style.PAGE_WIDTH_IN)
    axes = figure.add_axes((left, 0.5 / height, 0.97 - left, _ROW_IN * len(rows) / height))
    style.tidy(axes)
    axes.axvline(0.0, color=style.INK, lw=0.8)
    for place, (_, row) in enumerate(rows):
        found = row.p_holm <= ALPHA
        colour = style.PALETTE[0] if found else style.PALETTE[6]
        axes.plot([row.ci_low, row.ci_high], [place, place], color=colour, lw=1.6)
        axes.plot(
            [row.difference],
            [place],
            "o",
            ms=5,
            color=colour,
            markerfacecolor=colour if found else "white",
        )
    axes.set_yticks(range(len(rows)), [label for label, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(x_label)
    if title:
        axes.set_title(title, fontsize=style.FONT_PT, loc="left")
    return figure


def layer_means(rows: Any, split: str) -> list[dict[str, Any]]:
    """What `by_layer` and `bars_by_layer` draw: means over episodes, one entry per curve.

    Args:
      rows: table with `episode`, `layer`, `camera`, `value` and the column `split`.
      split: column whose values get curves of their own.

    Returns:
      `camera`, `name` (value of `split`), `episodes`, and lists by layer: `layer`, `mean`, and
      `half_width`, 1.96 standard errors.
    """
    rows = rows[np.isfinite(rows.value)]
    out = []
    for camera in sorted(map(str, rows.camera.unique())):
        for name in sorted(map(str, rows[split].unique()), reverse=True):
            chosen = rows[(rows.camera == camera) & (rows[split] == name)]
            if not len(chosen):
                continue
            wide = chosen.groupby(["episode", "layer"], observed=True).value.mean().unstack("layer")
            out.append(
                {
                    "camera": camera,
                    "name": name,
                    "episodes": len(wide),
                    "layer": [int(layer) for layer in wide.columns],
                    "mean": wide.mean().tolist(),
                    "half_width": (1.96 * wide.sem().fillna(0.0)).tolist(),
                }
            )
    return out


def by_layer(
    rows: Any, *, split: str, y_label: str, level: float | None = None, level_name: str = ""
) -> Figure:
    """A measure against the layer, one panel per camera, one curve per value of `split`.

    Args:
      rows: table with `episode`, `layer`, `camera`, `value` and the column `split`.
      split: column whose values get curves of their own.
      y_label: name of the measure.
      level: a value that means nothing was found, drawn dashed.
      level_name: its name.

    Raises:
      ConfigError: no finite value.
    """
    curves = layer_means(rows, split)
    if not curves:
        raise ConfigError(f"no value of {y_label} to draw")
    cameras = list(dict.fromkeys(curve["camera"] for curve in curves))
    names = sorted({curve["name"] for curve in curves}, reverse=True)
    figure = style.new_figure(style.PAGE_WIDTH_IN, 3.0)
    first = None
    for number, camera in enumerate(cameras):
        axes = style.tidy(figure.add_subplot(1, len(cameras), number + 1, sharey=first))
        first = first or axes
        for curve in curves:
            if curve["camera"] == camera:
                axes.errorbar(
                    curve["layer"], np.array(curve["mean"]), np.array(curve["half_width"]),
                    fmt="o-", ms=4, lw=1.6, capsize=2,
                    color=style.colour_of(names.index(curve["name"])),
                    label=curve["name"] or "all",
                )  # fmt: skip
                axes.set_xticks(curve["layer"])
        if level is not None:
            axes.axhline(level, color=style.INK, lw=0.9, ls="--", label=level_name or None)
        axes.set_xlabel("layer")
        axes.set_title(f"camera {camera}", fontsize=style.FONT_PT)
        if number == 0:
            axes.set_ylabel(y_label)
        else:
            axes.tick_params(labelleft=False)
    handles, words = figure.axes[0].get_legend_handles_labels()
    figure.subplots_adjust(left=0.08, right=0.81, top=0.9, bottom=0.17, wspace=0.08)
    figure.legend(handles, words, fontsize=style.SMALL_PT, frameon=False, loc="center right")
    return figure


def bars_by_layer(measures: Mapping[str, Any]) -> Figure:
    """Bars of means by layer and outcome: a row of panels per measure, a column per camera.

    Args:
      measures: name of the measure -> rows with `episode`, `outcome`, `layer`, `camera`, `value`.
        Non-finite values are left out; whiskers are 1.96 standard errors over episodes.

    Raises:
      ConfigError: no finite value.
    """
    drawn = {name: layer_means(rows, "outcome") for name, rows in measures.items()}
    drawn = {name: bars for name, bars in drawn.items() if bars}
    if not drawn:
        raise ConfigError("no episode has a value of these measures")
    everything = [bar for bars in drawn.values() for bar in bars]
    cameras = list(dict.fromkeys(bar["camera"] for bar in everything))
    outcomes = [o for o in OUTCOME_COLOURS if o in {bar["name"] for bar in everything}]
    height = 0.75 + 1.75 * len(drawn)
    figure = style.new_figure(style.PAGE_WIDTH_IN, height)
    grid = figure.add_gridspec(
        len(drawn), len(cameras), left=0.1, right=0.86, top=1 - 0.3 / height,
        bottom=0.45 / height, wspace=0.1, hspace=0.18,
    )  # fmt: skip
    width = 0.8 / len(outcomes)
    for row, (name, bars) in enumerate(drawn.items()):
        first = None
        for column, camera in enumerate(cameras):
            axes = style.tidy(figure.add_subplot(grid[row, column], sharey=first))
            first = first or axes
            axes.grid(False, axis="x")
            for bar in bars:
                if bar["camera"] != camera or bar["name"] not in outcomes:
                    continue
                place = outcomes.index(bar["name"])
                axes.bar(
                    np.array(bar["layer"]) + (place - (len(outcomes) - 1) / 2) * width,
                    bar["mean"], 0.92 * width, yerr=bar["half_width"], capsize=2,
                    color=OUTCOME_COLOURS[bar["name"]], ecolor=style.INK,
                    error_kw={"lw": 0.8}, label=f"{bar['name']}\nn = {bar['episodes']}",
                )  # fmt: skip
                axes.set_xticks(bar["layer"])
            axes.tick_params(labelleft=not column, labelbottom=row == len(drawn) - 1)
            if row == 0:
                axes.set_title(f"camera {camera}", fontsize=style.FONT_PT)
            if row == len(drawn) - 1:
                axes.set_xlabel("layer")
            if column == 0:
                axes.set_ylabel(name)
        if first is not None and all(value >= 0 for bar in bars for value in bar["mean"]):
            first.set_ylim(bottom=0)  # a whisker of few episodes goes below what can be
    handles, words = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, words, fontsize=style.SMALL_PT, frameon=False, loc="center right")
    return figure


def by_outcome(measures: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """A point for every episode and the mean, and where there are enough of them a violin.

    Args:
      measures: measure -> outcome -> a value per episode. Non-finite values are left out.

    Raises:
      ConfigError: nothing to draw.
    """
    drawn = {
        name: {k: np.asarray(v, np.float64)[np.isfinite(v)] for k, v in groups.items()}
        for name, groups in measures.items()
    }
    drawn = {n: {k: v for k, v in g.items() if len(v)} for n, g in drawn.items()}
    drawn = {name: groups for name, groups in drawn.items() if groups}
    if not drawn:
        raise ConfigError("no episode has a value of these measures")
    figure = style.new_figure(style.PAGE_WIDTH_IN, 3.0)
    for number, (name, groups) in enumerate(drawn.items()):
        axes = style.tidy(figure.add_subplot(1, len(drawn), number + 1))
        axes.grid(False, axis="x")
        for place, (outcome, values) in enumerate(groups.items()):
            colour = OUTCOME_COLOURS.get(outcome, style.colour_of(place))
            if len(values) >= FEWEST_FOR_VIOLIN and np.ptp(values) > 0:
                bodies: Any = axes.violinplot(values, [place], widths=0.8, showextrema=False)
                for body in bodies["bodies"]:
                    body.set(facecolor=colour, alpha=0.25)
            # Spread sideways by rank, so that the picture is the same every time.
            offsets = 0.24 * (np.argsort(np.argsort(values)) * 0.618 % 1 - 0.5)
            axes.plot(place + offsets, values, "o", ms=3.5, color=colour, alpha=0.7)
            axes.hlines(values.mean(), place - 0.3, place + 0.3, color=style.INK, lw=1.6)
        axes.set_xticks(
            range(len(groups)), [f"{outcome}\nn = {len(v)}" for outcome, v in groups.items()]
        )
        axes.set_xlim(-0.6, len(groups) - 0.4)
        axes.set_title(name, fontsize=style.FONT_PT)
    figure.subplots_adjust(left=0.07, right=0.98, top=0.9, bottom=0.16, wspace=0.3)
    return figure
