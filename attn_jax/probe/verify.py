"""Verification: does an attention record on disk hold what it says?

Checked of every episode: metadata and labels (which stand in two places), the commit log, the
checksum of every file of every committed call, NaN and range, and that rows which hold all their
keys sum to 1 within what the codec may move them. An episode that was interrupted is good as far as
it was committed; that is a note, not a problem. One call of one record is in memory at a time.

    report = verify(run)
    if not report.ok:
        print(*report.problems, sep="; ")
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np

from attn_jax.core.errors import InputError, RecordError
from attn_jax.core.record import RELEVANCES, AttentionRecord
from attn_jax.core.typing import PathLike
from attn_jax.probe import arrays, codecs, schema
from attn_jax.probe.select import valid_positions
from attn_jax.probe.store import RecordReader

_ROUNDING = 1e-4
_SUMMED = ("full", "head_mean", "group_mass")


@dataclasses.dataclass(frozen=True)
class RecordSummary:
    """One record of an episode.

    Attributes:
      name: `<stream>[.<reduction>]`.
      shape: (call, denoise, layer, head, query, key).
      codec: how values are encoded.
      max_abs_error: largest error over all calls, as `codecs.check` told when it was written.
      error_bound: the largest error that the codec can make of a probability.
      max_row_sum_error: largest distance of a row sum from 1; None where rows are not whole.
      num_bytes: size of its committed calls on disk.
    """

    name: str
    shape: tuple[int, ...]
    codec: str
    max_abs_error: float
    error_bound: float
    max_row_sum_error: float | None
    num_bytes: int


@dataclasses.dataclass(frozen=True)
class EpisodeSummary:
    """One episode: name, committed calls, whether it was closed, and its records."""

    name: str
    num_calls: int
    complete: bool
    records: tuple[RecordSummary, ...]


@dataclasses.dataclass(frozen=True)
class VerifyReport:
    """What `verify` found.

    Attributes:
      problems: what is wrong, each with its place; empty for a good record.
      notes: what is worth knowing but not wrong.
      episodes: what could be read.
    """

    problems: tuple[str, ...]
    notes: tuple[str, ...]
    episodes: tuple[EpisodeSummary, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """A JSON-compatible dict, with `ok`."""
        return {"ok": self.ok, **dataclasses.asdict(self)}


def verify(path: PathLike) -> VerifyReport:
    """Checks a run or one episode.

    Raises:
      RecordError: there is no record at `path`.
    """
    root = pathlib.Path(path)
    folders = schema.episodes(root)
    problems: list[str] = []
    notes: list[str] = []
    summaries: list[EpisodeSummary] = []
    if folders != (root,):
        problems += _run_problems(root)
    for folder in folders:
        try:
            summaries.append(_verify_episode(RecordReader(folder), problems, notes))
        except InputError as error:
            problems.append(_without_folder(error, folder))
    return VerifyReport(tuple(problems), tuple(notes), tuple(summaries))


def _run_problems(root: pathlib.Path) -> list[str]:
    try:
        version = arrays.read_json(root / schema.RUN).get("schema_version")
    except RecordError as error:
        return [f"{schema.RUN}: {error.what}"]
    if version != schema.SCHEMA_VERSION:
        return [f"{schema.RUN}: schema version {version} is not {schema.SCHEMA_VERSION}"]
    return []


def _without_folder(error: InputError, folder: pathlib.Path) -> str:
    """The error with its place told from the episode on."""
    place = folder.name
    if error.where and pathlib.Path(error.where).is_relative_to(folder):
        place = str(folder.name / pathlib.Path(error.where).relative_to(folder))
    elif error.where:
        place = f"{folder.name}: {error.where}"
    return f"{place}: {error.what}"


def _verify_episode(reader: RecordReader, problems: list[str], notes: list[str]) -> EpisodeSummary:
    name = reader.folder.name
    if reader.torn:
        notes.append(f"{name}: the commit log ends in a torn line, which is ignored")
    if not reader.complete:
        notes.append(f"{name}: was not closed; {reader.num_calls} calls are committed")
    elif reader.meta.get("env_step") != list(reader.env_step):
        problems.append(f"{name}: meta.json and the commit log disagree about the calls")
    known = set(reader.meta["arrays"])
    committed = {key.partition("/")[0] for commit in reader.commits for key in commit.crc32}
    problems += [f"{name}/{record}: committed but not described" for record in committed - known]
    summaries = []
    for record_name in reader.names:
        try:
            record = reader.record(record_name)
        except InputError as error:
            problems.append(_without_folder(error, reader.folder))
            continue
        summaries.append(_verify_record(reader, record_name, record, problems))
    return EpisodeSummary(name, reader.num_calls, reader.complete, tuple(summaries))


def _verify_record(
    reader: RecordReader, name: str, record: AttentionRecord, problems: list[str]
) -> RecordSummary:
    place = f"{reader.folder.name}/{name}"
    problems += [f"{place}: {text}" for text in _structure(reader, name, record)]
    found: dict[str, list[int]] = {}
    row_sum_error: float | None = None
    num_bytes = 0
    for commit in reader.commits:
        damaged, size = _files(reader, name, commit.call)
        num_bytes += size
        if damaged:
            found.setdefault(damaged, []).append(commit.call)
            continue
        for text, error in _values(record, commit.call):
            if text:
                found.setdefault(text, []).append(commit.call)
            if error is not None:
                row_sum_error = max(row_sum_error or 0.0, error)
    for text, calls in found.items():
        more = ", ..." if len(calls) > 8 else ""
        problems.append(f"{place}: {text} (call {', '.join(map(str, calls[:8]))}{more})")
    error = max((commit.max_abs_error.get(name, 0.0) for commit in reader.commits), default=0.0)
    problems += [f"{place}: {text}" for text in _stated(reader, name, error)]
    return RecordSummary(
        name,
        record.shape,
        record.values.codec,
        error,
        codecs.BOUNDS[record.values.codec].max_abs,
        row_sum_error,
        num_bytes,
    )


def _stated(reader: RecordReader, name: str, error: float) -> list[str]:
    """Attributes that are not those of `meta.json`, or that say less than the commits do.

    An older record may say nothing of the error till it is closed.
    """
    found = []
    entry = reader.meta["arrays"][name]
    group = {label: value for label, value in entry.items() if label != "layout"}
    for place, labels in (("", group), ("values", {"codec": entry["codec"]})):
        path = reader.folder / name / place / arrays.METADATA
        attributes = arrays.read_json(path).get("attributes")
        whose = f"attributes {place or 'of the group'}"
        if _unmeasured(attributes) != _unmeasured(labels):
            found.append(f"{whose} and meta.json disagree about the labels")
            continue
        stated = attributes["codec"].get(schema.MEASURED, None if reader.complete else error)
        if not isinstance(stated, (int, float)) or stated < error:
            found.append(f"{whose} state an error of {stated}, the commit log of {error:.3g}")
    return found


def _unmeasured(labels: Any) -> Any:
    """Labels without the measured error, which grows while the record is written."""
    if not (isinstance(labels, dict) and isinstance(labels.get("codec"), dict)):
        return labels
    codec = {key: value for key, value in labels["codec"].items() if key != schema.MEASURED}
    return labels | {"codec": codec}


def _structure(reader: RecordReader, name: str, record: AttentionRecord) -> list[str]:
    """Problems of the arrays that need no values."""
    found = []
    folder = reader.folder / name
    lazy = record.values
    dtype = {"u8row": "uint8"}.get(lazy.codec, lazy.codec)
    values = arrays.open_array(folder / "values")
    if values.dtype.name != dtype:
        found.append(f"values are {values.dtype.name}, the codec {lazy.codec} needs {dtype}")
    if reader.complete and values.shape[0] != reader.num_calls:
        found.append(f"closed with {reader.num_calls} calls, the array has {values.shape[0]}")
    if lazy.codec == "u8row":
        scale = arrays.open_array(folder / "scale")
        if scale.shape != values.shape[:-1]:
            found.append(f"scale has shape {scale.shape}, values {values.shape}")
    if lazy.key_index is not None and len(lazy.key_index) != values.shape[-1]:
        found.append("key_index does not fit the key axis")
    return found


def _files(reader: RecordReader, name: str, call: int) -> tuple[str | None, int]:
    """Whether the files of one call are what was committed, and their size."""
    expected = {key for key in reader.commits[call].crc32 if key.partition("/")[0] == name}
    if f"{name}/values" not in expected:
        return "the commit log has no values", 0
    size = 0
    for key in sorted(expected):
        ndim = 5 if key.endswith("/scale") else 6
        path = arrays.shard_path(reader.folder / key, call, ndim)
        if not path.is_file():
            return f"file of {key.partition('/')[2]} is missing", size
        size += path.stat().st_size
        if arrays.checksum(path) != reader.commits[call].crc32[key]:
            return f"checksum of {key.partition('/')[2]} is wrong", size
    return None, size


def _values(record: AttentionRecord, call: int) -> list[tuple[str | None, float | None]]:
    """(problem, row-sum error) pairs of one call."""
    codes, scale = record.values.codes(call)
    values = codecs.decode(codes, scale, record.values.codec)
    finite = np.isfinite(values)
    if record.reduction == "entropy":
        bad = np.isinf(values).any() or bool((values[finite] < 0).any())
        return [("entropies are negative or infinite" if bad else None, None)]
    if not finite.all():
        return [("values are NaN or infinite", None)]
    if record.reduction in RELEVANCES:
        return []
    out: list[tuple[str | None, float | None]] = []
    if values.min(initial=0) < 0 or values.max(initial=0) > 1 + _ROUNDING:
        out.append((f"values from {values.min():.4g} to {values.max():.4g}", None))
    if record.complete_rows and record.reduction in _SUMMED:
        # A row of padding may have attended to keys that were not stored.
        layout = record.call_layouts[call] if record.call_layouts else record.layout
        rows = np.asarray(valid_positions(layout, "query"), np.int64)
        error = np.abs(values.sum(axis=-1, dtype=np.float64) - 1)[..., rows]
        allowed = codecs.row_sum_tolerance(codes, scale, record.values.codec)[..., rows]
        wrong = bool((error > allowed).any())
        out.append(("rows do not sum to 1" if wrong else None, float(error.max(initial=0))))
    return out
