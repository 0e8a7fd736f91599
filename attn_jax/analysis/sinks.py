"""Attention sinks: mass that sits on tokens because rows must sum to 1, and maps without it.

Three kinds are told apart: the first token of the prompt (BOS), letterbox bars, and patches that
take much of the mass in every frame. A sink patch is one whose mean mass over frames exceeds the
mean over patches by five standard deviations.

Axis names: t frames, `*m` any axes of maps, gh gw patch grid.

    found = sink_patches(maps)                         # (*m, gh, gw) bool
    corrected(maps, found, bars=1 - content)           # renormalised over what is left
"""

from __future__ import annotations

import dataclasses

import numpy as np

from attn_jax.analysis import flowmaps, reduce
from attn_jax.core.errors import RecordError
from attn_jax.core.record import AttentionRecord
from attn_jax.core.typing import Bool, Float, NumpyArray

THRESHOLD = 5.0
BOS = "bos"


@dataclasses.dataclass(frozen=True, eq=False)
class SinkMass:
    """Mean mass on sinks of one camera and on BOS; (layer, head) float64 each.

    Attributes:
      bos: on the first token of the prompt; NaN when the layout does not name it.
      bars: on the letterbox bars, by area.
      patches: on sink patches, without their bar share.
      camera: on the whole camera.
    """

    bos: Float[NumpyArray, "layer head"]
    bars: Float[NumpyArray, "layer head"]
    patches: Float[NumpyArray, "layer head"]
    camera: Float[NumpyArray, "layer head"]


def sink_patches(
    maps: Float[NumpyArray, "t *m gh gw"], threshold: float = THRESHOLD
) -> Bool[NumpyArray, "*m gh gw"]:
    """Patches whose mean mass over frames exceeds mean + threshold * sd over patches."""
    mean = np.asarray(maps, np.float64).mean(0)
    level = mean.mean((-2, -1), keepdims=True) + threshold * mean.std((-2, -1), keepdims=True)
    return mean > level


def corrected(
    maps: Float[NumpyArray, "t *m gh gw"],
    sinks: Bool[NumpyArray, "*m gh gw"],
    *,
    bars: Float[NumpyArray, "gh gw"] | None = None,
) -> Float[NumpyArray, "t *m gh gw"]:
    """Maps without sink patches and bars, renormalised over what is left of the camera.

    Args:
      maps: probabilities of one camera.
      sinks: patches that are taken out whole.
      bars: share of every patch that is bar, taken out in proportion; None takes out none.

    Returns:
      Maps that sum to 1; NaN where nothing is left.
    """
    keep = np.where(sinks, 0.0, 1.0 if bars is None else 1.0 - bars)
    left = np.asarray(maps, np.float64) * keep
    mass = left.sum((-2, -1), keepdims=True)
    return np.where(mass > 0, left / np.where(mass > 0, mass, 1.0), np.nan)


def sink_mass(
    record: AttentionRecord,
    camera: str,
    content: Float[NumpyArray, "gh gw"],
    *,
    query: str | None = None,
    threshold: float = THRESHOLD,
) -> SinkMass:
    """Where the mass of sinks is, by layer and head; means over calls, steps and queries.

    Args:
      record: full maps or head means, with tokens on both axes.
      camera: key group with a patch grid.
      content: share of every patch that is picture.
      query: query group; None takes every real token.
      threshold: in standard deviations, of `sink_patches`.

    Raises:
      RecordError: a record without patches on its key axis.
    """
    if record.key_names or record.query_names:
        raise RecordError(
            f"{record.reduction} of {record.stream!r} has no tokens on its axes",
            fix="Capture with reduce=full or reduce=head_mean",
        )
    maps = reduce.reduce_record(record, query=query, key=camera, heads="each")
    found = sink_patches(maps.reshape(-1, *maps.shape[2:]), threshold)
    mean = maps.mean((0, 1))
    nothing = np.full(mean.shape[:-2], np.nan)
    named = BOS in record.layout.names
    return SinkMass(
        bos=flowmaps.group_mass(record, [BOS], query=query).mean((0, 1))[..., 0]
        if named
        else nothing,
        bars=np.einsum("lhyx,yx->lh", mean, 1.0 - content),
        patches=np.einsum("lhyx,yx->lh", np.where(found, mean, 0.0), content),
        camera=mean.sum((-2, -1)),
    )
