"""Rows of hypotheses about attention as a whole: where mass goes, how layers and frames agree.

Axis names: (call, denoise, layer, head, query, key), see `core.record`.

    table = tables.concat(list(group_budget(study, options)))
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pandas as pd

from attn_jax.analysis import cameras, overlap, shift, sinks, tables
from attn_jax.analysis.options import Options, chosen_cameras, content_of, joined_maps, maps_of
from attn_jax.analysis.studies import (
    CameraMaps,
    Source,
    Study,
    camera_maps,
    capture_fix,
    group_masses,
    mass_records,
)
from attn_jax.core import geometry
from attn_jax.core.calibration import points_in
from attn_jax.core.errors import MissingInputError
from attn_jax.core.typing import Float, NumpyArray


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


def agreement_rows(study: Study, options: Options) -> Iterator[pd.DataFrame]:
    """Whether cameras look at the same place: one's map, carried into the picture of another.

    The column `camera` says `A in B`: the map of A as B sees it, compared with the map of B in the
    patches that show something which A sees too. Their share of B's patches is `shared_patches`.

    Raises:
      MissingInputError: fewer than two of the cameras are calibrated.
    """
    source = study.base
    calibrated = source.episode.calibration
    names = [camera for camera in chosen_cameras(source, options) if camera in calibrated]
    if len(names) < 2:
        raise MissingInputError(
            f"calibrated cameras: {', '.join(names) or 'none'}, comparing needs two",
            where=study.name,
            fix="Roll out with launch.evaluate --env, which records them with the masks",
        )
    for stream, query in options.pairs():
        found = {camera: maps_of(source, stream, query, camera, options) for camera in names}
        joined = {camera: joined_maps(maps, options) for camera, maps in found.items()}
        for one, other in itertools.permutations(names, 2):
            points = _points(source, (one, found[one]), (other, found[other]))
            scores = np.empty((2, *joined[other].shape[:2]))
            for number, places in enumerate(points):
                carried = cameras.resample(
                    joined[one][number], places, grid=found[other].grid, box=found[other].box
                )
                scores[0, number] = cameras.agreement(joined[other][number], carried)
                scores[1, number] = np.isfinite(carried).mean((-2, -1))
            yield tables.tidy(
                scores,
                {
                    "metric": ["agreement", "shared_patches"],
                    "env_step": found[one].env_step,
                    "layer": found[one].layers,
                },
                query=query,
                camera=f"{one} in {other}",
            )


def _points(
    source: Source, one: tuple[str, CameraMaps], other: tuple[str, CameraMaps]
) -> Float[NumpyArray, "call gh gw 2"]:
    """Where the patches of one camera lie in the other's input, pixels; NaN where it sees none."""

    def input_of(camera: str, maps: CameraMaps) -> geometry.Letterbox:
        height, width = source.episode.images[camera].shape[1:3]
        return geometry.letterbox((height, width), maps.target)

    moments = source.places()
    seen, seen_too = (source.episode.calibration[name].at(moments) for name, _ in (one, other))
    centres = geometry.patch_centres(one[1].grid, one[1].box)
    found = points_in(seen, seen_too, input_of(*one).to_source(centres))
    return input_of(*other).to_target(found)


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
