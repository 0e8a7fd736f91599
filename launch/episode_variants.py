"""What `launch.evaluate --episodes` runs on the frames of an episode beside the base.

Other noise (`noise_1`), other prompts (their keys), patches with much attention hidden against as
many others (`occlude_wrist_L3_black_high` and `..._control`; with other noise `..._noise_1` at the
end), and pictures turned counter-clockwise (`rotate_90`). Which patches are hidden is the business
of `launch.episode_occlusion`; how the runs are read, of `attn_jax.analysis.causal`.

    python -m launch.evaluate --checkpoint=DIR --episodes=ROOT --workdir=RUN --capture=SELECTION
        --occlude=last --occlude_fills=black,mean --occlude_share=0.1 --rotate=90,180,270

Axis names: c calls, o objects, h w pixels of one camera.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from attn_jax.analysis.fidelity import SHARE
from attn_jax.analysis.studies import capture_fix
from attn_jax.core.errors import ConfigError
from attn_jax.data import episodes
from attn_jax.data.episodes import Episode
from attn_jax.data.prompts import NOISE, Prompt
from attn_jax.probe.occlusion import FILLS
from attn_jax.probe.select import Selection

#: A way to hide patches without changing pixels: no token may look at theirs.
KEY_REMOVAL = "key_removal"
WAYS = (*FILLS, KEY_REMOVAL)
DEFAULT_FILLS = ("black", "mean")

BASE = "base"
SETS = ("high", "control")
STREAM, QUERY = "suffix", "action"
_MAPS = ("patch_map", "full", "head_mean")


@dataclasses.dataclass(frozen=True)
class Hiding:
    """Patches of one camera, hidden in every frame.

    Attributes:
      camera: of the checkpoint.
      layer: of the action expert, whose maps choose the patches.
      fill: one of WAYS: what covers them, one of `probe.occlusion.FILLS`, or `key_removal`.
      set: `high`, the patches with the most attention, or `control`, as many others.
      share: of the patches of the picture.
    """

    camera: str
    layer: int
    fill: str
    set: str
    share: float = SHARE


@dataclasses.dataclass(frozen=True)
class Occlusion:
    """Which patches are hidden, and how.

    Attributes:
      layers: of the action expert, from 0.
      cameras: of the checkpoint; each is covered alone.
      fills: of WAYS, what hides the patches.
      share: of the patches of a picture, at most a half, so that the control finds room.
      seeds: noise seeds: the base's, then `noise_1`, ...

    Raises:
      ConfigError: nothing to hide, something twice, an unknown fill or a share out of range.
    """

    layers: tuple[int, ...]
    cameras: tuple[str, ...]
    fills: tuple[str, ...] = DEFAULT_FILLS
    share: float = SHARE
    seeds: int = 1

    def __post_init__(self):
        for name in ("layers", "cameras", "fills"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise ConfigError(
                    f"{name} {values} are empty or repeat", where="--occlude", fix="Name each once"
                )
        unknown = [fill for fill in self.fills if fill not in WAYS]
        if unknown:
            raise ConfigError(
                f"unknown fill {unknown[0]!r}",
                where="--occlude_fills",
                fix=f"Use any of {', '.join(WAYS)}",
            )
        if not 0 < self.share <= 0.5:
            raise ConfigError(f"{self.share} is outside (0, 0.5]", where="--occlude_share")

    def variants(self) -> Iterator[Variant]:
        """Both sets of every camera, layer and fill, for every seed."""
        for noise in range(self.seeds):
            end = f"_{NOISE}{noise}" if noise else ""
            for camera in self.cameras:
                for layer in self.layers:
                    for fill in self.fills:
                        for which in SETS:
                            key = f"occlude_{camera}_L{layer}_{fill}_{which}{end}"
                            hiding = Hiding(camera, layer, fill, which, self.share)
                            yield Variant(key, noise=noise, hiding=hiding)


@dataclasses.dataclass(frozen=True)
class Variant:
    """What is run on the frames of an episode.

    Attributes:
      key: `base`, `noise_1`, the key of a prompt, `occlude_...` or `rotate_...`.
      prompt: None keeps the prompt of the episode.
      noise: number added to the seed of the noise.
      hiding: patches that are hidden; the attention of such a run is not recorded.
      degrees: by which the pictures are turned counter-clockwise.
    """

    key: str
    prompt: Prompt | None = None
    noise: int = 0
    hiding: Hiding | None = None
    degrees: int = 0

    def folder(self, run: pathlib.Path) -> pathlib.Path:
        """Its run folder."""
        return run if self.key == BASE else run / episodes.VARIANTS / self.key

    def suits(self, episode: Episode) -> bool:
        """Whether it can be run on an episode: the words of its prompt are known."""
        return self.prompt is None or self.prompt.suits(others_of(episode))

    def facts(self, episode: Episode) -> dict[str, Any]:
        """What goes into the info of its episodes; `episode` is the base."""
        base = episode.prompt
        prompt = base if self.prompt is None else self.prompt.words(base, others_of(episode))
        method = "none" if self.prompt is None else self.prompt.method
        out: dict[str, Any] = {
            "prompt": prompt,
            "base_prompt": base,
            "variant": self.key,
            "method": method,
        }
        if self.hiding is not None:
            noise = f"{NOISE}{self.noise}" if self.noise else ""
            facts = {"noise": noise, "kind": "occlusion"}
            out["intervention"] = dataclasses.asdict(self.hiding) | facts
        return out

    def settings(self) -> dict[str, Any]:
        """What makes it another run than the base, for `run.json`; JSON-compatible."""
        out: dict[str, Any] = {
            "prompt": None if self.prompt is None else dataclasses.asdict(self.prompt)
        }
        if self.hiding is not None:
            out["intervention"] = dataclasses.asdict(self.hiding)
        if self.degrees:
            out["rotation"] = self.degrees
        return out

    def selection(self, selection: Selection | None) -> Selection | None:
        """What is captured in this run, where the base captures `selection`."""
        return None if self.hiding is not None else selection


def others_of(episode: Episode) -> list[str]:
    """Other instructions of the scene of an episode; empty when it does not say."""
    return [str(prompt) for prompt in episode.info.get("other_prompts") or ()]


def make_variants(
    prompts: Sequence[Prompt] = (),
    noise_seeds: int = 0,
    occlusion: Occlusion | None = None,
    rotate: Sequence[int] = (),
) -> tuple[Variant, ...]:
    """The base, other noise, other prompts, hidden patches, turned pictures, in this order.

    Raises:
      ConfigError: two of them would have the same key, an angle is no quarter turn, or patches are
        to be hidden under noise that is not run with nothing hidden.
    """
    wrong = [degrees for degrees in rotate if degrees not in (90, 180, 270)]
    if wrong:
        raise ConfigError(f"{wrong[0]} is none of 90, 180 and 270", where="--rotate")
    hidden = () if occlusion is None else tuple(occlusion.variants())
    if occlusion is not None and occlusion.seeds > noise_seeds + 1:
        raise ConfigError(
            f"{occlusion.seeds} seeds need {occlusion.seeds - 1} runs with other noise",
            where="--occlude_seeds",
            fix=f"Give --noise_seeds={occlusion.seeds - 1}",
        )
    out = (
        Variant(BASE),
        *(Variant(f"{NOISE}{k}", noise=k) for k in range(1, noise_seeds + 1)),
        *(Variant(prompt.key, prompt) for prompt in prompts),
        *hidden,
        *(Variant(f"rotate_{degrees}", degrees=degrees) for degrees in rotate),
    )
    keys = [variant.key for variant in out]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise ConfigError(f"two variants have the key {twice[0]!r}", fix="Rename the prompt")
    return out


def check_capture(
    variants: Sequence[Variant], selection: Selection | None, num_layers: int
) -> None:
    """Refuses a capture of the base without the maps that variants need.

    Raises:
      ConfigError: names the capture to give.
    """
    hiding = [variant.hiding for variant in variants if variant.hiding is not None]
    turned = any(variant.degrees for variant in variants)
    if not hiding and not turned:
        return
    where = "--occlude" if hiding else "--rotate"
    problem = ""
    if selection is None:
        problem = "no attention is captured"
    elif not set(_MAPS) & {name.rpartition(".")[2] for name in selection.reduce}:
        problem = f"reduce={','.join(selection.reduce)} keeps no maps"
    elif hiding:
        problem = _lacking(selection, hiding, num_layers)
    if problem:
        raise ConfigError(
            f"needs maps of the base, and {problem}",
            where=where,
            fix=capture_fix(STREAM if hiding else "all", "patch_map", QUERY if hiding else "all"),
        )


def _lacking(selection: Selection, hiding: Sequence[Hiding], num_layers: int) -> str:
    """What a selection lacks of the maps that choose patches; empty when it has all."""
    wanted = {one.layer for one in hiding}
    outside = [layer for layer in sorted(wanted) if not 0 <= layer < num_layers]
    if outside:
        raise ConfigError(f"layer {outside[0]} is outside 0..{num_layers - 1}", where="--occlude")
    if not {"all", STREAM} & set(selection.streams):
        return f"streams={','.join(selection.streams)} leaves {STREAM} out"
    if not set(_MAPS) & set(selection.reductions_of(STREAM)):
        return f"reduce={','.join(selection.reduce)} keeps no maps of {STREAM}"
    missing = sorted(wanted - set(selection.layers_of(num_layers, STREAM)))
    if missing:
        return f"layer {missing[0]} is not captured"
    if not _named(QUERY, selection.queries):
        return f"queries={','.join(selection.queries)} leaves {QUERY} out"
    for camera in dict.fromkeys(one.camera for one in hiding):
        if not _named(f"image/{camera}", selection.keys):
            return f"keys={','.join(selection.keys)} leaves image/{camera} out"
    if selection.every_n > 1:
        return f"every_n={selection.every_n} leaves frames out"
    return ""


def _named(group: str, names: Sequence[str]) -> bool:
    return any(name in ("all", "valid") or fnmatch.fnmatchcase(group, name) for name in names)


def turned(episode: Episode, degrees: int) -> Episode:
    """The episode with the pictures and masks of every camera turned counter-clockwise.

    A picture that is not square lies on its side after a quarter turn. What the info says of the
    place of the pictures in the camera and in a video (`geometry`, `video`) does not hold any more
    and is left out.

    Args:
      episode: images (c, h, w, 3), masks (c, o, h, w).
      degrees: a multiple of 90.
    """
    if not degrees % 360:
        return episode
    quarters = degrees // 90
    info = {k: v for k, v in episode.info.items() if k not in ("geometry", "video")}
    return dataclasses.replace(
        episode,
        info=info,
        images={
            camera: np.ascontiguousarray(np.rot90(pictures, quarters, (1, 2)))
            for camera, pictures in episode.images.items()
        },
        masks={
            camera: np.ascontiguousarray(np.rot90(masks, quarters, (2, 3)))
            for camera, masks in episode.masks.items()
        },
        calibration={},  # of the cameras as they were held
    )
