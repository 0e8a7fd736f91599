"""Rows of hypotheses about objects in the picture: where maps lie, when, and in which heads.

Axis names: (call, denoise, layer, head, query, key), see `core.record`; o objects.

    table = tables.concat(list(objects(study, options)))
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from attn_jax.analysis import focus, overlap, tables, temporal
from attn_jax.analysis.options import (
    Options,
    chosen_cameras,
    cleaned,
    content_of,
    joined_maps,
    with_masks,
    with_roles,
)
from attn_jax.analysis.studies import (
    Source,
    Study,
    camera_group,
    camera_maps,
    capture_fix,
    recorded,
)
from attn_jax.core.errors import MissingInputError
from attn_jax.core.typing import Float, Int, NumpyArray


def objects(study: Study, options: Options) -> Iterator[pd.DataFrame]:
    """H1.1: overlap of maps (heads joined by their mean) with objects.

    `overlap_picture_first` is that of the first call alone: before anything has moved, so that what
    it has to do with the outcome is not what the outcome has done to the picture.
    """
    source = study.base
    for stream, query in options.pairs():
        for camera in with_masks(source, options):
            whole = camera_maps(source, stream, query, camera)
            maps = cleaned(source, camera, whole, options)
            mean = joined_maps(maps, options)
            coverage = source.coverage(camera, maps.grid, maps.target)
            content = content_of(source, camera, maps)
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
            objects = {"object": source.episode.objects}
            yield with_roles(
                tables.tidy(
                    np.stack(list(found.values())),
                    {"metric": list(found), **axes, **objects},
                    **labels,
                ),
                source,
            )
            first = {"env_step": maps.env_step[:1], "layer": maps.layers, **objects}
            yield with_roles(
                tables.tidy(
                    found["overlap_picture"][:1], first, metric="overlap_picture_first", **labels
                ),
                source,
            )
            yield _visible(source, camera, coverage, maps.env_step)
            # Of what was recorded: a map without its sinks is renormalised, and has mass 1.
            recorded_mean = joined_maps(whole, options, like=maps)
            masses = {
                "bar_mass": overlap.bar_mass(recorded_mean, content),
                "camera_mass": recorded_mean.sum((-2, -1)),
            }
            yield tables.tidy(
                np.stack(list(masses.values())), {"metric": list(masses), **axes}, **labels
            )


def _visible(
    source: Source,
    camera: str,
    coverage: Float[NumpyArray, "call o gh gw"],
    steps: Int[NumpyArray, "call"],
) -> pd.DataFrame:
    """1 in frames that show an object, else 0: its mean is the share of frames behind a mean."""
    seen = overlap.in_sight(coverage).astype(np.float64)
    axes = {"env_step": steps, "object": source.episode.objects}
    return with_roles(tables.tidy(seen, axes, metric="visible", camera=camera), source)


def temporal_shift(study: Study, options: Options) -> Iterator[pd.DataFrame]:
    """H3 and H5: mass on objects along the action chunk and the denoising steps.

    NaN in frames that do not show the object, which nobody can look at there.
    """
    source = study.base
    for stream, query in options.pairs():
        # Heads that were averaged in the capture cannot be joined in another way.
        averaged = [f"{stream}.head_mean"] if options.heads == "mean" else []
        record = source.record([*averaged, stream])
        if record is None:
            raise MissingInputError(
                f"stream {stream!r} has no row per action",
                where=study.name,
                fix=capture_fix(stream, "head_mean" if averaged else "full", query),
            )
        for camera in with_masks(source, options):
            with recorded(stream, query, "head_mean"):
                group = camera_group(record.layout, camera)
            assert group.grid is not None
            top, left, height, width = group.box or (0, 0, *(14 * side for side in group.grid))
            target = 2 * top + height, 2 * left + width
            coverage = source.coverage(camera, group.grid, target)
            with recorded(stream, query, "head_mean"):
                curves = temporal.roi_curves(
                    record, group.name, coverage, query=query, heads=options.heads
                )
            seen = overlap.in_sight(coverage)
            curves = np.where(seen[:, None, None, None], curves, np.nan)
            steps, labels = source.steps(), {"query": query, "camera": camera}
            axes = {"env_step": steps, "layer": record.layers, "object": source.episode.objects}
            found = {
                "roi_mass": curves.mean((1, 3)),
                "slope_action": temporal.slope(curves, axis=3).mean(1),
                # Per step of the sampler, whichever of them were kept.
                "slope_denoise": temporal.slope(
                    curves.mean(3), axis=1, x=np.array(record.denoise, np.float64)
                ),
                "roi_mass_first_action": curves[:, :, :, 0].mean(1),
                "roi_mass_last_action": curves[:, :, :, -1].mean(1),
            }
            yield with_roles(
                tables.tidy(
                    np.stack(list(found.values())), {"metric": list(found), **axes}, **labels
                ),
                source,
            )
            yield _visible(source, camera, coverage, steps)
            names = [f"{query}/{number}" for number in range(curves.shape[3])]
            yield with_roles(
                tables.tidy(
                    temporal.mean_known(curves, axis=0),
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
        for camera in chosen_cameras(source, options):
            whole = camera_maps(source, stream, query, camera)
            maps = cleaned(source, camera, whole, options)
            values = maps.joined(options.denoise)
            flat = values.reshape(*values.shape[:3], -1)
            k = max(1, round(options.top_share * flat.shape[-1]))
            found = {
                "normalised_entropy": focus.normalised_entropy(flat),
                "effective_patches": focus.effective_patches(flat),
                "gini": focus.gini(flat),
                "topk_mass": focus.top_k_mass(flat, k),
                "max": focus.normalised(flat).max(-1),
                "mass": whole.joined(options.denoise).sum((-2, -1)),
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
                yield with_roles(table, source)
