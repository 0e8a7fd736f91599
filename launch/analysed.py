"""Folders of launch.analyze: which episodes are finished, which are missing.

    OUT/config.json       hypotheses and families, declared before anything was tested
    OUT/episodes.json     `run` and `episodes`, the names of those that there should be
    OUT/episodes/<name>/  of launch.episode_analysis

found = open_analyses([OUT, OTHER])
rows = tables.concat([episode.rows() for episode in found.episodes])
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet

from attn_jax.analysis import tables
from attn_jax.analysis.aggregate import Family
from attn_jax.core.errors import ConfigError, InputError
from launch import app
from launch.episode_analysis import ROWS, fingerprint, options_of, read_done

EXPECTED = "episodes.json"
#: What analyses must have in common to be tested together.
_DECLARED = ("families", "hypotheses", "resamples")


def families_of(config: Mapping[str, Any]) -> list[Family]:
    """The families of a configuration.

    Raises:
      ConfigError: a field that a family does not have, or a value that cannot be.
    """
    out = []
    for name, given in config["families"].items():
        fields = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
        try:
            out.append(Family(name, **fields))
        except TypeError as error:
            raise ConfigError(f"family {name!r}: {error}", where="config.families") from error
    return out


def check_config(config: Mapping[str, Any]) -> None:
    """Checks a configuration of launch.analyze, with what launch.aggregate will need of it.

    Raises:
      ConfigError: a field that is missing, unknown or has a value that cannot be.
    """
    for name in ("hypotheses", "families", "resamples", "rank_resamples"):
        if name not in config:
            raise ConfigError(
                f"has no {name}", where="config", fix="Start from one of configs/analysis"
            )
    options_of(config)
    families_of(config)
    for name in ("resamples", "rank_resamples"):
        if not isinstance(config[name], int) or config[name] < 1:
            raise ConfigError(f"is {config[name]!r}", where=f"config.{name}", fix="Use 1 or more")


@dataclasses.dataclass(frozen=True)
class AnalysedEpisode:
    """One finished episode.

    Attributes:
      name: unique over all folders.
      folder: where its results are.
      facts: its `done.json`.
    """

    name: str
    folder: pathlib.Path
    facts: Mapping[str, Any]

    def rows(self) -> pd.DataFrame:
        """Its table, `analysis.tables.COLUMNS`, with its unique name.

        Raises:
          InputError: the file is missing or damaged.
        """
        try:
            table = pd.read_parquet(self.folder / ROWS)
        except (OSError, ValueError) as error:
            raise InputError(
                f"rows of {self.name} cannot be read: {error}",
                where=self.folder / ROWS,
                fix="Run launch.analyze again",
            ) from error
        table["episode"] = pd.Categorical([self.name] * len(table))
        return table


@dataclasses.dataclass(frozen=True)
class Analyses:
    """Folders of launch.analyze that declared the same.

    Attributes:
      config: what they declared.
      episodes: the finished ones.
      missing: name of every other one that there should be -> why it is not there.
    """

    config: Mapping[str, Any]
    episodes: Sequence[AnalysedEpisode]
    missing: Mapping[str, str]


class RowsWriter:
    """Writes rows episode by episode, as a row group of a .parquet file and as lines of a .csv.

    There is no .json: it would be eight times as large, and every episode has its own.
    """

    def __init__(self, stem: pathlib.Path):
        """Opens `<stem>.parquet` and `<stem>.csv`; earlier ones are replaced."""
        with contextlib.ExitStack() as stack:
            path = stem.with_suffix(".parquet")
            self._parquet = stack.enter_context(pyarrow.parquet.ParquetWriter(path, _SCHEMA))
            csv = stem.with_suffix(".csv").open("w", encoding="utf-8", newline="")
            self._csv = stack.enter_context(csv)
            self._csv.write(",".join(tables.COLUMNS) + "\n")
            self._stack = stack.pop_all()

    def add(self, rows: pd.DataFrame) -> None:
        """Writes a table with the columns of `tables.COLUMNS`."""
        columns = [
            _dictionary(rows[name]) if name in tables.TEXT else pyarrow.array(rows[name])
            for name in tables.COLUMNS
        ]
        self._parquet.write_table(pyarrow.Table.from_arrays(columns, schema=_SCHEMA))
        rows.to_csv(self._csv, header=False, index=False, columns=list(tables.COLUMNS))

    def __enter__(self) -> RowsWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _dictionary(column: pd.Series) -> pyarrow.Array:
    values = column.astype("category").cat
    codes = pyarrow.array(values.codes.to_numpy(np.int32))
    return pyarrow.DictionaryArray.from_arrays(codes, pyarrow.array(values.categories, "string"))


_TEXT = pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
_SCHEMA = pyarrow.schema(
    [
        (
            name,
            _TEXT
            if name in tables.TEXT
            else pyarrow.float64()
            if name == "value"
            else pyarrow.int64(),
        )
        for name in tables.COLUMNS
    ]
)


def open_analyses(folders: Sequence[pathlib.Path]) -> Analyses:
    """Reads what there is; rows stay on disk.

    Args:
      folders: of launch.analyze. When there are several, names of episodes get as much of the path
        of their folder in front as tells the folders apart.

    Raises:
      ConfigError: not a folder of launch.analyze, different declarations, a folder that is given
        twice, the same recording in two of them, or no finished episode.
      InputError: episodes of a folder in different units of actions.
    """
    prefixes = _prefixes(folders)
    config = _declared(folders)
    episodes: list[AnalysedEpisode] = []
    missing: dict[str, str] = {}
    seen: dict[str, tuple[pathlib.Path, str]] = {}
    units: dict[pathlib.Path, list[float] | None] = {}
    for folder, prefix in zip(folders, prefixes, strict=True):
        for episode in app.read_json(folder / EXPECTED)["episodes"]:
            name, place = f"{prefix}{episode}", folder / "episodes" / episode
            try:
                facts = read_done(place, fingerprint(config))
            except InputError as error:
                missing[name] = error.what
                continue
            other, known = seen.setdefault(facts["recording"], (folder, name))
            if other != folder:
                raise ConfigError(
                    f"{name} is the same recording as {known}",
                    where=folder,
                    fix="Name analyses of different runs; an episode counts once",
                )
            if (unit := facts.get("action_std")) != units.setdefault(folder, unit):
                raise InputError(
                    f"{name} was analysed in another unit of actions than the episodes before it,"
                    " because the run has other episodes now",
                    where=folder,
                    fix="Run launch.analyze again",
                )
            episodes.append(AnalysedEpisode(name, place, facts))
    if not episodes:
        raise ConfigError(
            "no finished episodes", where=folders[0], fix="Run launch.analyze on a run first"
        )
    return Analyses(config, episodes, missing)


def _prefixes(folders: Sequence[pathlib.Path]) -> list[str]:
    """What stands before the names of the episodes of each folder; nothing for a single one."""
    paths = [folder.resolve() for folder in folders]
    twice = [path for path in paths if paths.count(path) > 1]
    if twice:
        raise ConfigError("is given twice", where=twice[0], fix="Name every analysis once")
    if len(paths) == 1:
        return [""]
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    return ["/".join((*path.parts[-depth:], "")) for path in paths]


def _declared(folders: Sequence[pathlib.Path]) -> dict[str, Any]:
    configs = [app.read_json(folder / "config.json") for folder in folders]
    for folder, config in zip(folders, configs, strict=True):
        for field in _DECLARED:
            if config.get(field) != configs[0].get(field) or field not in config:
                raise ConfigError(
                    f"declares other {field} than {folders[0].name}",
                    where=folder,
                    fix="Analyse all runs with the same configuration",
                )
    return configs[0]
