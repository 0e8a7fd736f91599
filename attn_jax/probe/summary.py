"""A summary of attention records on disk: what is in them, how exact, and where the mass goes.

Numbers that need values come from a few calls, evenly spaced, so that a large record is summarised
as quickly as a small one; `verify` reads everything.

    summary = summarise(run, sampled_calls=4)
    summary["episodes"][0]["records"]["decoder"]["group_mass"]["7"]["sep1"]   # mean mass, layer 7
"""

from __future__ import annotations

from typing import Any

import numpy as np

from attn_jax.core.record import AttentionRecord
from attn_jax.core.typing import PathLike
from attn_jax.probe.schema import episodes
from attn_jax.probe.select import group_shares, valid_positions
from attn_jax.probe.store import RecordReader

_WITH_TOKENS = ("full", "head_mean")


def summarise(path: PathLike, sampled_calls: int = 4) -> dict[str, Any]:
    """Summarises a run or one episode as JSON-compatible data.

    Args:
      path: run folder or episode folder.
      sampled_calls: how many calls the numbers are taken from.

    Raises:
      RecordError: no record there, or a damaged one.
    """
    return {
        "episodes": [_episode(RecordReader(folder), sampled_calls) for folder in episodes(path)]
    }


def _episode(reader: RecordReader, sampled_calls: int) -> dict[str, Any]:
    calls = sorted({round(x) for x in np.linspace(0, reader.num_calls - 1, sampled_calls)})
    calls = calls if reader.num_calls else []
    return {
        "name": reader.folder.name,
        "calls": reader.num_calls,
        "complete": reader.complete,
        "env_step": [*reader.env_step],
        "info": reader.info,
        "sampled_calls": calls,
        "records": {name: _record(reader, name, calls) for name in reader.names},
    }


def _record(reader: RecordReader, name: str, calls: list[int]) -> dict[str, Any]:
    record = reader.record(name)
    codec = reader.meta["arrays"][name]["codec"]
    errors = [commit.max_abs_error.get(name, 0.0) for commit in reader.commits]
    files = [file for file in (reader.folder / name).rglob("*") if file.is_file()]
    out: dict[str, Any] = {
        "stream": record.stream,
        "reduction": record.reduction,
        "shape": [*record.shape],
        "layers": [*record.layers],
        "heads": [*record.heads],
        "denoise": [*record.denoise],
        "queries": _axis(record, "query"),
        "keys": _axis(record, "key"),
        "codec": codec["name"],
        "error_bound": codec["bound"],
        "bound_max_abs_error": codec["bound_max_abs_error"],
        "max_abs_error": max(errors, default=0.0),
        "bytes": sum(file.stat().st_size for file in files),
        "row_sum_error": None,
        "group_mass": None,
    }
    if not calls or record.reduction not in (*_WITH_TOKENS, "group_mass"):
        return out
    layouts = [record.call_layouts[call] for call in calls] if record.call_layouts else []
    found = [set(valid_positions(layout, "query")) for layout in layouts or [record.layout]]
    rows = sorted(set.intersection(*found))  # valid in every call
    values = np.concatenate([record.values[call : call + 1] for call in calls])[..., rows, :]
    if record.complete_rows and values.size:
        row_sums = values.sum(axis=-1, dtype=np.float64)
        out["row_sum_error"] = float(np.abs(row_sums - 1).max())
    if values.size:
        out["group_mass"] = _group_mass(record, values)
    return out


def _axis(record: AttentionRecord, axis: str) -> dict[str, int]:
    """Names on an axis and how many positions each of them has."""
    names = record.query_names if axis == "query" else record.key_names
    if names:
        return {name: 1 for name in names}
    present = set(record.layout.axis_tokens(axis).tolist())
    counts = {g.name: len(present.intersection(g.indices)) for g in record.layout.groups}
    return {name: count for name, count in counts.items() if count}


def _group_mass(record: AttentionRecord, values: np.ndarray) -> dict[str, dict[str, float]]:
    """Mean mass on every key group, by layer; the mean is over calls, steps, heads and rows."""
    names = record.key_names or tuple(_axis(record, "key"))
    if not record.key_names:
        tokens = record.layout.axis_tokens("key")
        shares = np.stack([group_shares(record.layout, name)[tokens] for name in names])
        values = values @ shares.T
    means = values.mean(axis=(0, 1, 3, 4), dtype=np.float64)
    return {
        str(layer): {name: float(mass) for name, mass in zip(names, row, strict=True)}
        for layer, row in zip(record.layers, means, strict=True)
    }
