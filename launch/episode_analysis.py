"""Analysis of one recorded episode: reads it with its variants, writes tidy rows.

    OUT/episodes/<name>/
      frames.parquet                by frame, columns of `analysis.tables.FRAME_COLUMNS`
      rows.{parquet,csv,json}       means over frames, columns of `analysis.tables.COLUMNS`
      object/h1_1_obj_attn_results.json, counterfactual/h2_1_counterfactual_results.json
      done.json                     written last: what was run, what was skipped and why

An episode counts as finished only when `done.json` is there and was written for the same
configuration and the same recordings, and its rows can be read.

    done = analyse(Job(run, "episode_00000", out, config))
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import shutil
import traceback
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet

from attn_jax.analysis import hypotheses, seed_json, shift, tables
from attn_jax.analysis.options import Options
from attn_jax.analysis.studies import Source, Study
from attn_jax.core import files
from attn_jax.core.errors import ConfigError, InputError, MissingInputError, RecordError
from attn_jax.data import episodes
from attn_jax.probe import commits, schema
from attn_jax.probe.store import RecordReader
from launch import app

DONE, ROWS = "done.json", "rows.parquet"
#: Of what is written for an episode; a larger one makes every episode be analysed again.
SCHEMA_VERSION = 1
ERROR, SKIP = "error", "skip"
#: What code that is wrong raises, or an episode too large for memory. It is reported when the other
#: episodes are done.
_DEFECTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


@dataclasses.dataclass(frozen=True)
class Job:
    """One episode to analyse.

    Attributes:
      run: run folder.
      episode: name of its folder, `episode_00000`.
      out: folder of the analysis.
      config: `hypotheses` -> options of each, as plain data.
      action_std: of `run_action_std`.
    """

    run: pathlib.Path
    episode: str
    out: pathlib.Path
    config: Mapping[str, Any]
    action_std: tuple[float, ...] | None = None

    @property
    def folder(self) -> pathlib.Path:
        """Where the results go."""
        return self.out / "episodes" / self.episode

    def is_done(self) -> bool:
        """Whether these recordings were analysed with this configuration."""
        try:
            facts = read_done(self.folder, fingerprint(self.config))
        except InputError:
            return False
        return all(facts.get(key) == value for key, value in self.recordings().items())

    def recordings(self) -> dict[str, Any]:
        """Fingerprints: `recording` of the episode, `variants` of its variants by their keys.

        They are of the metadata, which has the checksums of everything that is analysed. With them
        the unit of actions, which is of the whole run.
        """
        variants = {
            key: _recording(folder / episodes.EPISODES / self.episode)
            for key, folder in episodes.variants_of(self.run).items()
            if (folder / episodes.EPISODES / self.episode / episodes.META).is_file()
        }
        base = _recording(self.run / episodes.EPISODES / self.episode)
        std = None if self.action_std is None else list(self.action_std)
        return {"recording": base, "variants": variants, "action_std": std}


def _recording(folder: pathlib.Path) -> str:
    digest = hashlib.sha256()
    for name in (episodes.META, schema.META, commits.NAME):
        data = (folder / name).read_bytes() if (folder / name).is_file() else b""
        digest.update(f"{name} {len(data)}\n".encode() + data)
    return digest.hexdigest()[:16]


def fingerprint(config: Mapping[str, Any]) -> str:
    """Of the configuration of the hypotheses."""
    text = json.dumps(app.jsonable(config["hypotheses"]), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_done(folder: pathlib.Path, config: str) -> dict[str, Any]:
    """`done.json` of an episode that is finished.

    Args:
      folder: where the results of the episode are.
      config: `fingerprint` of the configuration that it must have been analysed with.

    Raises:
      InputError: it is not finished; says why.
    """
    if not (folder / DONE).is_file():
        raise InputError("is not analysed", where=folder.name)
    facts = app.read_json(folder / DONE)
    if (facts.get("schema_version"), facts.get("config")) != (SCHEMA_VERSION, config):
        raise InputError("was analysed with another configuration or version", where=folder.name)
    try:
        rows = pyarrow.parquet.read_metadata(folder / ROWS).num_rows
    except (OSError, ValueError) as error:
        raise InputError(f"{ROWS} is missing or damaged", where=folder.name) from error
    if rows != facts.get("rows"):
        raise InputError(
            f"{ROWS} has {rows} rows instead of {facts.get('rows')}", where=folder.name
        )
    return facts


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of an episode.

    Attributes:
      episode: its name.
      rows: rows by episode that were written.
      skipped: hypothesis -> why it was not run.
      problem: why the episode failed; empty when it is done.
      defect: traceback of an error that is no bad input; empty without one.
    """

    episode: str
    rows: int = 0
    skipped: Mapping[str, str] = dataclasses.field(default_factory=dict)
    problem: str = ""
    defect: str = ""


def options_of(config: Mapping[str, Any]) -> dict[str, tuple[Options, str]]:
    """Hypothesis -> its options, and what to do when an input is missing.

    Raises:
      ConfigError: an unknown hypothesis or field, or a value that cannot be.
    """
    known = {field.name for field in dataclasses.fields(Options)}
    out = {}
    for name, given in config["hypotheses"].items():
        fields = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
        missing = fields.pop("missing", ERROR)
        unknown = sorted(set(fields) - known)
        if name not in hypotheses.HYPOTHESES or unknown or missing not in (ERROR, SKIP):
            raise ConfigError(
                f"hypothesis {name!r} with fields {unknown or missing!r}",
                where="config.hypotheses",
                fix=f"Hypotheses: {', '.join(hypotheses.HYPOTHESES)}; fields:"
                f" {', '.join(sorted(known))}, missing ({ERROR} or {SKIP})",
            )
        try:
            out[name] = Options(**fields), missing
        except ConfigError as error:
            where = f"config.hypotheses.{name}"
            raise ConfigError(error.what, where=where, fix=error.fix) from error
        except TypeError as error:
            raise ConfigError(str(error), where=f"config.hypotheses.{name}") from error
    return out


def run_action_std(run: pathlib.Path, config: Mapping[str, Any]) -> tuple[float, ...] | None:
    """Standard deviation of every action dimension over the base episodes of a run.

    Every job gets the same numbers, and an episode is analysed again when they change, as when
    episodes were added. An episode that cannot be read is named when its turn comes; it does not
    count here.

    Returns:
      None when no hypothesis of `config` compares actions, or there are none.

    Raises:
      ConfigError: episodes with actions of different widths.
    """
    if not set(hypotheses.ABOUT_ACTIONS) & set(config["hypotheses"]):
        return None
    chunks = []
    for folder in episodes.episodes_of(run):
        with contextlib.suppress(InputError):
            chunks.append(episodes.read_actions(folder))
    found = [one for one in chunks if one is not None]
    return tuple(shift.action_std(found).tolist()) if found else None


def open_study(
    run: pathlib.Path, episode: str, action_std: tuple[float, ...] | None = None
) -> Study:
    """The episode with every variant that has it; `action_std` is that of the whole run.

    Raises:
      InputError: the episode or its record is damaged.
    """
    base = run / episodes.EPISODES / episode
    known, variants = episodes.read_episode(base), {}
    for key, folder in episodes.variants_of(run).items():
        path = folder / episodes.EPISODES / episode
        if (path / episodes.META).is_file():
            # Frames that are shared are held once, however many variants there are.
            other = episodes.read_episode(path, frames_of=(base, known))
            variants[key] = Source(other, _reader(path), key)
    std = None if action_std is None else np.array(action_std)
    return Study(episode, Source(known, _reader(base)), variants, std)


def _reader(folder: pathlib.Path) -> RecordReader | None:
    """The record of an episode; None where none was made."""
    if not any((folder / name).is_file() for name in (schema.META, commits.NAME)):
        return None
    reader = RecordReader(folder)
    told = reader.meta.get("env_step") if reader.complete else list(reader.env_step)
    if not reader.num_calls or told != list(reader.env_step):
        raise RecordError(
            f"{reader.num_calls} calls are committed"
            + (f", {len(told or ())} were when the episode was closed" if reader.complete else ""),
            where=folder / commits.NAME,
            fix="Record the episode again",
        )
    return reader


def analyse(job: Job) -> Outcome:
    """Runs every hypothesis on one episode and writes the results.

    An error is returned, so that other episodes can be analysed: an `InputError` as a problem, any
    other one as a problem with its traceback.
    """
    try:
        return _analyse(job)
    except InputError as error:
        return Outcome(job.episode, problem=str(error))
    except _DEFECTS as error:
        text = "".join(traceback.format_exception(error))
        return Outcome(job.episode, problem=f"{type(error).__name__}: {error}", defect=text)


def _analyse(job: Job) -> Outcome:
    # First of all, so that no rows of other inputs or settings count when anything fails from here.
    (job.folder / DONE).unlink(missing_ok=True)
    recordings = job.recordings()
    study = open_study(job.run, job.episode, job.action_std)
    parts, skipped = [], {}
    for name, (options, missing) in options_of(job.config).items():
        try:
            parts.append(hypotheses.run(study, name, options))
        except InputError as error:
            # Damage is never skipped: it would pass for what was not asked for.
            if missing != SKIP or not isinstance(error, MissingInputError):
                raise type(error)(
                    f"{name}: {error.what}", where=error.where, fix=error.fix
                ) from error
            skipped[name] = str(error)
    if not parts:
        raise MissingInputError(f"every hypothesis was skipped: {skipped}", where=job.episode)
    frames = tables.concat(parts)
    rows = tables.episode_table(frames)
    if job.folder.exists():
        shutil.rmtree(job.folder)
    job.folder.mkdir(parents=True)
    frames.to_parquet(job.folder / "frames.parquet", index=False)
    write_table(rows, job.folder / "rows")
    _write_seed_files(study, frames, job.folder)
    app.write_json(
        job.folder / DONE,
        {
            "schema_version": SCHEMA_VERSION,
            "config": fingerprint(job.config),
            **recordings,
            "episode": job.episode,
            "outcome": study.outcome,
            "prompt": study.base.episode.info.get("prompt"),
            "rows": len(rows),
            "skipped": skipped,
        },
    )
    return Outcome(job.episode, len(rows), skipped)


def _write_seed_files(study: Study, frames: pd.DataFrame, folder: pathlib.Path) -> None:
    steps = [int(step) for step in study.base.episode.env_step]
    files = {
        "object/h1_1_obj_attn_results.json": seed_json.object_results(frames, study.name, steps),
        "counterfactual/h2_1_counterfactual_results.json": seed_json.counterfactual_results(
            frames,
            study.name,
            {k: str(v.episode.info.get("prompt") or "") for k, v in study.variants.items()},
        ),
    }
    for name, data in files.items():
        if data is not None:
            (folder / name).parent.mkdir()
            app.write_json(folder / name, data)


def write_table(table: pd.DataFrame, stem: pathlib.Path) -> None:
    """Writes a table as .parquet, .csv and .json (a list of rows, NaN as null).

    Raises:
      DiskFullError: no space left.
    """
    with files.disk_errors(stem, what="tables"):
        table.to_parquet(stem.with_suffix(".parquet"), index=False)
        table.to_csv(stem.with_suffix(".csv"), index=False)
        table.to_json(stem.with_suffix(".json"), orient="records", double_precision=15)
