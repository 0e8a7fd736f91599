"""Panels of camera maps: objects, prompts, denoising steps, layers and heads, time.

Maps are probability mass per patch and are drawn over the picture through the letterbox. Maps that
are to be compared share one scale, and every figure says its scale. Differences are red where the
second prompt adds attention, blue where it takes some away.

Axis names: gh gw patch grid, h w pixels, s denoising steps, l layer, n head, t time.

    figure = object_panel(picture, camera_map, {"duck": mask}, input_size=(224, 224))
    figure = prompt_comparison(picture, {"base": a, "banana": b}, input_size=(224, 224))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from attn_jax.core.errors import ConfigError
from attn_jax.core.typing import Bool, Float, NumpyArray, UInt8
from attn_jax.viz import heatmap, panels, style
from attn_jax.viz.heatmap import OverlayStyle

Picture = UInt8[NumpyArray, "h w 3"]
Size = tuple[int, int]
_DEFAULT = heatmap.STYLES["default"]
_MOST_NAMES = 3  # of outlined objects, before the title outgrows its picture
_BAR_IN = 0.7


def draw(
    picture: Picture,
    camera_map: Float[NumpyArray, "gh gw"],
    *,
    input_size: Size,
    scale: float | None = None,
    look: OverlayStyle = _DEFAULT,
    turned: bool = False,
) -> Picture:
    """A camera map over its picture; `scale` is the mass of the last colour, None its largest."""
    size = (picture.shape[0], picture.shape[1])
    heat = heatmap.on_picture(camera_map, size, input_size, resize=look.resize, turned=turned)
    return heatmap.overlay(picture, heat, scale=scale, colour_map=look.colour_map, share=look.share)


def object_panel(
    picture: Picture,
    camera_map: Float[NumpyArray, "gh gw"],
    masks: Mapping[str, Bool[NumpyArray, "h w"]],
    *,
    input_size: Size,
    title: str = "",
    look: OverlayStyle = _DEFAULT,
) -> Figure:
    """The picture, the map alone, and both with the outlines of objects."""
    size = (picture.shape[0], picture.shape[1])
    heat = heatmap.on_picture(camera_map, size, input_size, resize=look.resize)
    top = float(heat.max())
    alone = heatmap.colours(heat / top if top > 0 else heat, look.colour_map)
    outlined = heatmap.overlay(
        picture, heat, scale=top, colour_map=look.colour_map, share=look.share
    )
    width = max(2, round(2 * size[1] / 640))
    for mask in masks.values():
        outlined = heatmap.contours(outlined, mask, width=width)
    seen = [name.replace("_", " ") for name, mask in masks.items() if mask.any()]
    more = len(seen) - _MOST_NAMES
    names = ", ".join(seen[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
    figure = panels.picture_grid(
        [[picture, alone, outlined]],
        column_titles=(
            "picture",
            "attention",
            _wrapped(f"outlined: {names or 'no object in sight'}", 4),
        ),
    )
    return _finished(figure, title, top, look.colour_map)


def prompt_comparison(
    picture: Picture,
    maps: Mapping[str, Float[NumpyArray, "gh gw"]],
    *,
    input_size: Size,
    prompts: Mapping[str, str] | None = None,
    title: str = "",
    look: OverlayStyle = _DEFAULT,
) -> Figure:
    """One overlay per prompt, all on one scale.

    Args:
      picture: what the camera saw.
      maps: key of the prompt -> map; the first is the base.
      input_size: of the model, pixels.
      prompts: key -> the words themselves, for the titles.
      title: above the figure.
      look: colours.

    Raises:
      ConfigError: there is no map.
    """
    top = _shared_scale(maps.values())
    row = [draw(picture, m, input_size=input_size, scale=top, look=look) for m in maps.values()]
    titles = [_wrapped((prompts or {}).get(key, key), len(maps)) for key in maps]
    figure = panels.picture_grid([row], column_titles=titles)
    return _finished(figure, title, top, look.colour_map)


def difference_maps(
    picture: Picture,
    maps: Mapping[str, Float[NumpyArray, "gh gw"]],
    *,
    input_size: Size,
    prompts: Mapping[str, str] | None = None,
    title: str = "",
) -> Figure:
    """What every other prompt adds to (red) and takes from (blue) the map of the first, one scale.

    Raises:
      ConfigError: fewer than two maps.
    """
    if len(maps) < 2:
        raise ConfigError("a difference needs two maps")
    keys = [*maps]
    changes = {key: maps[key] - maps[keys[0]] for key in keys[1:]}
    top = max(float(np.abs(change).max()) for change in changes.values())
    size = (picture.shape[0], picture.shape[1])
    grey = np.repeat(picture.mean(-1, keepdims=True), 3, -1)
    row = [picture]
    for change in changes.values():
        # Enlarged by sign, because a map over a picture is never negative.
        gain = heatmap.on_picture(np.maximum(change, 0), size, input_size)
        loss = heatmap.on_picture(np.maximum(-change, 0), size, input_size)
        tint = heatmap.difference(gain - loss, scale=top or 1.0)
        row.append(np.rint(0.35 * grey + 0.65 * tint).astype(np.uint8))
    words = prompts or {}
    titles = [f"base: {_wrapped(words.get(keys[0], keys[0]), len(maps))}"]
    titles += [_wrapped(words.get(key, key), len(maps)) for key in changes]
    figure = panels.picture_grid([row], column_titles=titles)
    return _finished(figure, title, top, heatmap.DIVERGING, signed=True)


def denoising_strip(
    picture: Picture,
    maps: Float[NumpyArray, "s gh gw"],
    steps: Sequence[int],
    *,
    input_size: Size,
    times: Sequence[float] = (),
    title: str = "",
    look: OverlayStyle = _DEFAULT,
    most: int = 10,
) -> Figure:
    """One overlay per denoising step on one scale; long runs are thinned, ends included.

    Args:
      picture: what the camera saw.
      maps: (s, gh, gw).
      steps: number of each step.
      input_size: of the model, pixels.
      times: flow time of each step, 1 is noise.
      title: above the figure.
      look: colours.
      most: largest number of pictures.
    """
    chosen = thinned(len(steps), most)
    top = _shared_scale([maps[i] for i in chosen])
    shown = [draw(picture, maps[i], input_size=input_size, scale=top, look=look) for i in chosen]
    titles = [f"step {steps[i]}" + (f"\nt = {times[i]:.2g}" if len(times) else "") for i in chosen]
    half = (len(shown) + 1) // 2 if len(shown) > 5 else len(shown)
    if half == len(shown):
        return _finished(
            panels.picture_grid([shown], column_titles=titles), title, top, look.colour_map
        )
    # Two lines of pictures keep them large enough to read; each says its step itself.
    lines = [shown[:half], [*shown[half:], *([None] * (2 * half - len(shown)))]]
    ends = [f"steps {steps[chosen[0]]}-{steps[chosen[half - 1]]}"]
    ends.append(f"steps {steps[chosen[half]]}-{steps[chosen[-1]]}")
    return _finished(panels.picture_grid(lines, row_titles=ends), title, top, look.colour_map)


def head_atlas(
    picture: Picture,
    maps: Float[NumpyArray, "l n gh gw"],
    layers: Sequence[int],
    heads: Sequence[int],
    *,
    input_size: Size,
    title: str = "",
    shared: bool = False,
    look: OverlayStyle = _DEFAULT,
) -> Figure:
    """Every layer (row) and head (column) over a small picture.

    Args:
      picture: what the camera saw.
      maps: (layer, head, gh, gw).
      layers: number of each row.
      heads: number of each column; empty when heads were averaged.
      input_size: of the model, pixels.
      title: above the figure.
      shared: one scale for all; otherwise every map has its own (its largest value), since sharp
        heads would make the others black.
      look: colours.
    """
    top = _shared_scale(maps.reshape(-1, *maps.shape[-2:])) if shared else None
    rows = [
        [draw(picture, one, input_size=input_size, scale=top, look=look) for one in per_layer]
        for per_layer in maps
    ]
    names = [f"head {head}" for head in heads] or ["mean of heads"]
    figure = panels.picture_grid(
        rows, column_titles=names, row_titles=[f"layer {layer}" for layer in layers]
    )
    return _finished(figure, title, top, look.colour_map)


def time_grid(
    pictures: UInt8[NumpyArray, "t h w 3"],
    maps: Float[NumpyArray, "t row gh gw"],
    steps: Sequence[int],
    rows: Sequence[str],
    *,
    input_size: Size,
    title: str = "",
    look: OverlayStyle = _DEFAULT,
    most: int = 8,
) -> Figure:
    """A trajectory: calls from left to right, one row per map (a layer, a prompt), one scale.

    Args:
      pictures: what the camera saw at every call.
      maps: (t, row, gh, gw).
      steps: environment step of every call.
      rows: names of the rows.
      input_size: of the model, pixels.
      title: above the figure.
      look: colours.
      most: largest number of columns; more calls are thinned evenly, ends included.
    """
    chosen = thinned(len(steps), most)
    top = _shared_scale([m for i in chosen for m in maps[i]])
    table = [[pictures[i] for i in chosen]]
    for number in range(len(rows)):
        table.append(
            [
                draw(pictures[i], maps[i][number], input_size=input_size, scale=top, look=look)
                for i in chosen
            ]
        )
    figure = panels.picture_grid(
        table,
        column_titles=[f"step {steps[i]}" for i in chosen],
        row_titles=["picture", *rows],
    )
    return _finished(figure, title, top, look.colour_map)


def thinned(count: int, most: int) -> list[int]:
    """At most `most` of `count` positions, evenly spaced, first and last included."""
    return sorted({int(i) for i in np.linspace(0, count - 1, min(most, count)).round()})


def _shared_scale(maps: object) -> float:
    """Largest value of all maps: that of the last colour."""
    tops = [float(np.max(one)) for one in maps]  # pyright: ignore[reportGeneralTypeIssues]
    if not tops:
        raise ConfigError("no map was given")
    return max(tops)


def _wrapped(text: str, columns: int) -> str:
    """Text in lines that fit above one of some columns."""
    # A single row of pictures is no taller than a page allows, so its columns stay narrow.
    width, lines = max(14, min(24, 88 // max(columns, 1))), [""]
    for word in (text.strip() or "(no words)").split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def _finished(
    figure: Figure, title: str, scale: float | None, colour_map: str, *, signed: bool = False
) -> Figure:
    """Adds room above for a title and below for what the colours mean."""
    width, height = figure.get_size_inches()
    above = 0.32 if title else 0.0
    total = height + above + _BAR_IN
    figure.set_size_inches(width, total)
    for axes in figure.axes:
        left, bottom, across, tall = axes.get_position().bounds
        axes.set_position(
            (left, (bottom * height + _BAR_IN) / total, across, tall * height / total)
        )
    for text in figure.texts:
        x, y = text.get_position()
        text.set_position((x, (y * height + _BAR_IN) / total))
    if title:
        place = (total - above / 2) / total
        figure.text(
            0.5, place, title, ha="center", va="center", fontsize=style.FONT_PT + 1, color=style.INK
        )
    bar_axes = figure.add_axes((0.3, 0.5 / total, 0.4, 0.1 / total))
    low = -1.0 if signed else 0.0
    norm = Normalize(low * (scale or 1.0), scale or 1.0)
    bar = figure.colorbar(ScalarMappable(norm, colour_map), cax=bar_axes, orientation="horizontal")
    bar.ax.tick_params(labelsize=style.SMALL_PT, length=2, pad=1.5)
    if scale is None:
        bar.set_ticks([0.0, 1.0], labels=["0", "its largest"])
        label = "attention mass, a scale per map"
    else:
        bar.set_ticks([low * scale, 0.0, scale] if signed else [0.0, scale])
        bar.ax.set_xticklabels([f"{tick:.2g}" for tick in bar.get_ticks()])
        label = "mass per patch: red gains, blue loses" if signed else "attention mass per patch"
    figure.text(
        0.5, 0.06 / total, label, ha="center", va="bottom", fontsize=style.SMALL_PT, color=style.INK
    )
    return figure
