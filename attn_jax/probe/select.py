"""What to keep of a model's attention: the selection, its text form, its resolution to positions.

A `Selection` is what a user asks for, by name; `resolve` turns it into a `Plan`, which is static
while a program is traced: positions on every axis and the names that the reductions put there. Axes
are those of `core.record`: call, denoise, layer, head, query, key. A selection decides which values
are kept and never changes a value: the mass of a group is taken over all of its keys whatever else
is selected.

    selection = Selection.parse("streams=decoder;layers=last:2;reduce=full,group_mass")
    plan = resolve(selection, {"decoder": Stream(layout, num_layers=8, num_heads=4)})
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from attn_jax.core.errors import ConfigError, LayoutError
from attn_jax.core.layout import TokenLayout
from attn_jax.core.record import REDUCTIONS
from attn_jax.probe.select_fields import Numbers, checked_numbers, parse_field

DTYPES = ("float16", "float32", "u8row")
ALL_KEYS = "all"  # name that `entropy` gives to the whole row


@dataclasses.dataclass(frozen=True)
class Selection:
    """What to keep of every call.

    Attributes:
      streams: names of streams, or `("all",)`.
      layers: "all", "last:n" (all, where a stream has fewer) or layer numbers.
      heads: "all" or head numbers.
      denoise: "all" or denoising steps.
      queries: groups, aliases, patterns (`frame*`), `valid` or `all`: the rows of token-level maps,
        and the groups over which `patch_map` averages.
      keys: the same for the columns of token-level maps and the groups of `group_mass` and
        `entropy`.
      every_n: keep the calls 0, n, 2n, ...
      reduce: any of `full`, `head_mean`, `patch_map`, `group_mass`, `entropy`; one of a single
        stream is written as its record is called, `suffix.head_mean`.
      dtype: `float16`, `float32` (lossless) or `u8row`, for the maps; `group_mass` and `entropy`
        are small and always float32.
      valid_keys_only: leave out the keys of invalid groups, which no query attends to; a reader
        puts their exact zeros back.

    Raises:
      ConfigError: a value outside the above.
    """

    streams: tuple[str, ...] = ("all",)
    layers: Numbers = "last:2"
    heads: Numbers = "all"
    denoise: Numbers = "all"
    queries: tuple[str, ...] = ("all",)
    keys: tuple[str, ...] = ("all",)
    every_n: int = 1
    reduce: tuple[str, ...] = ("patch_map", "group_mass", "entropy")
    dtype: str = "float16"
    valid_keys_only: bool = False

    def __post_init__(self):
        for field in ("streams", "queries", "keys", "reduce"):
            if isinstance(getattr(self, field), str) or not getattr(self, field):
                raise ConfigError(f"selection field {field} takes one or more names")
            object.__setattr__(self, field, tuple(dict.fromkeys(getattr(self, field))))
        for field in ("layers", "heads", "denoise"):
            object.__setattr__(self, field, checked_numbers(field, getattr(self, field)))
        unknown = [name for name in self.reduce if name.rpartition(".")[2] not in REDUCTIONS]
        if unknown:
            raise ConfigError(
                f"unknown reduction {unknown[0]!r}", fix=f"reduce takes: {', '.join(REDUCTIONS)}"
            )
        if self.dtype not in DTYPES:
            raise ConfigError(
                f"unknown dtype {self.dtype!r}", fix=f"dtype takes: {', '.join(DTYPES)}"
            )
        if self.every_n < 1:
            raise ConfigError(f"every_n must be at least 1, got {self.every_n}")

    @classmethod
    def parse(cls, text: str) -> Selection:
        """Reads the text form of a flag.

        `all` keeps every full map of every layer. Otherwise `field=value;field=value`, where lists
        are separated by commas and fields left out have their defaults.

        Raises:
          ConfigError: an unknown field or value, with the allowed ones.
        """
        if text.strip() == "all":
            return cls(layers="all", reduce=("full",))
        fields = [field.name for field in dataclasses.fields(cls)]
        values: dict[str, Any] = {}
        for item in filter(None, (part.strip() for part in text.split(";"))):
            name, equals, value = (part.strip() for part in item.partition("="))
            if name not in fields or (not equals and name != "valid_keys_only"):
                raise ConfigError(
                    f"cannot read {item!r} in the capture selection",
                    fix=f"Write `all`, or field=value;field=value with {', '.join(fields)}",
                )
            if name in values:
                raise ConfigError(f"selection field {name} is given twice")
            values[name] = parse_field(name, value)
        if not values:
            raise ConfigError("the capture selection is empty", fix="Write `all` or field=value")
        return cls(**values)

    def wants(self, call: int) -> bool:
        """Whether call number `call` (from 0) is one of every n-th that is kept."""
        return call % self.every_n == 0

    def reductions_of(self, stream: str) -> tuple[str, ...]:
        """The reductions of one stream, without its name in front."""
        parts = (name.rpartition(".") for name in self.reduce)
        return tuple(dict.fromkeys(name for of, _, name in parts if of in ("", stream)))

    def layers_of(self, num_layers: int, stream: str) -> tuple[int, ...]:
        """Numbers of the layers that are kept of a stream with so many; raises `ConfigError`."""
        return _choose("layers", self.layers, num_layers, stream)

    def to_json(self) -> dict[str, Any]:
        """A JSON-compatible dict of all fields."""
        return {
            name: [*value] if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self).items()
        }


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """One attention stream of a model, as the model has it before any selection.

    Attributes:
      layout: names of its tokens; its query and key axes are those of the model's attention maps.
      num_layers: layers that attend in this stream.
      num_heads: query heads.
      num_denoise: denoising steps; 1 for a stream without denoising.
      queries, keys: positions on the layout's axes that the program has, ascending; None for all. A
        program that leaves out masked tokens has fewer than its layout; `groups.expand` puts them
        back.
    """

    layout: TokenLayout
    num_layers: int
    num_heads: int
    num_denoise: int = 1
    queries: tuple[int, ...] | None = None
    keys: tuple[int, ...] | None = None

    def program_tokens(self, axis: str) -> np.ndarray:
        """Token of every position on the program's `axis` ("query" or "key"), (n,) int64."""
        present = self.queries if axis == "query" else self.keys
        tokens = self.layout.axis_tokens(axis)
        return tokens if present is None else tokens[list(present)]


@dataclasses.dataclass(frozen=True, eq=False)
class StreamPlan:
    """What is kept of one stream, by position.

    Attributes:
      stream: name.
      source: the stream before selection.
      layout: layout of the kept token axes.
      layers, heads, denoise: kept numbers, in ascending order.
      query_positions, key_positions: kept positions on the query and key axes of the source layout.
      reductions: kept reductions that this stream has.
      patch_layout: layout of `patch_map`, whose keys are the kept image tokens; None without
        images.
      query_groups: names on the query axis of `patch_map`.
      key_groups: names on the key axis of `group_mass` and, followed by `all`, of `entropy`.
      complete_rows: whether the kept keys hold all the mass of a row.
      complete_masses: whether `key_groups` hold all the mass of a row.
      compact_keys: positions on the kept key axis that belong to valid groups when only those are
        to be stored, else None.
    """

    stream: str
    source: Stream
    layout: TokenLayout
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    denoise: tuple[int, ...]
    query_positions: tuple[int, ...]
    key_positions: tuple[int, ...]
    reductions: tuple[str, ...]
    patch_layout: TokenLayout | None
    query_groups: tuple[str, ...]
    key_groups: tuple[str, ...]
    complete_rows: bool
    complete_masses: bool
    compact_keys: tuple[int, ...] | None

    def mass_weights(self) -> np.ndarray:
        """Share of every key of the program in every key group, (group, key) float32.

        Fractional where the layout knows that a patch straddles two regions.
        """
        tokens = self.source.program_tokens("key")
        return np.stack([group_shares(self.source.layout, name) for name in self.key_groups])[
            :, tokens
        ]

    def members(self, names: Sequence[str], axis: str) -> np.ndarray:
        """Hard membership of the program's queries or keys in groups, (group, n) float32."""
        return self.source.layout.membership(names)[:, self.source.program_tokens(axis)]

    def query_weights(self) -> np.ndarray:
        """Weight of every query of the program in the mean over each query group, (group, query).

        The weights of a group sum to 1; float32.
        """
        members = self.members(self.query_groups, "query")
        return members / members.sum(axis=1, keepdims=True)

    def entropy_members(self) -> np.ndarray:
        """Membership of the program's keys in the groups of `entropy`, (group + 1, key) float32."""
        members = self.members(self.key_groups, "key")
        return np.concatenate([members, np.ones((1, members.shape[1]), np.float32)])

    def program_positions(self, axis: str) -> tuple[int, ...]:
        """Positions on the program's `axis` of the kept tokens that the program has."""
        kept = self.query_positions if axis == "query" else self.key_positions
        present = self.source.queries if axis == "query" else self.source.keys
        return kept if present is None else _places(np.asarray(present), np.asarray(kept))

    def patch_positions(self) -> tuple[int, ...]:
        """Positions on the program's key axis of the image keys of `patch_map`."""
        assert self.patch_layout is not None  # resolve() leaves patch_map out otherwise
        patches = self.patch_layout.axis_tokens("key")
        return _places(self.source.program_tokens("key"), patches)


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """A selection resolved against the streams of one model; static while a program is traced."""

    selection: Selection
    streams: Mapping[str, StreamPlan]


def resolve(selection: Selection, streams: Mapping[str, Stream]) -> Plan:
    """Turns names into positions.

    Args:
      selection: what to keep.
      streams: every stream of the model by name.

    Raises:
      ConfigError: a stream, layer, head or step that the model does not have, or `patch_map` alone
        on streams without image keys.
      LayoutError: a group that no selected stream has, or a stream that has none of the groups.
    """
    names = tuple(streams) if "all" in selection.streams else selection.streams
    unknown = [name for name in names if name not in streams]
    if unknown:
        raise ConfigError(
            f"the model has no stream {unknown[0]!r}",
            fix=f"streams takes: all, {', '.join(streams)}",
        )
    names = tuple(name for name in names if selection.reductions_of(name))
    layouts = [streams[name].layout for name in names]
    plans = {}
    for name in names:
        mine = dataclasses.replace(
            selection,
            queries=_of_stream(selection.queries, streams[name].layout, layouts),
            keys=_of_stream(selection.keys, streams[name].layout, layouts),
        )
        plans[name] = _resolve_stream(mine, name, streams[name])
    for reduction in selection.reduce:
        stream, _, reduction = reduction.rpartition(".")
        if stream and stream not in names:
            raise ConfigError(
                f"reduce={stream}.{reduction} is of a stream that is not captured",
                fix=f"Captured streams: {', '.join(names)}",
            )
        if not any(reduction in plan.reductions for plan in plans.values()):
            raise ConfigError(
                f"no key that was selected in {', '.join(names)} is an image patch, so there is "
                f"nothing for {reduction!r}",
                fix="Select image keys, or another reduction",
            )
    return Plan(selection, plans)


def _of_stream(
    groups: tuple[str, ...], layout: TokenLayout, layouts: Sequence[TokenLayout]
) -> tuple[str, ...]:
    """The groups without those that only other streams have; all of them if none would be left."""

    def known(name: str, where: TokenLayout) -> bool:
        everything = name in ("all", "valid")
        groups = (*where.groups, *where.aliases)
        return everything or any(fnmatch.fnmatchcase(group.name, name) for group in groups)

    elsewhere = {n for n in groups if not known(n, layout) and any(known(n, o) for o in layouts)}
    return tuple(name for name in groups if name not in elsewhere) or groups


def _resolve_stream(selection: Selection, name: str, source: Stream) -> StreamPlan:
    layout = source.layout
    invalid = {i for group in layout.groups if not group.valid for i in group.indices}
    for axis in ("query", "key"):
        left_out = {*layout.axis_tokens(axis).tolist()} - {*source.program_tokens(axis).tolist()}
        if not left_out <= invalid:
            raise LayoutError(
                f"the program leaves out token {min(left_out - invalid)}, which is valid",
                where=f"{axis} axis of stream {name!r}",
            )
    try:
        kept = layout.restrict(
            queries=None if "all" in selection.queries else selection.queries,
            keys=None if "all" in selection.keys else selection.keys,
        )
        query_groups = _group_names(layout, selection.queries, "query", skip_invalid=True)
        key_groups = _group_names(layout, selection.keys, "key", skip_invalid=False)
    except LayoutError as error:
        raise LayoutError(
            error.what,
            where=f"capture selection, stream {name!r}",
            fix=error.fix or "Limit `streams` to those that have it",
        ) from error
    key_tokens = kept.axis_tokens("key")
    image_tokens = {
        i for group in layout.groups if group.grid and group.valid for i in group.indices
    }
    patches = tuple(int(token) for token in key_tokens if int(token) in image_tokens)
    source_keys = layout.axis_tokens("key")
    valid_places = valid_positions(kept, "key")
    missing = {int(token) for token in source_keys} - {int(token) for token in key_tokens}
    compact = selection.valid_keys_only and 0 < len(valid_places) < len(key_tokens)
    return StreamPlan(
        stream=name,
        source=source,
        layout=kept,
        layers=selection.layers_of(source.num_layers, name),
        heads=_choose("heads", selection.heads, source.num_heads, name),
        denoise=_choose("denoise", selection.denoise, source.num_denoise, name),
        query_positions=_places(layout.axis_tokens("query"), kept.axis_tokens("query")),
        key_positions=_places(source_keys, key_tokens),
        reductions=tuple(
            reduction
            for reduction in selection.reductions_of(name)
            if reduction != "patch_map" or (patches and query_groups)
        ),
        patch_layout=dataclasses.replace(kept, keys=patches) if patches else None,
        query_groups=query_groups,
        key_groups=key_groups,
        # Keys of invalid groups hold no mass, so a row stays whole without them.
        complete_rows=missing <= invalid,
        complete_masses=_covers(layout, key_groups, {int(i) for i in source_keys} - invalid),
        compact_keys=valid_places if compact else None,
    )


def valid_positions(layout: TokenLayout, axis: str) -> tuple[int, ...]:
    """Positions on `axis` whose token belongs to a valid group."""
    invalid = {i for group in layout.groups if not group.valid for i in group.indices}
    return tuple(i for i, t in enumerate(layout.axis_tokens(axis)) if int(t) not in invalid)


def _places(tokens: np.ndarray, kept: np.ndarray) -> tuple[int, ...]:
    """Places in `tokens` of those of `kept` that are there."""
    place = {int(token): i for i, token in enumerate(tokens)}
    return tuple(place[int(token)] for token in kept if int(token) in place)


def _group_names(
    layout: TokenLayout, names: Sequence[str], axis: str, *, skip_invalid: bool
) -> tuple[str, ...]:
    """Groups that `names` mean on `axis`, in the order asked for, without repeats."""
    present = {int(token) for token in layout.axis_tokens(axis)}
    on_axis = [group for group in layout.groups if present.intersection(group.indices)]
    aliases = [group for group in layout.aliases if present.intersection(group.indices)]
    found: list[str] = []
    for name in names:
        if name in ("all", "valid"):
            drop_invalid = skip_invalid or name == "valid"
            found += [group.name for group in on_axis if group.valid or not drop_invalid]
        elif any(sign in name for sign in "*?["):
            hits = [g.name for g in on_axis if fnmatch.fnmatchcase(g.name, name)]
            # A pattern means aliases only when it means no group, so that no mass counts twice.
            found += hits or [g.name for g in aliases if fnmatch.fnmatchcase(g.name, name)]
        elif axis == "key" or present.intersection(layout.group(name).indices):
            # Queries of another stream make no mean here; `restrict` refuses if all are such.
            found.append(layout.group(name).name)
    return tuple(dict.fromkeys(found))


def group_shares(layout: TokenLayout, name: str) -> np.ndarray:
    """Share of every token in a group or in an alias made of whole groups, (length,) float32."""
    if layout.coverage is None:
        return layout.membership([name])[0]
    if name in layout.names:
        return layout.fractions([name])[0]
    tokens = set(layout.group(name).indices)
    parts = [group for group in layout.groups if tokens.issuperset(group.indices)]
    if tokens != {i for group in parts for i in group.indices}:
        return layout.membership([name])[0]
    return layout.fractions([group.name for group in parts]).sum(axis=0)


def _covers(layout: TokenLayout, names: Sequence[str], tokens: set[int]) -> bool:
    total = np.sum([group_shares(layout, name) for name in names], axis=0)
    return bool(np.allclose(total[sorted(tokens)], 1.0, atol=1e-6))


def _choose(field: str, wanted: Numbers, size: int, stream: str) -> tuple[int, ...]:
    if wanted == "all":
        return tuple(range(size))
    if isinstance(wanted, str):
        return tuple(range(size))[-int(wanted.removeprefix("last:")) :]
    outside = [number for number in wanted if not 0 <= number < size]
    if outside:
        raise ConfigError(
            f"{field}: {outside[0]} is outside 0..{size - 1}, what stream {stream!r} has"
        )
    return tuple(sorted(wanted))
