"""Attention of a recorded episode as maps of its cameras, beside what the cameras saw.

The record may hold whole maps, their mean over heads, or `patch_map`; maps are asked for by the
names of streams, cameras and queries and come one way whatever was kept.

Axis names: call, denoise, layer, head, gh gw patch grid.

    view = EpisodeView.open("RUN/episodes/episode_00000")
    maps = view.maps("wrist", query="action")
    maps.values                                    # (call, denoise, layer, head, gh, gw)
    maps.at(layer=17, denoise=9)                   # (call, gh, gw), mean over heads
"""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np

from attn_jax.analysis import reduce
from attn_jax.core.errors import LayoutError, RecordError
from attn_jax.core.layout import TokenGroup
from attn_jax.core.record import AttentionRecord
from attn_jax.core.typing import Float, NumpyArray, PathLike
from attn_jax.probe.store import RecordReader

PREFIX = "image/"


@dataclasses.dataclass(frozen=True, eq=False)
class CameraMaps:
    """Probability mass on the patches of one camera; not renormalised.

    Attributes:
      camera: name.
      values: (call, denoise, layer, head, gh, gw) float64; one head where heads were averaged.
      layers, heads, denoise: numbers on these axes; `heads` is empty when they were averaged.
      input_size: (height, width) of the model's input that the grid covers, pixels.
    """

    camera: str
    values: Float[NumpyArray, "call denoise layer head gh gw"]
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    denoise: tuple[int, ...]
    input_size: tuple[int, int]

    def at(
        self, *, layer: int | None = None, denoise: int | None = None, head: int | None = None
    ) -> Float[NumpyArray, "call gh gw"]:
        """Maps of one layer and step (None: the last recorded one), of a head or their mean.

        Raises:
          RecordError: it was not recorded.
        """
        layer = self.layers[-1] if layer is None else layer
        denoise = self.denoise[-1] if denoise is None else denoise
        place = self.place("layer", layer), self.place("denoise", denoise)
        maps = self.values[:, place[1], place[0]]
        return maps.mean(axis=1) if head is None else maps[:, self.place("head", head)]

    def place(self, axis: str, number: int) -> int:
        """Position of a layer, head or denoising step; raises `RecordError` when absent."""
        known = {"layer": self.layers, "head": self.heads, "denoise": self.denoise}[axis]
        if number not in known:
            raise RecordError(
                f"{axis} {number} was not recorded",
                where=f"camera {self.camera!r}",
                fix=f"Recorded: {', '.join(map(str, known)) or 'the mean only'}",
            )
        return known.index(number)


@dataclasses.dataclass(frozen=True, eq=False)
class ActionMasses:
    """Shares of attention of every query of a group on every key group.

    Attributes:
      names: of the key groups.
      values: (query, group) float64, mean over calls and heads.
      layer, denoise: of which layer and denoising step.
    """

    names: tuple[str, ...]
    values: Float[NumpyArray, "q g"]
    layer: int
    denoise: int


@dataclasses.dataclass(frozen=True, eq=False)
class EpisodeView:
    """A record and, by name, its cameras.

    Attributes:
      reader: the record of the episode.
    """

    reader: RecordReader

    @classmethod
    def open(cls, folder: PathLike) -> EpisodeView:
        """Opens an episode folder; raises `RecordError` when it holds no record."""
        return cls(RecordReader(pathlib.Path(folder)))

    def cameras(self, stream: str = "suffix") -> tuple[str, ...]:
        """Names of the real cameras of a stream; dummies are left out."""
        return tuple(
            group.name.removeprefix(PREFIX)
            for group in self._best(stream, None).layout.groups
            if group.grid is not None and group.valid and group.name.startswith(PREFIX)
        )

    def maps(
        self, camera: str, *, stream: str = "suffix", query: str = "action", row: int | None = None
    ) -> CameraMaps:
        """Attention of named queries to one camera.

        Args:
          camera: name, without `image/`.
          stream: `suffix` (actions look) or `prefix` (text and images look).
          query: query group; its rows are averaged.
          row: one row of the group instead, for example an action.

        Raises:
          RecordError: nothing was recorded from which these maps follow.
          LayoutError: no such camera or query group.
        """
        record = self._best(stream, None if row is not None else query)
        key = f"{PREFIX}{camera}"
        try:
            group = record.layout.group(key)
        except LayoutError as error:
            raise LayoutError(
                f"no camera {camera!r}", where=self.reader.folder, fix=f"Known: {self.cameras()}"
            ) from error
        if record.reduction == "patch_map" and row is None:
            values = record.select(query=query, key=key)
            # The query axis holds the one group that was asked for.
            values = np.asarray(values, np.float64)[..., 0, :, :]
        else:
            span = None if row is None else (row, row + 1)
            values = reduce.reduce_record(record, query=query, key=key, heads="each", span=span)
        if group.grid is None or values.shape[-2:] != group.grid:
            raise RecordError(
                f"not all patches of {key} were recorded",
                where=self.reader.folder,
                fix="Capture with keys=all",
            )
        return CameraMaps(
            camera, values, record.layers, record.heads, record.denoise, _input_size(group)
        )

    def masses(self, *, stream: str = "suffix", query: str = "action") -> ActionMasses | None:
        """Masses of every query of a group, last layer and step; None where none were recorded.

        Raises:
          LayoutError: no such query group.
        """
        name = f"{stream}.group_mass"
        if name not in self.reader.names:
            return None
        record = self.reader.record(name)
        wanted = record.layout.group(query).indices
        rows = np.flatnonzero(np.isin(record.layout.axis_tokens("query"), wanted))
        if not len(rows) or record.query_names:
            return None
        calls = [call[-1, -1][:, rows].astype(np.float64) for call in reduce.calls(record)]
        mean = np.mean(calls, axis=(0, 1))  # over calls and heads
        return ActionMasses(record.key_names, mean, record.layers[-1], record.denoise[-1])

    def _best(self, stream: str, group: str | None) -> AttentionRecord:
        """The smallest record of a stream that has image keys and, if named, a query group."""
        whole = [stream, f"{stream}.head_mean"]
        names = whole if group is None else [f"{stream}.patch_map", *whole]
        names += [f"{stream}.patch_map"]
        for name in names:
            if name not in self.reader.names:
                continue
            record = self.reader.record(name)
            if record.query_names and group is not None and group not in record.query_names:
                continue
            return record
        raise RecordError(
            f"no maps of stream {stream!r} for {group or 'tokens'}",
            where=self.reader.folder,
            fix="Capture with reduce=patch_map, or reduce=full for single rows",
        )


def _input_size(group: TokenGroup) -> tuple[int, int]:
    """Pixels that the grid covers; without a box 14 pixels a patch, as SigLIP has them."""
    if group.box is not None:
        return group.box[2], group.box[3]
    assert group.grid is not None
    return 14 * group.grid[0], 14 * group.grid[1]
