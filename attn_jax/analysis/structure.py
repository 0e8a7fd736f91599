"""Rows of hypotheses about attention as a whole: where mass goes, how layers and frames agree.

Axis names: (call, denoise, layer, head, query, key), see `core.record`.

    table = tables.concat(list(group_budget(study, options)))
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from attn_jax.analysis import cameras, overlap, shift, sinks, tables
from attn_jax.analysis.options import Options, chosen_cameras, content_of, joined_maps
from attn_jax.analysis.studies import (
    Study,
    camera_maps,
    capture_fix,
    group_masses,
    mass_records,
)
from attn_jax.core.errors import MissingInputError


def group_budget(study: Study, options: Options) -> Iterator[pd.DataFrame]:
    """Mass per token group, and of all vision and language together.

    Raises:
      MissingInputError: no masses, or of a part of the groups, which are no budget.
    """
    for stream, query in options.pairs():
        found = group_masses(study.base, stream, query)
        if not found.complete:
            raise MissingInputError(
                f"of stream {stream!r} only {', '.join(found.names)} were recorded",
                where=study.name,
                fix=capture_fix(stream, "group_mass", query),
            )
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


def camera_rows(study: Study, options: Options) -> Iterator[pd.DataFrame]:
    """How a query group shares its attention on pictures between the cameras."""
    source = study.base
    for stream, query in options.pairs():
        names = chosen_cameras(source, options)
        found = [camera_maps(source, stream, query, camera) for camera in names]
        masses = np.stack(
            [joined_maps(maps, options).sum((-2, -1), keepdims=True) for maps in found], axis=-3
        )  # grids may differ, masses do not
        yield tables.tidy(
            cameras.camera_shares(masses),
            {"env_step": found[0].env_step, "layer": found[0].layers, "camera": names},
            metric="camera_share",
            query=query,
        )


def layer_structure(study: Study, options: Options) -> Iterator[pd.DataFrame]:
    """Similarity of layers, stability over frames, mass on bars, sink patches and BOS."""
    source = study.base
    for stream, query in options.pairs():
        if source.record(mass_records(stream)) is not None:
            found = group_masses(source, stream, query)
            if sinks.BOS in found.names:
                mass = found.values[..., found.names.index(sinks.BOS)].mean((1, 3))
                axes = {"env_step": found.env_step, "layer": found.layers}
                yield tables.tidy(mass, axes, metric="bos_mass", query=query)
        for camera in chosen_cameras(source, options):
            maps = camera_maps(source, stream, query, camera)
            mean = joined_maps(maps, options)
            content = content_of(source, camera, maps)
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
