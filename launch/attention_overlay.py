"""`launch.attention overlay`: maps of recorded episodes over their videos or observations.

python -m launch.attention overlay RUN --layer=17 --denoise=9 --fps=5
python -m launch.attention overlay RUN --episodes=3 --row=0 --timesteps=0,5,10 --style=seed1
python -m launch.attention overlay RUN --outline             # objects outlined, a frame per call
python -m launch.attention overlay RUN --variants            # other prompts beside the own one
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from absl import flags, logging
from PIL import Image

from attn_jax.core.errors import ConfigError, EpisodeError, RecordError
from attn_jax.data.episodes import EPISODES as EPISODE_FOLDER
from attn_jax.data.episodes import META, read_episode, read_meta, variants_of
from attn_jax.probe.schema import episodes
from attn_jax.viz import heatmap, overlays, video
from attn_jax.viz.camera_maps import CameraMaps, EpisodeView
from attn_jax.viz.overlays import Look
from launch import app

EPISODES = app.define_episodes()
VIDEO = flags.DEFINE_string(
    "video", None, "overlay: video of the one episode, instead of what the record names."
)
STREAM = flags.DEFINE_string("stream", "suffix", "overlay: suffix or prefix.")
QUERY = flags.DEFINE_string("query", "action", "overlay: query group that looks.")
ROW = flags.DEFINE_integer("row", None, "overlay: one row of the group, such as action 0.")
LAYER = flags.DEFINE_integer("layer", None, "overlay: layer; without, the last recorded one.")
DENOISE = flags.DEFINE_integer("denoise", None, "overlay: denoising step; without, the last one.")
HEAD = flags.DEFINE_integer("head", None, "overlay: head; without, the mean over heads.")
STYLE = flags.DEFINE_enum("style", "default", [*heatmap.STYLES], "overlay: colours.")
SCALE = flags.DEFINE_float(
    "scale", None, "overlay: mass of the last colour; without, one scale for each episode."
)
FPS = flags.DEFINE_float("fps", None, "overlay: frames per second; without, as recorded, or 3.")
FORMAT = flags.DEFINE_enum("format", "mp4", ["mp4", "webm", "mkv"], "overlay: kind of video.")
OUTLINE = flags.DEFINE_bool("outline", False, "overlay: outline objects, over the observations.")
VARIANTS = flags.DEFINE_bool(
    "variants", False, "overlay: a video per camera, maps of every prompt side by side."
)
TIMESTEPS = flags.DEFINE_list("timesteps", [], "overlay: pictures at these steps, no video.")
OUTPUT = flags.DEFINE_string(
    "output", None, "overlay: folder, instead of RUN/overlays.", allow_override=True
)

_CALLS_FPS = 3.0
#: How the prompt of a variant was changed when it was not.
NONE = "none"


@dataclasses.dataclass(frozen=True)
class Task:
    """What is drawn of every episode.

    Attributes:
      look: which maps, and how.
      cameras: names, or None for all.
      stream, query, row: what looks.
      timesteps: environment steps of pictures; empty makes a video.
      video: the file, or None for that of the record.
      fps: frames per second, or None for those of the video.
      suffix: of videos, with the dot.
      outline: whether objects are outlined; then it is drawn over the observations.
      variants: whether the maps under other prompts stand beside, in a video per camera.
    """

    look: Look
    cameras: Sequence[str] | None = None
    stream: str = "suffix"
    query: str = "action"
    row: int | None = None
    timesteps: Sequence[int] = ()
    video: pathlib.Path | None = None
    fps: float | None = None
    suffix: str = ".mp4"
    outline: bool = False
    variants: bool = False

    def __post_init__(self):
        for flag, value in (("--fps", self.fps), ("--scale", self.look.scale)):
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"is {value}", where=flag, fix="Use a finite number above 0")


def from_flags(run: pathlib.Path, cameras: Sequence[str] | None) -> dict[str, Any]:
    """Draws what the flags ask for; returns what --json prints."""
    words = QUERY.value if ROW.value is None else f"{QUERY.value} {ROW.value}"
    style = heatmap.style_of(STYLE.value)
    task = Task(
        look=Look(LAYER.value, DENOISE.value, HEAD.value, words, style, SCALE.value),
        cameras=cameras,
        stream=STREAM.value,
        query=QUERY.value,
        row=ROW.value,
        timesteps=_numbers("timesteps", TIMESTEPS.value),
        video=pathlib.Path(VIDEO.value) if VIDEO.value else None,
        fps=FPS.value,
        suffix=f".{FORMAT.value}",
        outline=OUTLINE.value,
        variants=VARIANTS.value,
    )
    chosen = None if EPISODES.value is None else _numbers("episodes", EPISODES.value.split(","))
    output = pathlib.Path(OUTPUT.value) if OUTPUT.value else run / "overlays"
    return overlay(run, task, output, chosen)


def _numbers(flag: str, words: Sequence[str]) -> list[int]:
    if not all(word.strip().isdecimal() for word in words):
        raise ConfigError(f"--{flag}={','.join(words)} is no list of numbers such as 0,5,10")
    return [int(word) for word in words]


def overlay(
    run: pathlib.Path, task: Task, output: pathlib.Path, chosen: Sequence[int] | None = None
) -> dict[str, Any]:
    """Draws episodes of a run.

    Args:
      run: run folder, or one episode.
      task: what is drawn.
      output: folder for the files.
      chosen: numbers of episodes; None is all.

    Returns:
      `episodes`: name -> files, relative to `output`.

    Raises:
      RecordError: no such episode or maps, or neither a video nor observations to draw over.
      ConfigError: one video for several episodes.
    """
    folders = [f for f in episodes(run) if chosen is None or _number(f) in chosen]
    if not folders:
        raise RecordError(f"has no episode {', '.join(map(str, chosen or []))}", where=run)
    if task.timesteps and (task.outline or task.variants):
        raise ConfigError("--timesteps makes pictures; --outline and --variants are for videos")
    if task.video is not None and (task.outline or task.variants):
        raise ConfigError("--outline and --variants draw over observations, not over --video")
    if task.video is not None and len(folders) > 1:
        raise ConfigError("--video belongs to one episode", fix="Choose it with --episodes=0")
    written = {}
    for folder in folders:
        view = EpisodeView.open(folder)
        cameras = task.cameras or view.cameras(task.stream)
        maps = {
            name: view.maps(name, stream=task.stream, query=task.query, row=task.row)
            for name in cameras
        }
        files = _pictures if task.timesteps else _video
        names = files(folder, view, maps, task, output)
        written[folder.name] = [str(name.relative_to(output)) for name in names]
        logging.info("%s: %s", folder.name, ", ".join(written[folder.name]))
    return {"output": output.name, "episodes": written}


def _number(folder: pathlib.Path) -> int:
    return int(folder.name.rpartition("_")[2]) if folder.name[-1:].isdecimal() else -1


def _video_file(folder: pathlib.Path, view: EpisodeView, task: Task) -> pathlib.Path | None:
    """The video of an episode: the one given, or that of the record, relative to its run."""
    named = (view.reader.info.get("video") or {}).get("path")
    path = task.video or (folder.parent.parent / named if named else None)
    if path is not None and not path.is_file():
        raise RecordError(
            "video is missing", where=path, fix="Name it with --video, or remove it from the info"
        )
    return path


def _video(
    folder: pathlib.Path,
    view: EpisodeView,
    maps: dict[str, CameraMaps],
    task: Task,
    output: pathlib.Path,
) -> list[pathlib.Path]:
    steps, info = view.reader.env_step, view.reader.info
    if task.variants:
        return _variants(folder, maps, task, output, steps)
    # Where objects are is known at calls only.
    source = None if task.outline else _video_file(folder, view, task)
    if source is not None:
        known = video.read_info(source)
        fps = task.fps if task.fps is not None else known.fps
        every = view.cameras(task.stream)
        frames = overlays.on_video(
            video.read_frames(source),
            maps,
            task.look,
            env_step=steps,
            info=info,
            cameras=every,
            enlarge=overlays.enlargement(known.size[1]),
        )
    else:
        fps = task.fps if task.fps is not None else _CALLS_FPS
        episode = _observations(folder)
        masks = episode.masks if task.outline else None
        frames = overlays.on_calls(episode.images, maps, task.look, env_step=steps, masks=masks)
    return [video.write_video(output / f"{folder.name}{task.suffix}", frames, fps=fps)]


def _variants(
    folder: pathlib.Path,
    maps: dict[str, CameraMaps],
    task: Task,
    output: pathlib.Path,
    steps: Sequence[int],
) -> list[pathlib.Path]:
    """A video per camera: the maps of the run beside those of every other prompt."""
    others = {}
    for key, root in variants_of(folder.parent.parent).items():
        path = root / EPISODE_FOLDER / folder.name
        if (path / META).is_file() and read_meta(path)["info"].get("method", NONE) != NONE:
            others[key] = EpisodeView.open(path)
    if not others:
        raise RecordError(
            "has no run with another prompt",
            where=folder,
            fix="Make them by launch.evaluate --episodes --prompts",
        )
    images, files = _observations(folder).images, []
    for name, own in maps.items():
        by_prompt = {"own prompt": own} | {
            key: view.maps(name, stream=task.stream, query=task.query, row=task.row)
            for key, view in others.items()
        }
        frames = overlays.on_variants(images[name], by_prompt, task.look, env_step=steps)
        path = output / f"{folder.name}_variants_{name}{task.suffix}"
        files.append(video.write_video(path, frames, fps=task.fps or _CALLS_FPS))
    return files


def _observations(folder: pathlib.Path):
    if not (folder / META).is_file():
        raise RecordError(
            "has neither a video nor recorded observations to draw over",
            where=folder,
            fix="Name its video with --video",
        )
    return read_episode(folder)


def _pictures(
    folder: pathlib.Path,
    view: EpisodeView,
    maps: dict[str, CameraMaps],
    task: Task,
    output: pathlib.Path,
) -> list[pathlib.Path]:
    target = output / folder.name
    target.mkdir(parents=True, exist_ok=True)
    files = []
    for step, name, picture, turned in _seen(folder, view, maps, task):
        picture = overlays.enlarged(picture, overlays.enlargement(2 * picture.shape[1]))
        panel = overlays.timestep_panel(
            picture, maps[name], task.look, step=step, env_step=view.reader.env_step, turned=turned
        )
        files.append(target / f"timestep_{step:03d}_{name}.png")
        Image.fromarray(panel).save(files[-1])
    return files


def _seen(
    folder: pathlib.Path, view: EpisodeView, maps: dict[str, CameraMaps], task: Task
) -> Iterator[tuple[int, str, np.ndarray, bool]]:
    """(step, camera, picture, turned) of every time step asked for."""
    source = _video_file(folder, view, task)
    wanted = sorted(set(task.timesteps))
    if source is None:
        episode = _observations(folder)
        for step, name in itertools.product(wanted, maps):
            if name not in episode.images:
                raise EpisodeError(
                    f"no pictures of camera {name!r}",
                    where=folder,
                    fix=f"Cameras: {', '.join(episode.cameras)}",
                )
            # Observations exist at calls only: the picture is that of the call.
            yield step, name, episode.images[name][episode.nearest_call(step)], False
        return
    last = -1
    for last, frame in enumerate(video.read_frames(source)):
        if last in wanted:
            size = (frame.shape[0], frame.shape[1])
            every = view.cameras(task.stream)
            for name, panel in overlays.panels_of(view.reader.info, every, size).items():
                if name in maps:
                    top, left, height, width = panel.box
                    window = frame[top : top + height, left : left + width]
                    yield last, name, window, panel.turned
    if last < wanted[-1]:
        raise RecordError(f"the video ends before step {wanted[-1]}", where=source)
