"""Named reductions of attention records: which heads, which queries, how they are joined.

Everything takes an `AttentionRecord` and names from its `TokenLayout`; sums are in float64. Only
rows of real tokens are used: a query group marked invalid (padding, a dummy camera) never enters a
mean.

Heads have two reductions more, which look at whole maps:

| name | map |
|---|---|
| `focused:<k>` | mean over the k heads of each layer with the least normalised entropy |
| `count:<q>` | how many heads have more on a patch than the q-quantile of their own map |

Axis names: (call, denoise, layer, head, query, key), see `core.record`.

    maps = reduce_record(record, query="target", key="frame1", heads="mean", queries="mean")
    # (call, denoise, layer, gh, gw)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from attn_jax.analysis import focus
from attn_jax.analysis.heads import rank_heads
from attn_jax.core.errors import ConfigError, LayoutError, RecordError
from attn_jax.core.record import AttentionRecord
from attn_jax.core.typing import Float, Int, NumpyArray

_JOINS: dict[str, Callable[..., np.ndarray]] = {
    "mean": np.mean,
    "max": np.max,
    "min": np.min,
    "sum": np.sum,
    "median": np.median,
}
REDUCTIONS = (*_JOINS, "each")
FOCUSED, COUNT = "focused", "count"


def join(values: NumpyArray, how: str, axis: int) -> NumpyArray:
    """Joins one axis by name, float64.

    Args:
      values: any array.
      how: `mean`, `max`, `min`, `sum`, `median`, or `each` (keeps the axis).
      axis: the axis to join.

    Raises:
      ConfigError: for an unknown name, or an axis without positions.
    """
    if how not in REDUCTIONS:
        raise ConfigError(f"unknown reduction {how!r}", fix=f"Use one of {', '.join(REDUCTIONS)}")
    if values.shape[axis] == 0:
        raise ConfigError(f"nothing to join: axis {axis} of {values.shape} is empty")
    exact = np.asarray(values, np.float64)
    return exact if how == "each" else np.asarray(_JOINS[how](exact, axis=axis))


def head_reduction(how: str) -> tuple[str, float]:
    """(name, parameter) of a reduction of heads; the parameter is NaN where it has none.

    Raises:
      ConfigError: an unknown name, or a parameter that it cannot have.
    """
    name, _, text = how.partition(":")
    if name in REDUCTIONS and not text:
        return name, float("nan")
    try:
        parameter = float(text)
    except ValueError:
        parameter = float("nan")
    if name == FOCUSED and parameter >= 1 and parameter == int(parameter):
        return name, parameter
    if name == COUNT and 0 <= parameter < 1:
        return name, parameter
    raise ConfigError(
        f"unknown reduction of heads {how!r}",
        fix=f"Use one of {', '.join(REDUCTIONS)}, {FOCUSED}:<heads> or {COUNT}:<quantile below 1>",
    )


def focused_heads(
    entropy: Float[NumpyArray, "n layer head"], count: int
) -> Int[NumpyArray, "layer k"]:
    """Positions of the `count` heads of every layer with the least mean entropy, best first.

    Args:
      entropy: normalised entropy of every head's map in each of n calls.
      count: how many.

    Raises:
      ConfigError: more than there are.
    """
    layers, width = entropy.shape[1:]
    if count > width:
        raise ConfigError(
            f"{count} focused heads of {width}",
            fix="Keep heads apart in the capture (reduce=patch_map or full), or ask for fewer",
        )
    ranking = rank_heads(entropy, layers=range(layers), heads=range(width), seed=0, resamples=1)
    chosen: list[list[int]] = [[] for _ in range(layers)]
    for layer, head in ranking.order:
        chosen[layer].append(head)
    return np.array([found[:count] for found in chosen])


def map_entropy(
    values: Float[NumpyArray, "n layer head query key"],
) -> Float[NumpyArray, "n layer head"]:
    """Normalised entropy of every map, mean over its queries; NaN where none has mass."""
    found = focus.normalised_entropy(values)
    known = np.isfinite(found)
    count = known.sum(-1)
    total = np.where(known, found, 0.0).sum(-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def join_heads(
    values: Float[NumpyArray, "n layer head query key"],
    how: str,
    focused: Int[NumpyArray, "layer k"] | None = None,
) -> Float[NumpyArray, "n layer ..."]:
    """Joins heads by name, float64.

    Args:
      values: maps over the keys that are asked about.
      how: one of `REDUCTIONS`, `focused:<k>` or `count:<quantile>`.
      focused: heads that `focused` takes, from `focused_heads`; None finds them in these values.

    Returns:
      (n, layer, query, key), with a head axis before the query for `each`; mass, or for `count`
      a number of heads.

    Raises:
      ConfigError: an unknown name, or more focused heads than there are.
    """
    name, parameter = head_reduction(how)
    exact = np.asarray(values, np.float64)
    if name == COUNT:
        threshold = np.quantile(exact, parameter, axis=-1, keepdims=True)
        return (exact > threshold).sum(2).astype(np.float64)
    if name == FOCUSED:
        if focused is None:
            focused = focused_heads(map_entropy(exact), int(parameter))
        exact = np.take_along_axis(exact, focused[None, :, :, None, None], axis=2)
        name = "mean"
    return join(exact, name, axis=2)


def focused_of(
    record: AttentionRecord, how: str, rows: Int[NumpyArray, "n"], columns: Int[NumpyArray, "_"]
) -> Int[NumpyArray, "layer k"] | None:
    """The heads that `focused` takes from a whole record, read call by call; None for others."""
    name, parameter = head_reduction(how)
    if name != FOCUSED:
        return None
    entropy = [map_entropy(values[..., rows[:, None], columns]).mean(0) for values in calls(record)]
    return focused_heads(np.stack(entropy), int(parameter))


def valid_queries(record: AttentionRecord, query: str | None = None) -> Int[NumpyArray, "n"]:
    """Positions on the query axis of real tokens of `query` (None: of every valid group).

    Raises:
      LayoutError: when the record has none of them.
      RecordError: when the query axis holds groups instead of tokens.
    """
    if record.query_names:
        raise RecordError(
            f"stream {record.stream!r} keeps query groups, not tokens",
            fix=f"Name one of {record.query_names} with record.select",
        )
    found = record.layout.positions("valid" if query is None else query, "query")
    tokens = record.layout.axis_tokens("query")[found]
    real = np.isin(tokens, record.layout.tokens("valid"))
    if not np.any(real):
        raise LayoutError(f"group {query!r} holds no real token (padding or a dummy camera)")
    return found[real]


def calls(record: AttentionRecord) -> Iterator[Float[NumpyArray, "denoise layer head query key"]]:
    """Yields the calls one by one, so that a stored record is never read whole."""
    for number in range(record.shape[0]):
        yield np.asarray(record.values[number])


def reduce_record(
    record: AttentionRecord,
    *,
    query: str | None = None,
    key: str | None = None,
    heads: str = "mean",
    queries: str = "mean",
    span: tuple[int, int] | None = None,
) -> Float[NumpyArray, "call denoise layer ..."]:
    """Maps of named queries onto named keys, with heads and queries joined; float64.

    Heads are joined first, then queries, within the keys. With `mean` for both the result keeps
    probability mass.

    Args:
      record: a record with tokens on its query axis.
      query: query group; None takes every real token.
      key: key group; None keeps the whole key axis.
      heads: how heads are joined, one of `REDUCTIONS`, `focused:<k>` or `count:<quantile>`.
      queries: how queries are joined, one of `REDUCTIONS`.
      span: (start, stop) within the chosen queries, for example the sub-words of a word.

    Returns:
      (call, denoise, layer[, head][, query], key... ) where `each` keeps an axis and the keys
      unfold to (gh, gw) when the group is a patch grid and all of its patches were recorded.

    Raises:
      ConfigError: for an unknown reduction or an empty span.
      LayoutError: when a group is unknown or was not recorded.
    """
    chosen = valid_queries(record, query)
    if span is not None:
        chosen = chosen[slice(*span)]
        if not len(chosen):
            raise ConfigError(f"span {span} of query group {query!r} is empty")
    found = np.arange(record.shape[-1]) if key is None else record.layout.positions(key, "key")
    focused = focused_of(record, heads, chosen, found)
    joined = [
        join(join_heads(values[..., chosen[:, None], found], heads, focused), queries, axis=-2)
        for values in calls(record)
    ]
    maps = np.stack(joined)
    if key is None:
        return maps
    return maps.reshape(*maps.shape[:-1], *_unfolded(record, key, len(found)))


def _unfolded(record: AttentionRecord, key: str, recorded: int) -> tuple[int, ...]:
    if key in ("all", "valid") or any(c in key for c in "*?["):
        return (recorded,)
    grid = record.layout.group(key).grid
    return grid if grid is not None and grid[0] * grid[1] == recorded else (recorded,)


def per_head(
    record: AttentionRecord,
    measure: Callable[[NumpyArray], NumpyArray],
    *,
    query: str | None = None,
    key: str | None = None,
) -> Float[NumpyArray, "layer head"]:
    """A focus measure of every row, averaged over calls, denoising steps and queries.

    Args:
      record: a record with tokens on both axes.
      measure: a function of `focus` (use a lambda to fix `k`).
      query: query group; None takes every real token.
      key: key group within which the shape is measured; None takes every real key.

    Returns:
      (layer, head) float64; rows without mass do not count, NaN where no row counts.
    """
    rows = valid_queries(record, query)
    columns = record.layout.positions("valid" if key is None else key, "key")
    total = np.zeros(record.shape[2:4])
    count = np.zeros(record.shape[2:4])
    for values in calls(record):
        score = measure(values[..., rows[:, None], columns])
        known = np.isfinite(score)
        total += np.where(known, score, 0.0).sum((0, 3))
        count += known.sum((0, 3))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def quantile_filter(
    values: NumpyArray, quantile: float, *, axes: tuple[int, ...] | None = None
) -> NumpyArray:
    """Sets everything below a quantile to 0 and keeps the rest, float64.

    Args:
      values: non-negative weights.
      quantile: in [0, 1]; 0.95 keeps the strongest 5 %. Values equal to the threshold stay.
      axes: axes that share one threshold; None shares one over the whole array.

    Raises:
      ConfigError: when the quantile is outside [0, 1].
    """
    if not 0.0 <= quantile <= 1.0:
        raise ConfigError(f"quantile {quantile} is outside [0, 1]")
    exact = np.asarray(values, np.float64)
    threshold = np.quantile(exact, quantile, axis=axes, keepdims=True)
    return np.where(exact >= threshold, exact, 0.0)


def top_k(values: NumpyArray, k: int) -> tuple[Int[NumpyArray, "..."], Float[NumpyArray, "..."]]:
    """The k largest entries of the last axis, largest first; ties go to the lower index.

    Returns:
      (indices, values), both (..., k).

    Raises:
      ConfigError: when k is not between 1 and the length of the axis.
    """
    if not 1 <= k <= values.shape[-1]:
        raise ConfigError(f"k is {k}, the axis has {values.shape[-1]} entries")
    exact = np.asarray(values, np.float64)
    order = np.argsort(-exact, axis=-1, kind="stable")[..., :k]
    return order, np.take_along_axis(exact, order, axis=-1)
