"""TokenLayout: the only place that knows which token is what.

A layout describes one token sequence (the keys of an attention stream) as named groups: a camera,
the word "cube", action 7, canvas slot 2, an action separator. It also says which tokens stand on
the query axis and which on the key axis of a recorded map, so a record that kept only some of them
still answers by name. No integer token offset exists anywhere else.

Axis names: `query`, `key`; grids are (gh, gw), row-major.

    groups = (TokenGroup("image/wrist", (0, 1, 2, 3), (2, 2)), TokenGroup("action", (4, 5)))
    layout = TokenLayout(6, groups)
    layout.select(probs, query="action", key="image/wrist")      # (..., 2, 2, 2): query, gh, gw
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from attn_jax.core.errors import LayoutError


@dataclasses.dataclass(frozen=True)
class TokenGroup:
    """A named set of tokens of one sequence.

    Attributes:
      name: path-like name, for example `image/wrist`, `text/word/cube`, `action`, `sep0`.
      indices: positions in the sequence, in raster order when `grid` is set.
      grid: (rows, columns) when the tokens are image patches, with rows * columns == len(indices).
      box: (top, left, height, width) in pixels of the model's input image that the grid covers.
      valid: False for tokens that no real query may rely on (padding, a dummy camera).
      labels: one string per token (words, action numbers), or empty.
      ids: what the tokenizer calls each token, or empty.
    """

    name: str
    indices: tuple[int, ...]
    grid: tuple[int, int] | None = None
    box: tuple[int, int, int, int] | None = None
    valid: bool = True
    labels: tuple[str, ...] = ()
    ids: tuple[int, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "indices", tuple(int(i) for i in self.indices))
        object.__setattr__(self, "ids", tuple(int(i) for i in self.ids))
        if self.grid is not None:
            object.__setattr__(self, "grid", (int(self.grid[0]), int(self.grid[1])))
            if self.grid[0] * self.grid[1] != len(self.indices):
                raise LayoutError(
                    f"grid {self.grid} does not hold {len(self.indices)} tokens", where=self.name
                )
        for field in ("labels", "ids"):
            found = getattr(self, field)
            if found and len(found) != len(self.indices):
                raise LayoutError(
                    f"{len(found)} {field} for {len(self.indices)} tokens", where=self.name
                )


@dataclasses.dataclass(frozen=True)
class TokenLayout:
    """Names of the tokens of one attention stream.

    Attributes:
      length: number of tokens of the full sequence.
      groups: disjoint groups that together cover every token exactly once.
      aliases: further groups that may overlap others (word spans, "text", "history").
      queries: token of each position on the query axis; None means all tokens in order.
      keys: token of each position on the key axis; None means all tokens in order.
      coverage: optional fractional membership, group name -> (length,) in [0, 1]; the fractions of
        every token sum to 1 over the groups. Used where a patch straddles two regions.
    """

    length: int
    groups: tuple[TokenGroup, ...]
    aliases: tuple[TokenGroup, ...] = ()
    queries: tuple[int, ...] | None = None
    keys: tuple[int, ...] | None = None
    coverage: Mapping[str, tuple[float, ...]] | None = None

    def __post_init__(self):
        object.__setattr__(self, "groups", tuple(self.groups))
        object.__setattr__(self, "aliases", tuple(self.aliases))
        seen = np.zeros(self.length, np.int32)
        for group in self.groups:
            if group.indices and not 0 <= min(group.indices) <= max(group.indices) < self.length:
                raise LayoutError(f"index outside 0..{self.length - 1}", where=group.name)
            np.add.at(seen, np.asarray(group.indices, np.int64), 1)
        if not np.all(seen == 1):
            token = int(np.flatnonzero(seen != 1)[0])
            raise LayoutError(f"token {token} belongs to {int(seen[token])} groups instead of one")
        names = [group.name for group in (*self.groups, *self.aliases)]
        if len(set(names)) != len(names):
            raise LayoutError(f"group names repeat: {sorted(names)}")
        for axis in ("queries", "keys"):
            value = getattr(self, axis)
            if value is not None:
                object.__setattr__(self, axis, tuple(int(i) for i in value))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the covering groups, in layout order."""
        return tuple(group.name for group in self.groups)

    def group(self, name: str) -> TokenGroup:
        """The group or alias called `name`; raises `LayoutError` listing the known names."""
        for group in (*self.groups, *self.aliases):
            if group.name == name:
                return group
        known = ", ".join(g.name for g in (*self.groups, *self.aliases))
        raise LayoutError(f"unknown token group {name!r}", fix=f"Known groups: {known}")

    def tokens(self, names: str | Sequence[str]) -> np.ndarray:
        """Tokens of one or several groups, (n,) int64, in the order asked for, without repeats.

        A name may be a group, an alias, a shell pattern over both (`image/*`), `all`, or `valid`
        (all tokens of valid groups).
        """
        chosen: list[int] = []
        for name in [names] if isinstance(names, str) else names:
            chosen.extend(self._tokens_of(name))
        return np.asarray(list(dict.fromkeys(chosen)), np.int64)

    def _tokens_of(self, name: str) -> Iterable[int]:
        if name == "all":
            return range(self.length)
        if name == "valid":
            return sorted(i for group in self.groups if group.valid for i in group.indices)
        if any(c in name for c in "*?["):
            hits = [g for g in (*self.groups, *self.aliases) if fnmatch.fnmatchcase(g.name, name)]
            if not hits:
                raise LayoutError(f"no token group matches {name!r}", fix=f"Known: {self.names}")
            return [i for group in hits for i in group.indices]
        return self.group(name).indices

    def axis_tokens(self, axis: str) -> np.ndarray:
        """Token of every position on `axis` ("query" or "key"), (n,) int64."""
        kept = self.queries if axis == "query" else self.keys
        return np.arange(self.length) if kept is None else np.asarray(kept, np.int64)

    def positions(self, names: str | Sequence[str], axis: str) -> np.ndarray:
        """Positions on `axis` of the recorded tokens of `names`, (n,) int64.

        Raises:
          LayoutError: when none of the tokens was recorded on that axis.
        """
        place = {int(token): i for i, token in enumerate(self.axis_tokens(axis))}
        found = [place[int(token)] for token in self.tokens(names) if int(token) in place]
        if not found:
            raise LayoutError(f"no token of {names!r} is on the {axis} axis of this record")
        return np.asarray(found, np.int64)

    def restrict(
        self,
        *,
        queries: str | Sequence[str] | None = None,
        keys: str | Sequence[str] | None = None,
    ) -> TokenLayout:
        """The layout of a record that keeps only these groups on its axes (None keeps an axis)."""
        new_q = self.queries if queries is None else self._kept(queries, "query")
        new_k = self.keys if keys is None else self._kept(keys, "key")
        return dataclasses.replace(self, queries=new_q, keys=new_k)

    def _kept(self, names: str | Sequence[str], axis: str) -> tuple[int, ...]:
        return tuple(int(i) for i in self.axis_tokens(axis)[self.positions(names, axis)])

    def select(self, probs: Any, *, query: str | None = None, key: str | None = None) -> Any:
        """Takes named queries and keys from `probs` (..., query, key) and unfolds patch grids.

        Args:
          probs: array whose last two axes are query and key of this layout (NumPy or JAX).
          query: group name for the query axis; None leaves the axis alone.
          key: group name for the key axis; None leaves the axis alone.

        Returns:
          (..., query[, or gh, gw], key[, or gh, gw]): an axis becomes (gh, gw) when its group has a
          grid and all of its tokens were recorded.
        """
        expected = (len(self.axis_tokens("query")), len(self.axis_tokens("key")))
        if probs.shape[-2:] != expected:
            raise LayoutError(
                f"array ends in {probs.shape[-2:]}, the layout in {expected} (query, key)"
            )
        out_q = self.positions(query, "query") if query is not None else None
        out_k = self.positions(key, "key") if key is not None else None
        out = probs if out_q is None else probs[..., out_q, :]
        out = out if out_k is None else out[..., out_k]
        q_shape = self._unfolded(query, out_q, out.shape[-2])
        k_shape = self._unfolded(key, out_k, out.shape[-1])
        return out.reshape(*out.shape[:-2], *q_shape, *k_shape)

    def _unfolded(self, name: str | None, found: np.ndarray | None, size: int) -> tuple[int, ...]:
        if name is None or found is None or any(c in name for c in "*?["):
            return (size,)
        if name in ("all", "valid"):
            return (size,)
        grid = self.group(name).grid
        return grid if grid is not None and grid[0] * grid[1] == len(found) else (size,)

    def membership(self, names: Sequence[str] | None = None) -> np.ndarray:
        """Hard membership matrix, (groups, length) float32, of `names` (default: every group)."""
        chosen = self.names if names is None else tuple(names)
        matrix = np.zeros((len(chosen), self.length), np.float32)
        for row, name in enumerate(chosen):
            matrix[row, self.tokens(name)] = 1.0
        return matrix

    def fractions(self, names: Sequence[str] | None = None) -> np.ndarray:
        """Fractional membership, (groups, length) float32; falls back to hard membership."""
        chosen = self.names if names is None else tuple(names)
        if self.coverage is None:
            return self.membership(chosen)
        return np.stack([np.asarray(self.coverage[name], np.float32) for name in chosen])

    def without_ids(self) -> TokenLayout:
        """The same names for tokens of any id."""
        groups = tuple(dataclasses.replace(group, ids=()) for group in self.groups)
        return dataclasses.replace(self, groups=groups)

    def to_json(self) -> dict[str, Any]:
        """A JSON-compatible dict; index lists are run-length coded as [start, stop, step]."""
        out: dict[str, Any] = {"length": self.length}
        for field in ("groups", "aliases"):
            out[field] = [
                {
                    **dataclasses.asdict(g),
                    "indices": _encode_runs(g.indices),
                    "labels": [*g.labels],
                    "ids": [*g.ids],
                }
                for g in getattr(self, field)
            ]
        for field in ("queries", "keys"):
            value = getattr(self, field)
            out[field] = None if value is None else _encode_runs(value)
        out["coverage"] = (
            None if self.coverage is None else {n: [*v] for n, v in self.coverage.items()}
        )
        return out

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TokenLayout:
        """Inverse of `to_json`; raises `LayoutError` when a field is missing or malformed."""
        try:
            groups, aliases = (
                tuple(
                    TokenGroup(
                        name=g["name"],
                        indices=_decode_runs(g["indices"]),
                        grid=None if g["grid"] is None else (g["grid"][0], g["grid"][1]),
                        box=None if g["box"] is None else tuple(g["box"]),
                        valid=g["valid"],
                        labels=tuple(g["labels"]),
                        ids=tuple(g.get("ids", ())),  # layouts of earlier versions have none
                    )
                    for g in data[field]
                )
                for field in ("groups", "aliases")
            )
            queries, keys = (
                None if data[f] is None else _decode_runs(data[f]) for f in ("queries", "keys")
            )
            coverage = data["coverage"]
            return cls(
                int(data["length"]),
                groups,
                aliases,
                queries,
                keys,
                None if coverage is None else {n: tuple(v) for n, v in coverage.items()},
            )
        except LayoutError:
            raise
        except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
            raise LayoutError(f"malformed token layout: {error!r}") from error


VARYING = "varying"


def common(layouts: Sequence[TokenLayout]) -> TokenLayout:
    """What layouts of the same tokens agree on.

    Groups and aliases that are the same in all of them stay, without ids where only these differ;
    every other token belongs to the group `varying`. An axis on which they recorded different
    tokens becomes None.

    Raises:
      LayoutError: the sequences have different lengths.
    """
    first, rest = layouts[0], layouts[1:]
    if any(other.length != first.length for other in rest):
        raise LayoutError(f"lengths differ: {sorted({layout.length for layout in layouts})}")
    if all(other == first for other in rest):
        return first

    def shared(field: str) -> tuple[TokenGroup, ...]:
        bare = [{dataclasses.replace(g, ids=()) for g in getattr(one, field)} for one in rest]
        out = []
        for group in getattr(first, field):
            if all(group in getattr(other, field) for other in rest):
                out.append(group)
            elif all(dataclasses.replace(group, ids=()) in groups for groups in bare):
                out.append(dataclasses.replace(group, ids=()))
        return tuple(out)

    groups = shared("groups")
    named = {i for group in groups for i in group.indices}
    others = tuple(i for i in range(first.length) if i not in named)
    aliases = tuple(a for a in shared("aliases") if a.name != VARYING)
    axes = {
        axis: getattr(first, axis)
        if all(getattr(other, axis) == getattr(first, axis) for other in rest)
        else None
        for axis in ("queries", "keys")
    }
    return TokenLayout(
        first.length,
        (*groups, TokenGroup(VARYING, others)) if others else groups,
        aliases,
        **axes,
    )


def _encode_runs(indices: Sequence[int]) -> list[list[int]]:
    runs: list[list[int]] = []
    for index in indices:
        if runs:
            start, stop, step = runs[-1]
            if stop == start + step and index > start:  # a run of one may still choose its step
                runs[-1] = [start, index + (index - start), index - start]
                continue
            if index == stop:
                runs[-1][1] += step
                continue
        runs.append([index, index + 1, 1])
    return runs


def _decode_runs(runs: Sequence[Sequence[int]]) -> tuple[int, ...]:
    return tuple(i for start, stop, step in runs for i in range(start, stop, step))
