"""Rows of hypotheses about the prompt: what other words change, and what single words look at.

Axis names: (call, denoise, layer, head, query, key), see `core.record`; o objects.

    table = tables.concat(list(prompt(study, options)))
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from attn_jax.analysis import focus, overlap, shift, tables, words
from attn_jax.analysis.options import (
    Options,
    actions_like,
    check_alike,
    chosen_cameras,
    joined_maps,
    maps_of,
    with_masks,
    with_roles,
)
from attn_jax.analysis.studies import KINDS, ON_PURPOSE, Study, capture_fix
from attn_jax.core.errors import MissingInputError, RecordError
from attn_jax.core.typing import NumpyArray

#: Measures of H2.1 that are given for the first call too.
FIRST = ("relative_l2", "jsd", "centroid_shift_px", "action_l2_std")


def prompt(study: Study, options: Options) -> Iterator[pd.DataFrame]:
    """H2.1: change of maps and actions in every variant, and from frame to frame.

    Some measures also come as `<name>_first`, of the first call alone: where a prompt decides which
    way to go, that is when it does, and in the frames that follow there is nothing left to decide.

    Raises:
      MissingInputError: no such variant, or maps that were not recorded.
      RecordError: a variant of other calls, layers, heads or steps than the base, or with a
        `method` that is not known.
    """
    base = study.base
    variants = {
        key: other
        for key, other in study.variants.items()
        if not any(name in other.episode.info for name in ON_PURPOSE)
    }
    for key, other in variants.items():
        if other.kind not in ("noise", *KINDS.values()):
            raise RecordError(
                f"unknown method {other.kind!r} in the info of the variant",
                where=f"{study.name}, variant {key}",
                fix=f"Write none, {', '.join(KINDS)}, or remove the variant",
            )
    if not variants:
        raise MissingInputError(
            "no run with another prompt or noise",
            where=study.name,
            fix="Run launch.evaluate with --prompts and --noise_seeds",
        )
    for stream, query in options.pairs():
        for camera in chosen_cameras(base, options):
            maps = maps_of(base, stream, query, camera, options)
            mean = joined_maps(maps, options)
            labels = {"query": query, "camera": camera}
            for key, other in variants.items():
                changed = maps_of(other, stream, query, camera, options)
                check_alike(changed, maps, key)
                now = joined_maps(changed, options, like=maps)
                found = shift.shift_metrics(mean, now, box=maps.box)
                axes = {"env_step": maps.env_step, "layer": maps.layers}
                yield from _with_first(found, axes, variant=key, kind=other.kind, **labels)
            if len(mean) > 1:
                found = shift.shift_metrics(mean[:-1], mean[1:], box=maps.box)
                axes = {"env_step": maps.env_step[:-1], "layer": maps.layers}
                yield from _with_first(found, axes, variant="next_frame", kind="frame", **labels)
    if base.episode.actions is not None:
        actions = actions_like(base, base)
        std = study.units()
        for key, other in variants.items():
            if other.episode.actions is not None:
                norm, dimensions = shift.action_delta(actions, actions_like(other, base), std)
                axes = {"env_step": base.episode.env_step}
                yield from _with_first({"action_l2_std": norm}, axes, variant=key, kind=other.kind)
                yield tables.tidy(
                    dimensions,
                    {**axes, "query": [f"dimension/{i}" for i in range(dimensions.shape[-1])]},
                    metric="action_abs_std",
                    variant=key,
                    kind=other.kind,
                )


def _with_first(
    found: Mapping[str, NumpyArray], axes: Mapping[str, Any], **labels: str
) -> Iterator[pd.DataFrame]:
    """Tables of measures (env_step, ...), and of `FIRST` for the first call alone."""
    yield tables.tidy(np.stack(list(found.values())), {"metric": list(found), **axes}, **labels)
    first = {f"{name}_first": values[:1] for name, values in found.items() if name in FIRST}
    axes = {**axes, "env_step": axes["env_step"][:1]}
    yield tables.tidy(np.stack(list(first.values())), {"metric": list(first), **axes}, **labels)


def word_attention(study: Study, options: Options) -> Iterator[pd.DataFrame]:
    """H7.1: lift and entropy of every word; `kind` is `own` where it names that object alone."""
    source = study.base
    found_any = False
    for stream in dict.fromkeys(stream for stream, _ in options.pairs()):
        record = source.record([stream, f"{stream}.head_mean", f"{stream}.patch_map"])
        if record is None:
            continue
        layout = record.call_layouts[0] if record.call_layouts else record.layout
        own = words.own_words(layout, source.episode.objects)
        for word in words.words(layout):
            name = words.PREFIX + word
            kept = record.query_names or layout.aliases
            if record.query_names and name not in kept:
                continue
            for camera in with_masks(source, options):
                maps = maps_of(source, stream, name, camera, options)
                mean = joined_maps(maps, options)
                found_any = True
                labels = {"query": word, "camera": camera}
                axes = {"env_step": maps.env_step, "layer": maps.layers}
                entropy = focus.normalised_entropy(mean.reshape(*mean.shape[:2], -1))
                yield tables.tidy(entropy, axes, metric="normalised_entropy", **labels)
                coverage = source.coverage(camera, maps.grid, maps.target)
                scores = overlap.object_metrics(mean, coverage, names=("overlap", "lift"))
                for number, item in enumerate(source.episode.objects):
                    yield with_roles(
                        tables.tidy(
                            np.stack([value[..., number] for value in scores.values()]),
                            {"metric": list(scores), **axes},
                            object=item,
                            kind="own" if word in own[item] else "other",
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
