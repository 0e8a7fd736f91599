"""Hypotheses: from one episode's attention to tidy rows.

Each hypothesis is a function of a `Study` and options; it reads the streams it needs and returns a
table by frame (`tables.FRAME_COLUMNS`). Nothing is tested here: the episode is the unit, so tests
come in `aggregate`. A missing input is an error that names the capture selection, or the variant,
that would supply it.

| name | question | rows |
|---|---|---|
| h1_1 | do maps lie on objects? | every measure of `overlap`, with and without bars |
| h1 | do high-attention patches matter? | fidelity of occlusion variants |
| h2_1 | does the prompt move attention? | every measure of `shift` and of actions, per variant |
| h2_2 | do answers agree with where the model looks? | correct answers, lift on the asked object |
| h3 | does attention shift along chunk and steps? | mass on objects, slopes |
| h4 | which heads are focused, on what? | focus and lift per head |
| words | do nouns look at their objects? | lift and entropy per word |
| budget | language or vision? | mass per token group |
| layers | are layers alike, frames stable, sinks large? | similarity, stability, sink masses |
| rotation | does attention turn with the picture? | change against the turned base |

Axis names: (call, denoise, layer, head, query, key), see `core.record`; o objects.

    table = run(study, "h1_1", Options(streams=("prefix:text", "suffix:action")))
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from attn_jax.analysis import causal, focus, overlap, shift, sinks, tables, temporal, words
from attn_jax.analysis.studies import (
    CameraMaps,
    Source,
    Study,
    camera_group,
    camera_maps,
    cameras_of,
    capture_fix,
    group_masses,
    recorded,
)
from attn_jax.core.errors import ConfigError, MissingInputError, RecordError
from attn_jax.core.typing import NumpyArray

DENOISE = ("mean", "first", "last")
#: Measures of H2.1 that are given for the first call too.
FIRST = ("relative_l2", "jsd", "centroid_shift_px", "action_l2_std")


@dataclasses.dataclass(frozen=True)
class Options:
    """How a hypothesis reads an episode.

    Attributes:
      streams: `stream:query group`, such as `suffix:action` or `prefix:text`.
      cameras: cameras; empty takes all of the episode.
      denoise: how denoising steps are joined: `mean`, `first` or `last`.
      tau: threshold of the IoU, a share of the largest value.
      top_share: k of top-k measures, a share of the patches.

    Raises:
      ConfigError: a value that cannot be.
    """

    streams: tuple[str, ...] = ("suffix:action",)
    cameras: tuple[str, ...] = ()
    denoise: str = "mean"
    tau: float = overlap.TAU
    top_share: float = overlap.TOP_SHARE

    def __post_init__(self):
        for field in ("streams", "cameras"):
            if isinstance(getattr(self, field), str):
                raise ConfigError(f"{field} is a text", fix='Write a list, as ("suffix:action",)')
        if not 0 <= self.tau < 1:
            raise ConfigError(f"tau is {self.tau}", fix="It is a share, from 0 to less than 1")
        if not 0 < self.top_share <= 1:
            raise ConfigError(
                f"top_share is {self.top_share}", fix="It is a share above 0, up to 1"
            )
        object.__setattr__(self, "streams", tuple(self.streams))
        object.__setattr__(self, "cameras", tuple(self.cameras))
        if self.denoise not in DENOISE:
            raise ConfigError(f"denoise is {self.denoise!r}", fix=f"Use one of {DENOISE}")
        if any(":" not in name for name in self.streams) or not self.streams:
            raise ConfigError(f"streams {self.streams}", fix="Write stream:query, as suffix:action")

    def pairs(self) -> Iterator[tuple[str, str]]:
        """(stream, query group) of every entry."""
        for name in self.streams:
            stream, _, query = name.partition(":")
            yield stream, query


def run(study: Study, name: str, options: Options) -> pd.DataFrame:
    """Rows of one hypothesis for one episode.

    Raises:
      ConfigError: an unknown hypothesis or camera.
      MissingInputError: an input of the hypothesis was not recorded.
      InputError: an input is damaged.
    """
    if name not in HYPOTHESES:
        raise ConfigError(f"unknown hypothesis {name!r}", fix=f"Known: {', '.join(HYPOTHESES)}")
    parts = list(HYPOTHESES[name](study, options))
    table = tables.concat(parts)
    for column, value in (("episode", study.name), ("outcome", study.outcome)):
        table[column] = pd.Categorical([value] * len(table))
    table["hypothesis"] = pd.Categorical([name] * len(table))
    return table


def _cameras(source: Source, options: Options) -> tuple[str, ...]:
    known = cameras_of(source)
    unknown = [name for name in options.cameras if name not in known]
    if unknown:
        raise ConfigError(f"no camera {unknown[0]!r}", fix=f"The episode has {', '.join(known)}")
    return options.cameras or known


def _with_masks(source: Source, options: Options) -> tuple[str, ...]:
    """Cameras that have masks; all that were asked for when none has, so that the error says so."""
    wanted = _cameras(source, options)
    return tuple(c for c in wanted if c in source.episode.masks) or wanted


def _content(source: Source, camera: str, maps: CameraMaps) -> np.ndarray:
    picture = source.episode.images[camera].shape[1:3]
    return overlap.content_share((int(picture[0]), int(picture[1])), maps.grid, maps.target)


def _roles(source: Source) -> list[str]:
    return [source.episode.roles.get(name, "other") for name in source.episode.objects]


def _with_roles(table: pd.DataFrame, source: Source) -> pd.DataFrame:
    """Fills `role` from `object`."""
    roles = dict(zip(source.episode.objects, _roles(source), strict=True))
    table["role"] = pd.Categorical([roles.get(name, "") for name in table["object"]])
    return table


def objects(study: Study, options: Options) -> Iterator[pd.DataFrame]:
    """H1.1: overlap of maps (heads joined by their mean) with objects."""
    source = study.base
    for stream, query in options.pairs():
        for camera in _with_masks(source, options):
            maps = camera_maps(source, stream, query, camera)
            mean = maps.joined(options.denoise).mean(2)
            coverage = source.coverage(camera, maps.grid, maps.target)
            content = _content(source, camera, maps)
            found = overlap.object_metrics(
                mean, coverage, tau=options.tau, top_share=options.top_share
            )
            picture = overlap.object_metrics(
                mean,
                coverage,
                content=content,
                tau=options.tau,
                top_share=options.top_share,
            )
            found |= {f"{name}_picture": value for name, value in picture.items()}
            labels = {"query": query, "camera": camera}
            axes = {"env_step": maps.env_step, "layer": maps.layers}
            yield _with_roles(
                tables.tidy(
                    np.stack(list(found.values())),
                    {"metric": list(found), **axes, "object": source.episode.objects},
                    **labels,
                ),
                source,
            )
            masses = {
                "bar_mass": overlap.bar_mass(mean, content),
                "camera_mass": mean.sum((-2, -1)),
            }
            yield tables.tidy(
                np.stack(list(masses.values())), {"metric": list(masses), **axes}, **labels
            )


def prompt(study: Study, options: Options) -> Iterator[pd.DataFrame]:
    """H2.1: change of maps and actions in every variant, and from frame to frame.

    Some measures also come as `<name>_first`, of the first call alone: where a prompt decides which
    way to go, that is when it does, and in the frames that follow there is nothing left to decide.
    """
    base = study.base
    variants = study.of_kind("noise", "paraphrase", "counterfactual", "negation", "empty")
    if not variants:
        raise MissingInputError(
            "no run with another prompt or noise",
            where=study.name,
            fix="Run launch.evaluate with --prompts and --noise_seeds",
        )
    for stream, query in options.pairs():
        for camera in _cameras(base, options):
            maps = camera_maps(base, stream, query, camera)
            mean = maps.joined(options.denoise).mean(2)
            labels = {"query": query, "camera": camera}
            for key, other in variants.items():
                changed = camera_maps(other, stream, query, camera)
                if not np.array_equal(changed.env_step, maps.env_step):
                    raise RecordError("recorded at other steps than the base", where=key)
                now = changed.joined(options.denoise).mean(2)
                found = shift.shift_metrics(mean, now, box=maps.box)
                axes = {"env_step": maps.env_step, "layer": maps.layers}
                yield from _with_first(found, axes, variant=key, kind=other.kind, **labels)
            if len(mean) > 1:
                found = shift.shift_metrics(mean[:-1], mean[1:], box=maps.box)
                axes = {"env_step": maps.env_step[:-1], "layer": maps.layers}
                yield from _with_first(found, axes, variant="next_frame", kind="frame", **labels)
    actions = base.episode.actions
    if actions is not None:
        std = actions.reshape(-1, actions.shape[-1]).std(0).astype(np.float64)
        for key, other in variants.items():
            if other.episode.actions is not None:
                norm, _ = shift.action_delta(actions, other.episode.actions, std)
                axes = {"env_step": base.episode.env_step}
                yield from _with_first({"action_l2_std": norm}, axes, variant=key, kind=other.kind)


def _with_first(
    found: Mapping[str, NumpyArray], axes: Mapping[str, Any], **labels: str
) -> Iterator[pd.DataFrame]:
    """Tables of measures (env_step, ...), and of `FIRST` for the first call alone."""
    yield tables.tidy(np.stack(list(found.values())), {"metric": list(found), **axes}, **labels)
    first = {f"{name}_first": values[:1] for name, values in found.items() if name in FIRST}
    axes = {**axes, "env_step": axes["env_step"][:1]}
    yield tables.tidy(np.stack(list(first.values())), {"metric": list(first), **axes}, **labels)


def temporal_shift(study: Study, options: Options) -> Iterator[pd.DataFrame]:
    """H3 and H5: mass on objects along the action chunk and the denoising steps."""
    source = study.base
    for stream, query in options.pairs():
        record = source.record([f"{stream}.head_mean", stream])
        if record is None:
            raise MissingInputError(
                f"stream {stream!r} has no row per action",
                where=study.name,
                fix=capture_fix(stream, "head_mean", query),
            )
        for camera in _with_masks(source, options):
            with recorded(stream, query, "head_mean"):
                group = camera_group(record.layout, camera)
            assert group.grid is not None
            top, left, height, width = group.box or (0, 0, *(14 * side for side in group.grid))
            target = 2 * top + height, 2 * left + width
            coverage = source.coverage(camera, group.grid, target)
            with recorded(stream, query, "head_mean"):
                curves = temporal.roi_curves(record, group.name, coverage, query=query)
            steps, labels = source.steps(), {"query": query, "camera": camera}
            axes = {"env_step": steps, "layer": record.layers, "object": source.episode.objects}
            found = {
                "roi_mass": curves.mean((1, 3)),
                "slope_action": temporal.slope(curves, axis=3).mean(1),
                "slope_denoise": temporal.slope(curves.mean(3), axis=1),
                "roi_mass_first_action": curves[:, :, :, 0].mean(1),
                "roi_mass_last_action": curves[:, :, :, -1].mean(1),
            }
            yield _with_roles(
                tables.tidy(
                    np.stack(list(found.values())), {"metric": list(found), **axes}, **labels
                ),
                source,
            )
            names = [f"{query}/{number}" for number in range(curves.shape[3])]
            yield _with_roles(
                tables.tidy(
                    curves.mean(0),
                    {
                        "denoise": record.denoise,
                        "layer": record.layers,
                        "query": names,
                        "object": source.episode.objects,
                    },
                    metric="roi_curve",
                    camera=camera,
                ),
                source,
            )


def head_focus(study: Study, options: Options) -> Iterator[pd.DataFrame]:
    """H4: focus of every head, and its lift on objects where there are masks."""
    source = study.base
    for stream, query in options.pairs():
        for camera in _cameras(source, options):
            maps = camera_maps(source, stream, query, camera)
            values = maps.joined(options.denoise)
            flat = values.reshape(*values.shape[:3], -1)
            k = max(1, round(options.top_share * flat.shape[-1]))
            found = {
                "normalised_entropy": focus.normalised_entropy(flat),
                "effective_patches": focus.effective_patches(flat),
                "gini": focus.gini(flat),
                "topk_mass": focus.top_k_mass(flat, k),
                "max": focus.normalised(flat).max(-1),
                "mass": flat.sum(-1),
            }
            labels = {"query": query, "camera": camera}
            axes = {"layer": maps.layers, "head": maps.head_labels}
            yield tables.tidy(
                np.stack(list(found.values())),
                {"metric": list(found), "env_step": maps.env_step, **axes},
                **labels,
            )
            rank = focus.effective_rank(np.moveaxis(flat, 0, 2))
            yield tables.tidy(rank, axes, metric="effective_rank", **labels)
            if camera in source.episode.masks and source.episode.objects:
                coverage = source.coverage(camera, maps.grid, maps.target)
                lift = overlap.object_metrics(values, coverage, names=("lift",))["lift"]
                table = tables.tidy(
                    lift,
                    {"env_step": maps.env_step, **axes, "object": source.episode.objects},
                    metric="lift",
                    **labels,
                )
                yield _with_roles(table, source)


def word_attention(study: Study, options: Options) -> Iterator[pd.DataFrame]:
    """H7.1: lift and entropy of every word; `kind` says whether the word names the object."""
    source = study.base
    found_any = False
    for stream in dict.fromkeys(stream for stream, _ in options.pairs()):
        record = source.record([stream, f"{stream}.head_mean", f"{stream}.patch_map"])
        if record is None:
            continue
        layout = record.call_layouts[0] if record.call_layouts else record.layout
        for word in words.words(layout):
            name = words.PREFIX + word
            kept = record.query_names or layout.aliases
            if record.query_names and name not in kept:
                continue
            for camera in _with_masks(source, options):
                maps = camera_maps(source, stream, name, camera)
                mean = maps.joined(options.denoise).mean(2)
                found_any = True
                labels = {"query": word, "camera": camera}
                axes = {"env_step": maps.env_step, "layer": maps.layers}
                entropy = focus.normalised_entropy(mean.reshape(*mean.shape[:2], -1))
                yield tables.tidy(entropy, axes, metric="normalised_entropy", **labels)
                coverage = source.coverage(camera, maps.grid, maps.target)
                scores = overlap.object_metrics(mean, coverage, names=("overlap", "lift"))
                for number, item in enumerate(source.episode.objects):
                    own = word in words.words_of(layout, item)
                    yield _with_roles(
                        tables.tidy(
                            np.stack([value[..., number] for value in scores.values()]),
                            {"metric": list(scores), **axes},
                            object=item,
                            kind="own" if own else "other",
                            **labels,
                        ),
                        source,
                    )
    if not found_any:
        raise MissingInputError(
            "no attention of single words",
            where=study.name,
            fix=capture_fix("prefix", "patch_map", "text/word/*"),
        )


def group_budget(study: Study, options: Options) -> Iterator[pd.DataFrame]:
    """Mass per token group, and of all vision and language together."""
    for stream, query in options.pairs():
        found = group_masses(study.base, stream, query)
        values = found.values.mean(3)  # over heads
        sums = {
            f"mass:{name}": values[..., place].mean(1) for place, name in enumerate(found.names)
        }
        vision = [i for i, name in enumerate(found.names) if name.startswith("image/")]
        language = [i for i, n in enumerate(found.names) if n in ("bos", "text", "state", "prompt")]
        sums["mass:vision"] = values[..., vision].sum(-1).mean(1)
        sums["mass:language"] = values[..., language].sum(-1).mean(1)
        yield tables.tidy(
            np.stack(list(sums.values())),
            {"metric": list(sums), "env_step": found.env_step, "layer": found.layers},
            query=query,
        )


def layer_structure(study: Study, options: Options) -> Iterator[pd.DataFrame]:
    """Similarity of layers, stability over frames, mass on bars and sink patches."""
    source = study.base
    for stream, query in options.pairs():
        for camera in _cameras(source, options):
            maps = camera_maps(source, stream, query, camera)
            mean = maps.joined(options.denoise).mean(2)
            content = _content(source, camera, maps)
            labels = {"query": query, "camera": camera}
            if len(maps.layers) > 1:
                yield tables.tidy(
                    shift.layer_similarity(mean),
                    {"env_step": maps.env_step, "layer": maps.layers[1:]},
                    metric="similarity_to_previous_layer",
                    **labels,
                )
            found = sinks.sink_patches(mean)
            masses = {
                "stability": shift.stability(mean),
                "sink_mass": np.where(found, mean * content, 0.0).sum((-2, -1)).mean(0),
                "sink_patches": found.sum((-2, -1)).astype(np.float64),
                "bar_mass": overlap.bar_mass(mean, content).mean(0),
            }
            yield tables.tidy(
                np.stack(list(masses.values())),
                {"metric": list(masses), "layer": maps.layers},
                **labels,
            )


HYPOTHESES: dict[str, Callable[[Study, Options], Iterator[pd.DataFrame]]] = {
    "h1_1": objects,
    "h1": causal.fidelity_rows,
    "h2_1": prompt,
    "h2_2": causal.answer_rows,
    "h3": temporal_shift,
    "h4": head_focus,
    "words": word_attention,
    "budget": group_budget,
    "layers": layer_structure,
    "rotation": causal.rotation_rows,
}
