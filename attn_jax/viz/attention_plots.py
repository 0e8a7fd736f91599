"""Attention between patches: lines over the picture, and a matrix of selected queries by keys.

Both take weights of a record's keys and its layout; groups, names and places come from the layout
alone.

Axis names: l layer, q selected queries, key positions on the record's key axis.

    attention_lines(picture, maps, layout, tokens, layers=record.layers)     # maps (l, q, key)
    attention_matrix(maps.mean(0), layout, query_labels)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from attn_jax.analysis import reduce
from attn_jax.core.errors import ConfigError, LayoutError
from attn_jax.core.layout import TokenLayout
from attn_jax.core.typing import Float, Int, NumpyArray, UInt8
from attn_jax.viz import heatmap, style

NARROWEST_PT, WIDEST_PT = 0.5, 5.0


def _placed_keys(layout: TokenLayout) -> np.ndarray:
    """Positions on the key axis of tokens that are patches with a place in the picture."""
    placed = [
        index
        for group in layout.groups
        if group.grid is not None and group.box is not None and group.valid
        for index in group.indices
    ]
    return np.flatnonzero(np.isin(layout.axis_tokens("key"), placed))


def attention_lines(
    picture: UInt8[NumpyArray, "h w 3"],
    maps: Float[NumpyArray, "l q key"],
    layout: TokenLayout,
    queries: Int[NumpyArray, "q"],
    *,
    layers: Sequence[int],
    quantile: float = 0.95,
) -> Figure:
    """Lines from selected patches to the patches they attend to, over the darkened picture.

    Args:
      picture: the model's input.
      maps: (layer, query, key) weights; keys without a place in the picture are not drawn.
      layout: layout of the record.
      queries: tokens of the selected queries, outlined.
      layers: layer number of each map; one colour per layer.
      quantile: within each layer only weights at or above this quantile are drawn, in [0, 1].

    Raises:
      ConfigError: when the quantile is outside [0, 1].
      LayoutError: when a query is no patch, or no key is.
    """
    keys = _placed_keys(layout)
    if not len(keys):
        raise LayoutError("no recorded key has a place in the picture", fix="Record image keys")
    ends = _centres(heatmap.token_boxes(layout, layout.axis_tokens("key")[keys]))
    boxes = heatmap.token_boxes(layout, queries)
    starts = _centres(boxes)
    kept = reduce.quantile_filter(maps[..., keys], quantile, axes=(1, 2))
    strongest = float(kept.max()) or 1.0

    height, width = picture.shape[:2]
    across = style.PAGE_WIDTH_IN
    picture_in, legend_in = across * height / width, 0.35
    figure = style.new_figure(across, picture_in + legend_in)
    axes = figure.add_axes((0, 0, 1, picture_in / (picture_in + legend_in)))
    axes.imshow((0.55 * picture).astype(np.uint8), interpolation="nearest", aspect="auto")
    handles = []
    for number, layer in enumerate(layers):
        colour = style.colour_of(number)
        query, key = np.nonzero(kept[number])
        strength = kept[number][query, key] / strongest
        segments = np.stack([starts[query], ends[key]], axis=1)[..., ::-1]  # (line, end, xy)
        axes.add_collection(
            LineCollection(
                list(segments),
                colors=colour,
                linewidths=NARROWEST_PT + (WIDEST_PT - NARROWEST_PT) * strength,
                alpha=0.75,
                capstyle="round",
            )
        )
        axes.scatter(ends[key][:, 1], ends[key][:, 0], s=8, color=colour, zorder=3)
        handles.append(Line2D([], [], color=colour, lw=3, label=f"layer {layer}"))
    mark = [level / 255 for level in heatmap.MARK]
    for top, left, tall, wide in boxes.tolist():
        corner = (left - 0.5, top - 0.5)
        axes.add_patch(Rectangle(corner, wide, tall, fill=False, edgecolor=mark, lw=1.6, zorder=4))
    axes.set_xlim(-0.5, width - 0.5)
    axes.set_ylim(height - 0.5, -0.5)
    axes.axis("off")
    figure.legend(
        handles=handles,
        ncols=min(len(handles), 8),
        fontsize=style.SMALL_PT,
        frameon=False,
        loc="upper center",
    )
    return figure


def _centres(boxes: np.ndarray) -> np.ndarray:
    return boxes[:, :2] + (boxes[:, 2:] - 1) / 2.0


def attention_matrix(
    maps: Float[NumpyArray, "q key"],
    layout: TokenLayout,
    query_labels: Sequence[str],
    *,
    title: str = "",
    label: str = "attention probability",
) -> Figure:
    """Selected queries against all recorded keys, keys ordered and named by group.

    Args:
      maps: (query, key) weights, usually probabilities.
      layout: layout of the record.
      query_labels: one name per row.
      title: words above the figure.
      label: what the colour is.

    Raises:
      ConfigError: when labels and rows differ in number.
    """
    if len(query_labels) != len(maps):
        raise ConfigError(f"{len(query_labels)} labels for {len(maps)} rows of the matrix")
    tokens = layout.axis_tokens("key")
    order: list[int] = []
    spans: list[tuple[str, int, int]] = []
    for group in layout.groups:
        places = np.flatnonzero(np.isin(tokens, group.indices)).tolist()
        if places:
            spans.append((group.name, len(order), len(order) + len(places)))
            order.extend(places)
    rows = len(maps)
    height = min(6.0, max(2.8, 1.55 + 0.2 * rows))  # less would cut off the words of the bar
    figure = style.new_figure(style.PAGE_WIDTH_IN, height)
    axes = style.tidy(figure.add_axes((0.1, 0.75 / height, 0.77, 1 - 1.1 / height)))
    axes.grid(False)
    ordered = np.asarray(maps, np.float64)[:, order]
    norm = PowerNorm(0.5, vmin=0.0, vmax=float(ordered.max()) or 1.0)
    image = axes.imshow(
        ordered, cmap=heatmap.SEQUENTIAL, norm=norm, aspect="auto", interpolation="nearest"
    )
    for _, start, _ in spans[1:]:
        axes.axvline(start - 0.5, color="white", lw=1.2)
    small = max(4, len(order) // 40)
    raised = False
    for name, start, stop in spans:
        raised = stop - start < small and not raised
        axes.annotate(
            name,
            ((start + stop - 1) / 2, rows - 0.5),
            xytext=(0, -22 if raised else -8),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=style.SMALL_PT,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "lw": 0.6, "color": style.INK} if raised else None,
        )
    axes.set_xticks([])
    axes.set_xlabel("attended patches, by group", labelpad=26)
    step = max(1, rows // 24)
    axes.set_yticks(range(0, rows, step), list(query_labels)[::step])
    axes.set_ylabel("querying patch")
    axes.set_title(title, fontsize=style.FONT_PT)
    bar_axes = figure.add_axes((0.885, 0.75 / height, 0.016, 1 - 1.1 / height))
    bar = figure.colorbar(image, cax=bar_axes)
    bar.set_label(f"{label},\nsquare-root scale", fontsize=style.SMALL_PT)
    bar.ax.tick_params(labelsize=style.SMALL_PT)
    return figure


def action_budget(
    masses: Float[NumpyArray, "H g"],
    names: Sequence[str],
    *,
    title: str = "",
    x_label: str = "action of the chunk",
    places: Sequence[int] = (),
) -> Figure:
    """Stacked shares of attention per action of a chunk (or per layer), by token group.

    Args:
      masses: (action, group) mass on each group; what is missing to 1 stays white, and groups
        without any mass are left out.
      names: of the groups.
      title: words above the figure.
      x_label: what the rows of `masses` are.
      places: number of each row; empty counts from 0.

    Raises:
      ConfigError: when names and groups differ in number.
    """
    if len(names) != masses.shape[1]:
        raise ConfigError(f"{len(names)} names for {masses.shape[1]} groups")
    figure = style.new_figure(style.PAGE_WIDTH_IN, 3.2)
    axes = style.tidy(figure.add_axes((0.08, 0.16, 0.68, 0.72)))
    at = np.arange(len(masses))
    below = np.zeros(len(masses))
    for number, name in enumerate(names):
        share = masses[:, number].astype(np.float64)
        if not share.any():
            continue  # padding or a dummy camera
        hue = style.colour_of(number)
        hatch = "//" if number >= len(style.PALETTE) else None  # colours repeat, this does not
        axes.bar(at, share, 0.92, below, color=hue, label=name, hatch=hatch, lw=0)
        below = below + share
    axes.set_ylim(0, 1)
    axes.set_xlim(-0.6, len(masses) - 0.4)
    if len(places):
        axes.set_xticks(at, [str(place) for place in places])
    axes.set_xlabel(x_label)
    axes.set_ylabel("share of attention")
    axes.set_title(title, fontsize=style.FONT_PT)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles[::-1], labels[::-1], fontsize=style.SMALL_PT, frameon=False, loc="center right"
    )
    return figure
