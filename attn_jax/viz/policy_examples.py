"""Example episodes of a policy report: what it saw, where it looked, what other words change.

Maps are the attention of action queries, mean over heads, of the last recorded layer and denoising
step. The twin of the report says where in the record the maps of a picture are.

Axis names: c calls, o objects, h w pixels, gh gw patch grid.

    sections(examples)                       # a Section per episode
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from attn_jax.core.errors import LayoutError, RecordError
from attn_jax.core.typing import Bool, NumpyArray, UInt8
from attn_jax.viz import attention_panels, attention_plots, style
from attn_jax.viz.camera_maps import CameraMaps, EpisodeView
from attn_jax.viz.report import Block, Picture, Section, Text

QUERY = "action"
#: Smaller pictures are drawn enlarged, pixel by pixel, so that outlines stay thin.
_SMALLEST = 256


@dataclasses.dataclass(frozen=True, eq=False)
class Example:
    """One episode to show.

    Attributes:
      name: of the episode.
      outcome: `success`, `failure` or `unknown`.
      prompt: what the policy was told.
      steps: environment step of every recorded call.
      images: camera -> (c, h, w, 3) uint8, at the recorded calls.
      masks: camera -> (c, o, h, w) bool; may be empty.
      objects: names of the objects of the masks.
      view: its attention.
      others: key of a prompt -> its words and the attention under it.
    """

    name: str
    outcome: str
    prompt: str
    steps: Sequence[int]
    images: Mapping[str, UInt8[NumpyArray, "c h w 3"]]
    masks: Mapping[str, Bool[NumpyArray, "c o h w"]]
    objects: tuple[str, ...]
    view: EpisodeView
    others: Mapping[str, tuple[str, EpisodeView]] = dataclasses.field(default_factory=dict)


def sections(examples: Sequence[Example]) -> list[Section]:
    """A section per example; the first also shows layers, heads and denoising steps."""
    return [
        Section(
            f"example-{number + 1}",
            f"Example {number + 1}: {example.outcome}",
            blocks(example, number + 1, full=not number),
        )
        for number, example in enumerate(examples)
    ]


def blocks(example: Example, number: int, *, full: bool) -> tuple[Block, ...]:
    """Figures of one episode; `full` adds heads and denoising steps."""
    told = f"“{example.prompt}”, {example.name.replace('_', ' ')}, {len(example.steps)} calls."
    out: list[Block] = [Text(told)]
    for camera, pictures in example.images.items():
        try:
            maps = example.view.maps(camera, query=QUERY)
        except (LayoutError, RecordError) as error:
            out.append(Text(f"Camera {camera}: {error.what}."))
            continue
        out += _of_camera(example, f"{number}-{camera}", camera, pictures, maps, full=full)
    if full:
        out += _budget(example, number)
    return tuple(out)


def _budget(example: Example, number: int) -> list[Block]:
    """What every action of the chunk spends its attention on, where masses were recorded."""
    found = example.view.masses(query=QUERY)
    if found is None:
        return []
    where = f"layer {found.layer}, denoising step {found.denoise}"
    figure = attention_plots.action_budget(found.values, found.names)
    return [
        Picture(
            f"budget-{number}",
            style.to_rgb(figure),
            "Shares of attention of every action of the chunk on each group of tokens.",
            f"What every action of the chunk spends its attention on ({where}), mean over calls "
            "and heads.",
            {
                "episode": example.name,
                "layer": found.layer,
                "denoise": found.denoise,
                "shares": dict(zip(found.names, found.values.T.tolist(), strict=True)),
            },
        )
    ]


def _of_camera(
    example: Example,
    name: str,
    camera: str,
    pictures: NumpyArray,
    maps: CameraMaps,
    *,
    full: bool,
) -> list[Block]:
    times = -(-_SMALLEST // min(pictures.shape[1:3]))
    pictures = pictures.repeat(times, 1).repeat(times, 2)
    where = f"layer {maps.layers[-1]}, denoising step {maps.denoise[-1]}"
    size, chosen = maps.input_size, maps.at()
    call = len(chosen) // 2
    at = f"camera {camera}, environment step {example.steps[call]}"
    record = {"episode": example.name, "stream": "suffix", "query": QUERY, "camera": camera}
    steps = [int(step) for step in example.steps]
    last = {"layer": maps.layers[-1], "denoise": maps.denoise[-1], "env_step": steps[call]}
    out: list[Block] = []

    def add(kind: str, figure: Figure, alt: str, caption: str, **drawn: Any) -> None:
        key = f"{kind}-{name}".replace("_", "-")
        data = {"maps_of": record | last | drawn}
        out.append(Picture(key, style.to_rgb(figure), alt, caption, data))

    if camera in example.masks:
        large = example.masks[camera][call].repeat(times, 1).repeat(times, 2)
        masks = dict(zip(example.objects, large, strict=True))
        figure = attention_panels.object_panel(pictures[call], chosen[call], masks, input_size=size)
        add(
            "objects", figure, f"Attention of the actions and outlines of objects, {at}.",
            f"Attention of the actions ({where}), {at}.",
        )  # fmt: skip
    figure = attention_panels.time_grid(
        pictures, chosen[:, None], example.steps, ("attention",), input_size=size
    )
    add(
        "time", figure, f"What camera {camera} saw and where the actions looked, call by call.",
        f"Calls of the episode, camera {camera}; all maps on one scale.", env_step=steps,
    )  # fmt: skip
    if example.others:
        # The first call: later, the way that was gone tells the goal and words say less.
        changed = {"": chosen[0]}
        words = {"": example.prompt}
        for key, (text, view) in example.others.items():
            changed[key], words[key] = view.maps(camera, query=QUERY).at()[0], text
        figure = attention_panels.difference_maps(
            pictures[0], changed, input_size=size, prompts=words
        )
        first = f"camera {camera}, environment step {example.steps[0]}"
        add(
            "words", figure, f"What other prompts change in the attention, {first}.",
            f"The same frame and noise under other words ({where}), {first}.",
            env_step=steps[0], variants=[*example.others],
        )  # fmt: skip
        figure = attention_panels.prompt_comparison(
            pictures[0], changed, input_size=size, prompts=words
        )
        add(
            "prompts", figure, f"Attention under every prompt, {first}.",
            f"The maps behind these differences, on one scale ({where}), {first}.",
            env_step=steps[0], variants=[*example.others],
        )  # fmt: skip
    if full:
        atlas = maps.values[call, -1]
        figure = attention_panels.head_atlas(
            pictures[call], atlas, maps.layers, maps.heads, input_size=size
        )
        add(
            "heads", figure, f"Attention of every recorded layer and head, {at}.",
            f"Layers and heads, last denoising step, {at}; "
            "every map on its own scale, one that is dark all over is 0.",
            layer=maps.layers, head=maps.heads,
        )  # fmt: skip
        if len(maps.denoise) > 1:
            along = np.stack([maps.at(denoise=step)[call] for step in maps.denoise])
            figure = attention_panels.denoising_strip(
                pictures[call], along, maps.denoise, input_size=size
            )
            add(
                "denoising", figure, f"Attention at every denoising step, {at}.",
                f"From noise (first) to the action (last), layer {maps.layers[-1]}, {at}.",
                denoise=maps.denoise,
            )  # fmt: skip
    return out
