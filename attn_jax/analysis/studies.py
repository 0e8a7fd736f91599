"""A study: one episode with its attention and the runs on the same frames that it is compared with.

Maps come from whatever the run kept: `patch_map` where it has the query group, else whole maps,
else head means, read call by call. When none fits, the error names the capture selection to use.

Axis names: (call, denoise, layer, head, query, key), see `core.record`; gh gw patch grid; o
objects.

    study = Study("episode_00000", base, variants={"duck": other})
    maps = camera_maps(study.base, "prefix", "text", "wrist")
    maps.values                                         # (call, denoise, layer, head, gh, gw)
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from attn_jax.analysis import flowmaps, overlap, reduce
from attn_jax.core import geometry
from attn_jax.core.calibration import Calibration
from attn_jax.core.errors import LayoutError, MissingInputError, RecordError
from attn_jax.core.layout import TokenGroup, TokenLayout
from attn_jax.core.record import AttentionRecord
from attn_jax.core.typing import Float, Int, NumpyArray
from attn_jax.probe.store import RecordReader

SUCCESS, FAILURE, UNKNOWN = "success", "failure", "unknown"
#: How a prompt was changed -> the kind of comparison it makes.
KINDS = {
    "style": "paraphrase",
    "paraphrase": "paraphrase",
    "object_swap": "counterfactual",
    "custom": "counterfactual",
    "negation": "negation",
    "empty": "empty",
}
#: Names in the info of runs made on purpose, whatever their prompt.
ON_PURPOSE = ("intervention", "vqa", "rotation")


@runtime_checkable
class EpisodeData(Protocol):
    """What analyses need to know of a recorded episode (`data.episodes.Episode` is one)."""

    @property
    def info(self) -> Mapping[str, Any]:
        """JSON-compatible facts: prompt, success, variant, method, ..."""
        ...

    @property
    def env_step(self) -> NumpyArray:
        """(c,) environment step of every call."""
        ...

    @property
    def images(self) -> Mapping[str, NumpyArray]:
        """Camera -> (c, h, w, 3) uint8, before the letterbox."""
        ...

    @property
    def objects(self) -> tuple[str, ...]:
        """Names of the objects of the masks."""
        ...

    @property
    def roles(self) -> Mapping[str, str]:
        """Object -> role."""
        ...

    @property
    def masks(self) -> Mapping[str, NumpyArray]:
        """Camera -> (c, o, h, w) bool; may be empty."""
        ...

    @property
    def actions(self) -> NumpyArray | None:
        """(c, H, a) action chunks."""
        ...

    @property
    def calibration(self) -> Mapping[str, Calibration]:
        """Camera -> where it is and how far it sees at every call; may be empty."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """One run of an episode.

    Attributes:
      episode: what the policy saw and did.
      reader: its attention on disk; None when none was recorded.
      key: of the variant; empty for the run itself.
    """

    episode: EpisodeData
    reader: RecordReader | None
    key: str = ""

    @property
    def kind(self) -> str:
        """What comparison a variant makes: `noise`, `paraphrase`, `counterfactual`, ..."""
        info = self.episode.info
        if "intervention" in info:
            facts = info["intervention"]
            return str(facts.get("kind", "occlusion") if isinstance(facts, Mapping) else facts)
        for name in ON_PURPOSE:
            if name in info:
                return name
        method = str(info.get("method") or "")
        if method in ("", "none"):
            return "noise" if self.key else ""
        return KINDS.get(method, method)

    def steps(self) -> Int[NumpyArray, "call"]:
        """Environment steps of the recorded calls."""
        return np.asarray(self._reader().env_step, np.int64)

    def places(self) -> Int[NumpyArray, "call"]:
        """Which calls of the episode were recorded.

        Raises:
          RecordError: a recorded call that the episode does not have.
        """
        steps = self.steps()
        known = np.asarray(self.episode.env_step)
        found = np.searchsorted(known, steps)
        bad = (found >= len(known)) | (known[np.minimum(found, len(known) - 1)] != steps)
        if bad.any():
            raise RecordError(
                f"call at step {steps[bad][0]} was recorded, the episode has no such call",
                where=self._reader().folder,
            )
        return found

    def _reader(self) -> RecordReader:
        if self.reader is None:
            raise MissingInputError(
                "no attention was recorded",
                where=self.key or "base",
                fix="Run launch.evaluate with --capture",
            )
        return self.reader

    def record(self, names: Sequence[str]) -> AttentionRecord | None:
        """The first of these records that the run has."""
        reader = self._reader()
        for name in names:
            if name in reader.names:
                return reader.record(name)
        return None

    @functools.cached_property
    def _coverage(self) -> dict[Any, NumpyArray]:
        return {}

    def coverage(
        self, camera: str, grid: geometry.Size, target: geometry.Size
    ) -> Float[NumpyArray, "call o gh gw"]:
        """Share of every patch that each object covers, at the recorded calls; computed once.

        Raises:
          MissingInputError: no masks of that camera.
        """
        key = camera, grid, target
        if key not in self._coverage:
            if camera not in self.episode.masks or not self.episode.objects:
                raise MissingInputError(
                    f"the episode has no object masks of camera {camera!r}",
                    where=self.key or "base",
                    fix="Record with masks, or leave hypotheses about objects out",
                )
            masks = self.episode.masks[camera][self.places()]
            self._coverage[key] = overlap.patch_coverage(masks, grid, target)
        return self._coverage[key]


@dataclasses.dataclass(frozen=True, eq=False)
class Study:
    """An episode and the runs it is compared with.

    Attributes:
      name: unique name of the episode.
      base: the run itself.
      variants: key -> run on the same frames with another prompt, noise or intervention.
      action_std: (a,) of the whole run, from `shift.action_std`; the unit in which actions are
        compared. None where no actions are compared.
    """

    name: str
    base: Source
    variants: Mapping[str, Source] = dataclasses.field(default_factory=dict)
    action_std: NumpyArray | None = None

    def units(self) -> Float[NumpyArray, "a"]:
        """`action_std`.

        Raises:
          RecordError: it was not given, or not for the dimensions that the base has.
        """
        actions = self.base.episode.actions
        if self.action_std is None:
            raise RecordError(
                "actions are compared without the spread that they have in the run",
                where=self.name,
                fix="Give Study the action_std that shift.action_std finds over all episodes",
            )
        if actions is not None and actions.shape[-1] != len(self.action_std):
            raise RecordError(
                f"{actions.shape[-1]} action dimensions, the run has {len(self.action_std)}",
                where=self.name,
            )
        return self.action_std

    @property
    def outcome(self) -> str:
        """`success`, `failure` or `unknown`."""
        success = self.base.episode.info.get("success")
        return UNKNOWN if success is None else SUCCESS if success else FAILURE

    def of_kind(self, *kinds: str) -> dict[str, Source]:
        """Variants of some kinds; of any kind when none is named."""
        return {k: v for k, v in self.variants.items() if not kinds or v.kind in kinds}


@dataclasses.dataclass(frozen=True, eq=False)
class CameraMaps:
    """Attention of one query group on one camera.

    Attributes:
      values: (call, denoise, layer, head, gh, gw) floating, mean over the rows of the group.
      env_step: environment step of every call.
      layers, heads, denoise: numbers on those axes; heads empty when they were averaged.
      box: (top, left, height, width) that the grid fills, pixels of the model's input.
    """

    values: NumpyArray
    env_step: NumpyArray
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    denoise: tuple[int, ...]
    box: geometry.Box

    @property
    def grid(self) -> geometry.Size:
        """Rows and columns of patches."""
        return self.values.shape[-2], self.values.shape[-1]

    @property
    def target(self) -> geometry.Size:
        """(height, width) of the model's input, pixels."""
        top, left, height, width = self.box
        return 2 * top + height, 2 * left + width

    def joined(self, denoise: str = "mean") -> Float[NumpyArray, "call layer head gh gw"]:
        """Without the denoise axis: `mean`, `first` or `last` step."""
        if denoise == "mean":
            return self.values.mean(1, dtype=np.float64)
        return self.values[:, 0 if denoise == "first" else -1].astype(np.float64)

    @property
    def head_labels(self) -> tuple[int, ...]:
        """Numbers of the heads; -1 for their mean."""
        return self.heads or (-1,)


def camera_group(layout: TokenLayout, camera: str) -> TokenGroup:
    """The patch grid of a camera: `image/<camera>`.

    Raises:
      LayoutError: no such camera, or a dummy.
    """
    found = [g for g in layout.groups if g.grid and g.name in (camera, f"image/{camera}")]
    if not found or not found[0].valid:
        cameras = [g.name.removeprefix("image/") for g in layout.groups if g.grid and g.valid]
        raise LayoutError(f"no camera {camera!r} in this record", fix=f"Cameras: {cameras}")
    return found[0]


def cameras_of(source: Source) -> tuple[str, ...]:
    """Cameras of the episode whose attention may have been recorded, in the episode's order."""
    return tuple(source.episode.images)


def camera_maps(source: Source, stream: str, query: str, camera: str) -> CameraMaps:
    """Maps of a query group on a camera, from the cheapest record that has them.

    Raises:
      MissingInputError: no record has them; names the capture selection that would.
    """
    reduced = source.record([f"{stream}.patch_map"])
    if reduced is not None and query in reduced.query_names:
        with recorded(stream, query):
            group = camera_group(reduced.layout, camera)
        row = reduced.query_names.index(query)
        columns = reduced.layout.positions(group.name, "key")

        def pick(number: int) -> NumpyArray:
            return np.asarray(reduced.values[number])[..., row, columns]

        return _gather(source, reduced, group, len(columns), pick)
    whole = source.record([stream, f"{stream}.head_mean"])
    if whole is None:
        have = "" if source.reader is None else f", the run has {', '.join(source.reader.names)}"
        raise MissingInputError(
            f"no maps of {query!r} in stream {stream!r}{have}",
            where=source.key or "base",
            fix=capture_fix(stream, "patch_map", query),
        )
    record = whole

    def join(number: int) -> NumpyArray:
        return reduce.reduce_record(
            call_of(record, number), query=query, key=group.name, heads="each"
        )[0]

    with recorded(stream, query):
        group = camera_group(record.layout, camera)
        return _gather(source, record, group, len(group.indices), join)


@contextlib.contextmanager
def recorded(stream: str, query: str, reduction: str = "patch_map") -> Iterator[None]:
    """Turns a `LayoutError` of a record that is whole into `MissingInputError`.

    Names of groups come from the capture selection, so a group that is not there was not asked for.
    """
    try:
        yield
    except LayoutError as error:
        raise MissingInputError(
            error.what,
            where=f"stream {stream!r}",
            fix=". ".join(filter(None, (error.fix, capture_fix(stream, reduction, query)))),
        ) from error


def capture_fix(stream: str, reduction: str, query: str = "all") -> str:
    """A sentence that names the capture selection to record with."""
    return f"Record with --capture='streams={stream};layers=all;queries={query};reduce={reduction}'"


def call_of(record: AttentionRecord, number: int) -> AttentionRecord:
    """The record of one call with the layout of that call, its values read."""
    return record.call(number)


def _gather(
    source: Source,
    record: AttentionRecord,
    group: TokenGroup,
    patches: int,
    pick: Callable[[int], NumpyArray],
) -> CameraMaps:
    """Stacks the calls; `pick` gives (denoise, layer, head, ...patches)."""
    assert group.grid is not None
    if patches != group.grid[0] * group.grid[1]:
        raise MissingInputError(
            f"{patches} of {group.grid[0] * group.grid[1]} patches of {group.name!r} were recorded",
            fix="Record whole pictures: keys=all or keys=image/*",
        )
    shape = (*record.shape[1:4], *group.grid)
    values = np.empty((record.shape[0], *shape), np.float32)
    for number in range(record.shape[0]):
        values[number] = pick(number).reshape(shape)
    rows, columns = group.grid
    return CameraMaps(
        values,
        source.steps(),
        record.layers,
        record.heads,
        record.denoise,
        group.box or (0, 0, 14 * rows, 14 * columns),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class GroupMasses:
    """Mass of a query group on named key groups.

    Attributes:
      names: key groups.
      values: (call, denoise, layer, head, group) float64.
      env_step: environment step of every call.
      layers, heads: numbers on those axes.
      complete: whether all mass of a row is on these groups.
    """

    names: tuple[str, ...]
    values: NumpyArray
    env_step: NumpyArray
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    complete: bool


def mass_records(stream: str) -> tuple[str, ...]:
    """Records that `group_masses` can read, the cheapest first."""
    return f"{stream}.group_mass", stream, f"{stream}.head_mean"


def group_masses(source: Source, stream: str, query: str) -> GroupMasses:
    """Shares of every covering key group that was recorded, from `group_mass` or whole maps.

    Groups whose tokens differ from call to call are counted in each call by its own layout.

    Raises:
      MissingInputError: neither was recorded.
    """
    record = source.record(mass_records(stream))
    if record is None:
        raise MissingInputError(
            f"no masses of stream {stream!r}",
            where=source.key or "base",
            fix=capture_fix(stream, "group_mass", query),
        )
    calls = [call_of(record, number) for number in range(record.shape[0])]
    names = record.key_names or tuple(
        dict.fromkeys(name for call in calls for name in _recorded_groups(call.layout))
    )
    values = np.zeros((len(calls), *record.shape[1:4], len(names)))
    for number, call in enumerate(calls):
        here = [n for n in names if record.key_names or n in call.layout.names]
        with recorded(stream, query, "group_mass"):
            found = flowmaps.group_mass(call, here, query=query)[0]
        values[number][..., [names.index(n) for n in here]] = found
    complete = record.complete_rows or bool((values.sum(-1) > 1 - 1e-2).all())
    return GroupMasses(names, values, source.steps(), record.layers, record.heads, complete)


def _recorded_groups(layout: TokenLayout) -> list[str]:
    """Groups of which the key axis has tokens."""
    kept = set(layout.axis_tokens("key").tolist())
    return [group.name for group in layout.groups if kept & set(group.indices)]
