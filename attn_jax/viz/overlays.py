"""Overlays aligned to what was recorded: on a video frame by frame, on observations call by call.

Video frame f shows the observation of environment step f. Its maps are those of the nearest
previous call, which is named in the title. A camera's panel in the video may be turned by 180
degrees against what the model saw: its map is turned when `model_rot180` and `video_rot180` differ.

An episode's `info` says where panels lie: `video` = {"path": ..., "panels": {camera: [top, left,
height, width]}}; without it, panels of equal width side by side are in the order of the cameras.

Axis names: call, gh gw patch grid, h w pixels.

    maps = {"wrist": view.maps("wrist")}
    look = Look(layer=17, denoise=9)
    for frame in on_video(frames, maps, look, env_step=view.reader.env_step, info=view.reader.info):
        writer.append(frame)
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from attn_jax.core.errors import ConfigError, RecordError
from attn_jax.core.typing import Bool, Float, NumpyArray, UInt8
from attn_jax.viz import heatmap
from attn_jax.viz.attention_panels import draw
from attn_jax.viz.camera_maps import CameraMaps
from attn_jax.viz.heatmap import OverlayStyle

Picture = UInt8[NumpyArray, "_ _ 3"]
QUANTILE = 0.995
_GAP_PX, _TEXT_PX, _BAR_PX = 6, 13, 40
_READABLE_PX = 360  # width under which the title of two cameras is cut off or too small to read


@dataclasses.dataclass(frozen=True)
class Look:
    """Which maps are drawn, and how.

    Attributes:
      layer, denoise: numbers; None is the last recorded one.
      head: number; None is the mean over heads.
      query: words for what looks, for the title: `action`, `action 0`.
      style: colours.
      scale: mass of the last colour; None takes one for the whole episode and camera, the 99.5 %
        quantile of its patches.
    """

    layer: int | None = None
    denoise: int | None = None
    head: int | None = None
    query: str = "action"
    style: OverlayStyle = heatmap.STYLES["default"]
    scale: float | None = None


@dataclasses.dataclass(frozen=True)
class Panel:
    """A camera's place in a video.

    Attributes:
      box: (top, left, height, width), pixels.
      turned: by 180 degrees, against what the model saw.
    """

    box: tuple[int, int, int, int]
    turned: bool


@dataclasses.dataclass(frozen=True)
class _Drawn:
    """Maps of one camera as they are drawn: (call, gh, gw), scale, input size."""

    maps: Float[NumpyArray, "call gh gw"]
    scale: float
    input_size: tuple[int, int]


def panels_of(
    info: Mapping[str, Any], cameras: Sequence[str], size: tuple[int, int]
) -> dict[str, Panel]:
    """Panels of a video by camera.

    Args:
      info: of the record or the episode.
      cameras: all cameras of the episode, in order.
      size: (height, width) of the video, pixels.

    Raises:
      RecordError: no panels are given and the width is no multiple of the height, or a box lies
        outside the video.
    """
    boxes = (info.get("video") or {}).get("panels") or {}
    if not boxes:
        # An odd width was made even when the video was written.
        count, rest = divmod(size[1], size[0])
        if rest > 1 or not 1 <= count <= len(cameras):
            raise RecordError(
                f"cannot tell where {len(cameras)} cameras lie in a video of {size} pixels",
                fix="Give the episode's info video.panels: camera -> [top, left, height, width]",
            )
        boxes = {name: [0, i * size[0], size[0], size[0]] for i, name in enumerate(cameras[:count])}
    geometry = info.get("geometry") or {}
    out = {}
    for name, (top, left, height, width) in boxes.items():
        if min(top, left) < 0 or top + height > size[0] or left + width > size[1]:
            raise RecordError(f"panel of {name!r} lies outside the video of {size} pixels")
        flags = geometry.get(name) or {}
        turned = bool(flags.get("model_rot180")) != bool(flags.get("video_rot180"))
        out[name] = Panel((int(top), int(left), int(height), int(width)), turned)
    return out


def nearest_call(env_step: Sequence[int], step: int) -> int | None:
    """Number of the last call at or before a step; None before the first."""
    call = int(np.searchsorted(np.asarray(env_step), step, side="right")) - 1
    return call if call >= 0 else None


def on_video(
    frames: Iterable[Picture],
    maps: Mapping[str, CameraMaps],
    look: Look,
    *,
    env_step: Sequence[int],
    info: Mapping[str, Any],
    cameras: Sequence[str] | None = None,
    enlarge: int = 1,
) -> Iterator[Picture]:
    """Yields the frames of a video with the maps of their calls, under a title.

    Args:
      frames: of the video, from step 0.
      maps: camera -> maps; cameras without maps, and cameras without a panel, stay as they are.
      look: what to draw.
      env_step: step of every call.
      info: of the record, see the module docstring.
      cameras: all cameras in order, for videos without panels; None is those of `maps`.
      enlarge: whole factor, see `enlargement`.

    Raises:
      RecordError: panels that do not fit the video, or a layer or step that was not recorded.
    """
    drawn = {name: _drawn(one, look) for name, one in maps.items()}
    panels: dict[str, Panel] | None = None
    for step, frame in enumerate(frames):
        if panels is None:
            size = (frame.shape[0], frame.shape[1])
            panels = panels_of(info, list(maps) if cameras is None else cameras, size)
        out, call = enlarged(frame, enlarge), nearest_call(env_step, step)
        if call is not None:
            for name in drawn.keys() & panels.keys():
                top, left, height, width = (enlarge * edge for edge in panels[name].box)
                window = out[top : top + height, left : left + width]
                window[...] = _over(window, drawn[name], call, look, turned=panels[name].turned)
        yield titled(out, _title(step, call, env_step, maps, look, drawn))


def on_calls(
    images: Mapping[str, UInt8[NumpyArray, "_ _ _ 3"]],
    maps: Mapping[str, CameraMaps],
    look: Look,
    *,
    env_step: Sequence[int],
    masks: Mapping[str, Bool[NumpyArray, "_ _ _ _"]] | None = None,
    height_px: int = 240,
) -> Iterator[Picture]:
    """Yields one frame per call: the cameras side by side with their maps, under a title.

    Args:
      images: camera -> (call, h, w, 3) what the model saw.
      maps: camera -> maps.
      look: what to draw.
      env_step: step of every call.
      masks: camera -> (call, object, h, w), objects to outline.
      height_px: height that every camera is scaled to, pixels.

    Raises:
      RecordError: no camera has both images and maps, or they differ in their calls.
    """
    drawn = {name: _drawn(one, look) for name, one in maps.items() if name in images}
    if not drawn:
        raise RecordError(
            f"no camera has both pictures ({', '.join(images)}) and maps ({', '.join(maps)})"
        )
    for name, one in drawn.items():
        if not len(one.maps) == len(images[name]) == len(env_step):
            raise RecordError(
                f"camera {name!r} has {len(images[name])} pictures and {len(one.maps)} maps for "
                f"{len(env_step)} calls"
            )
    for call, step in enumerate(env_step):
        row: list[np.ndarray] = []
        for name, one in drawn.items():
            picture = _scaled(images[name][call], height_px)
            panel = _over(picture, one, call, look)
            for mask in (masks or {}).get(name, ())[call : call + 1]:
                for item in mask:
                    size = panel.shape[1], height_px
                    large = Image.fromarray(item).resize(size, Image.Resampling.NEAREST)
                    panel = heatmap.contours(panel, np.asarray(large), width=2)
            row += [panel, np.full((height_px, _GAP_PX, 3), 255, np.uint8)]
        yield titled(
            np.concatenate(row[:-1], axis=1), _title(step, call, env_step, maps, look, drawn)
        )


def on_variants(
    images: UInt8[NumpyArray, "_ _ _ 3"],
    maps: Mapping[str, CameraMaps],
    look: Look,
    *,
    env_step: Sequence[int],
) -> Iterator[Picture]:
    """Yields one frame per call: the maps of one camera under every prompt, all on one scale.

    Args:
      images: (call, h, w, 3) what the camera saw.
      maps: key of the prompt -> its maps.
      look: what to draw; without a scale, the largest that the prompts take alone.
      env_step: step of every call.

    Raises:
      RecordError: the prompts differ in their calls.
    """
    scale = max(_drawn(one, look).scale for one in maps.values())
    shared = dataclasses.replace(look, scale=scale)
    yield from on_calls(dict.fromkeys(maps, images), maps, shared, env_step=env_step)


def timestep_panel(
    picture: Picture,
    maps: CameraMaps,
    look: Look,
    *,
    step: int,
    env_step: Sequence[int],
    turned: bool = False,
) -> Picture:
    """Overlay on the left, the map alone on the right, and a title: one camera at one time.

    Args:
      picture: what the camera saw, or its panel of the video.
      maps: of the camera.
      look: what to draw; without a scale, the largest value of this map.
      step: environment step; its maps are those of the nearest previous call.
      env_step: step of every call.
      turned: whether the picture is turned against what the model saw.

    Raises:
      RecordError: the step lies before the first call.
    """
    call = nearest_call(env_step, step)
    if call is None:
        raise RecordError(f"step {step} lies before the first call, at step {env_step[0]}")
    camera_map = maps.at(layer=look.layer, denoise=look.denoise, head=look.head)[call]
    scale = float(camera_map.max()) if look.scale is None else look.scale
    one = _Drawn(camera_map[None], scale, maps.input_size)
    left = _over(picture, one, 0, look, turned=turned)
    bare = OverlayStyle(look.style.colour_map, 1.0, look.style.resize)
    right = draw(
        picture, camera_map, input_size=maps.input_size, scale=scale, look=bare, turned=turned
    )
    gap = np.full((picture.shape[0], _GAP_PX, 3), 255, np.uint8)
    title = _title(step, call, env_step, {maps.camera: maps}, look, {maps.camera: one})
    return titled(np.concatenate([left, gap, right], axis=1), title)


def enlargement(width_px: int) -> int:
    """Whole factor by which a picture is enlarged so that a title over it can be read."""
    return -(-_READABLE_PX // width_px)


def enlarged(picture: Picture, factor: int) -> Picture:
    """A copy with every pixel `factor` times as high and wide."""
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def _drawn(maps: CameraMaps, look: Look) -> _Drawn:
    values = maps.at(layer=look.layer, denoise=look.denoise, head=look.head)
    scale = float(np.quantile(values, QUANTILE)) if look.scale is None else look.scale
    return _Drawn(values, scale or float(values.max()), maps.input_size)


def _over(
    picture: NumpyArray, one: _Drawn, call: int, look: Look, *, turned: bool = False
) -> NumpyArray:
    return draw(
        picture,
        one.maps[call],
        input_size=one.input_size,
        scale=one.scale,
        look=look.style,
        turned=turned,
    )


def _scaled(picture: NumpyArray, height_px: int) -> NumpyArray:
    width = round(picture.shape[1] * height_px / picture.shape[0])
    resized = Image.fromarray(picture).resize((width, height_px), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def _title(
    step: int,
    call: int | None,
    env_step: Sequence[int],
    maps: Mapping[str, CameraMaps],
    look: Look,
    drawn: Mapping[str, _Drawn],
) -> str:
    """Two lines: when, and what."""
    one = next(iter(maps.values()))
    layer = one.layers[-1] if look.layer is None else look.layer
    denoise = one.denoise[-1] if look.denoise is None else look.denoise
    heads = "mean of heads" if look.head is None else f"head {look.head}"
    when = "before the first call" if call is None else f"call {call} at step {env_step[call]}"
    names = ", ".join(f"{name} {one.scale:.2g}" for name, one in drawn.items())
    return (
        f"{' + '.join(drawn)} | step {step} | {when} | {look.query}\n"
        f"layer {layer} | denoising step {denoise} | {heads} | full colour: {names}"
    )


def titled(picture: Picture, text: str) -> Picture:
    """The picture under a white bar with one or two lines of text, shrunk to 6 pixels at least."""
    width = picture.shape[1]
    bar = Image.new("RGB", (width, _BAR_PX), "white")
    pen = ImageDraw.Draw(bar)
    size = _TEXT_PX
    while size > 6 and max(pen.textlength(t, _font(size)) for t in text.split("\n")) > width - 8:
        size -= 1
    pen.multiline_text((4, _BAR_PX / 2), text, "black", _font(size), anchor="lm", spacing=3)
    return np.concatenate([np.asarray(bar), picture], axis=0)


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """A font that comes with matplotlib, so that every machine draws the same letters."""
    path = pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    try:
        return ImageFont.truetype(path, size)
    except OSError as error:
        raise ConfigError("matplotlib came without its fonts", where=path) from error
