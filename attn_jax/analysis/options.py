"""How hypotheses read an episode, and the small things all of them do with it.

options = Options(streams=("prefix:text", "suffix:action"))
for camera in with_masks(study.base, options):
...
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pandas as pd

from attn_jax.analysis import overlap, reduce, sinks
from attn_jax.analysis.studies import CameraMaps, Source, camera_maps, cameras_of
from attn_jax.core.errors import ConfigError, MissingInputError, RecordError
from attn_jax.core.typing import Float, NumpyArray

_ALIKE = ("env_step", "layers", "heads", "denoise", "grid")
_SAME_RUN = "Run all variants with the same checkpoint and --capture, or remove this one"

DENOISE = ("mean", "first", "last")
KEEP, REMOVE = "keep", "remove"


@dataclasses.dataclass(frozen=True)
class Options:
    """How a hypothesis reads an episode.

    Attributes:
      streams: `stream:query group`, such as `suffix:action` or `prefix:text`.
      cameras: cameras; empty takes all of the episode.
      denoise: how denoising steps are joined: `mean`, `first` or `last`.
      heads: how heads are joined where a map is of all heads, as in `reduce.join_heads`: `mean`,
        `max`, `focused:3`, `count:0.9`, ... but not `each`.
      sinks: `keep`, or `remove`: sink patches (`sinks.sink_patches`, of each run by itself) and
        letterbox bars are taken out of every map, which is renormalised over what is left of its
        camera. What measures sinks (`layers`), single rows (`h3`) and the mass of a camera keeps
        them.
      tau: threshold of the IoU, a share of the largest value.
      top_share: k of top-k measures, a share of the patches.
      keep_unmatched: whether fidelity counts calls whose control has another shape than the high
        set, because none fits beside it.

    Raises:
      ConfigError: a value that cannot be.
    """

    streams: tuple[str, ...] = ("suffix:action",)
    cameras: tuple[str, ...] = ()
    denoise: str = "mean"
    heads: str = "mean"
    sinks: str = KEEP
    tau: float = overlap.TAU
    top_share: float = overlap.TOP_SHARE
    keep_unmatched: bool = False

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
        if self.sinks not in (KEEP, REMOVE):
            raise ConfigError(f"sinks is {self.sinks!r}", fix=f"Use {KEEP} or {REMOVE}")
        if reduce.head_reduction(self.heads)[0] == "each":
            raise ConfigError("heads is 'each'", fix="Join them; hypothesis h4 looks at each")
        if any(":" not in name for name in self.streams) or not self.streams:
            raise ConfigError(f"streams {self.streams}", fix="Write stream:query, as suffix:action")

    def pairs(self) -> Iterator[tuple[str, str]]:
        """(stream, query group) of every entry."""
        for name in self.streams:
            stream, _, query = name.partition(":")
            yield stream, query


def chosen_cameras(source: Source, options: Options) -> tuple[str, ...]:
    """Cameras that were asked for; all of the episode when none was.

    Raises:
      ConfigError: a camera that the episode does not have.
    """
    known = cameras_of(source)
    unknown = [name for name in options.cameras if name not in known]
    if unknown:
        raise ConfigError(f"no camera {unknown[0]!r}", fix=f"The episode has {', '.join(known)}")
    return options.cameras or known


def with_masks(source: Source, options: Options) -> tuple[str, ...]:
    """Cameras that have masks; all that were asked for when none has, so that the error says so."""
    wanted = chosen_cameras(source, options)
    return tuple(c for c in wanted if c in source.episode.masks) or wanted


def maps_of(source: Source, stream: str, query: str, camera: str, options: Options) -> CameraMaps:
    """`studies.camera_maps`, without sinks where they are to be removed.

    Raises:
      RecordError, LayoutError: as `camera_maps`.
    """
    return cleaned(source, camera, camera_maps(source, stream, query, camera), options)


def cleaned(source: Source, camera: str, maps: CameraMaps, options: Options) -> CameraMaps:
    """Maps as they were recorded, or without sinks where `options` say so."""
    return maps if options.sinks == KEEP else without_sinks(source, camera, maps)


def without_sinks(source: Source, camera: str, maps: CameraMaps) -> CameraMaps:
    """Maps without letterbox bars and sink patches, which are found in these calls."""
    bars = 1.0 - content_of(source, camera, maps)
    found = sinks.sink_patches(maps.values)
    return dataclasses.replace(maps, values=sinks.corrected(maps.values, found, bars=bars))


def joined_maps(
    maps: CameraMaps, options: Options, like: CameraMaps | None = None
) -> Float[NumpyArray, "call layer gh gw"]:
    """Maps with denoising steps and heads joined, float64.

    Args:
      maps: of a run.
      options: how.
      like: maps of another run whose most focused heads are taken, so that two runs are compared
        in the same heads; None takes those of `maps`.

    Raises:
      ConfigError: more focused heads than the record keeps apart.
    """
    values = maps.joined(options.denoise)
    calls, layers, heads = values.shape[:3]
    rows = values.reshape(calls, layers, heads, 1, -1)
    focused = None
    if like is not None and reduce.head_reduction(options.heads)[0] == reduce.FOCUSED:
        other = like.joined(options.denoise)
        entropy = reduce.map_entropy(other.reshape(len(other), layers, heads, 1, -1))
        focused = reduce.focused_heads(entropy, int(reduce.head_reduction(options.heads)[1]))
    return reduce.join_heads(rows, options.heads, focused).reshape(calls, layers, *maps.grid)


def check_alike(maps: CameraMaps, base: CameraMaps, key: str) -> None:
    """Refuses maps of a variant that differ from those of the base in what their positions mean.

    Layer 4 set against layer 5 would give numbers of the right shape.

    Raises:
      RecordError: names the axis.
    """
    for name in _ALIKE:
        found, wanted = (np.asarray(getattr(one, name)).tolist() for one in (maps, base))
        if found != wanted:
            raise RecordError(
                f"{name} {found} were recorded, {wanted} of the base", where=key, fix=_SAME_RUN
            )


def actions_like(source: Source, base: Source) -> Float[NumpyArray, "call H A"]:
    """Predicted actions of a run, float64, at the calls of the base and of its shape.

    Raises:
      MissingInputError: one of the two has none.
      RecordError: they are of other calls or of another shape.
    """
    actions, wanted = source.episode.actions, base.episode.actions
    if actions is None or wanted is None:
        which = source if actions is None else base
        raise MissingInputError("the run has no predicted actions", where=which.key or "base")
    if actions.shape != wanted.shape:
        raise RecordError(
            f"actions of shape {actions.shape}, those of the base are {wanted.shape}",
            where=source.key,
            fix=_SAME_RUN,
        )
    if not np.array_equal(source.episode.env_step, base.episode.env_step):
        raise RecordError(
            "actions at other steps than those of the base", where=source.key, fix=_SAME_RUN
        )
    return actions.astype(np.float64)


def content_of(source: Source, camera: str, maps: CameraMaps) -> Float[NumpyArray, "gh gw"]:
    """Share of every patch of a camera that is picture and not letterbox bar."""
    picture = source.episode.images[camera].shape[1:3]
    return overlap.content_share((int(picture[0]), int(picture[1])), maps.grid, maps.target)


def _roles(source: Source) -> list[str]:
    return [source.episode.roles.get(name, "other") for name in source.episode.objects]


def with_roles(table: pd.DataFrame, source: Source) -> pd.DataFrame:
    """Fills `role` from `object`."""
    roles = dict(zip(source.episode.objects, _roles(source), strict=True))
    table["role"] = pd.Categorical([roles.get(name, "") for name in table["object"]])
    return table
