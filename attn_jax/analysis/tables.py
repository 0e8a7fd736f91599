"""Tidy tables of measures: one row per value, the same columns for every hypothesis.

| column | content |
|---|---|
| episode | name of the episode, unique over all runs of a table |
| outcome | `success`, `failure` or `unknown` |
| hypothesis | for example `h1_1` |
| metric | name of the measure |
| variant | the other run that this one is compared with; empty for none |
| kind | what that variant is: `counterfactual`, `paraphrase`, `noise`, `frame`, ... or empty |
| query | query group, or the word |
| layer, head | numbers; -1 where joined or not applicable |
| camera, object, role | names; empty where not applicable |
| value | float64; NaN where the measure is undefined |

Tables by frame have `env_step` and `denoise` (-1 where joined) too.

    table = tidy(values, {"env_step": steps, "layer": layers, "object": names}, metric="lift")
    episode_table(table)                       # means over frames and steps
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from attn_jax.core.errors import ConfigError
from attn_jax.core.typing import NumpyArray

TEXT: tuple[str, ...] = (
    "episode",
    "outcome",
    "hypothesis",
    "metric",
    "variant",
    "kind",
    "query",
    "camera",
    "object",
    "role",
)
NUMBERS: tuple[str, ...] = ("layer", "head")
FRAME_NUMBERS: tuple[str, ...] = ("env_step", "denoise")
COLUMNS: tuple[str, ...] = (*TEXT[:7], *NUMBERS, *TEXT[7:], "value")
FRAME_COLUMNS: tuple[str, ...] = (*COLUMNS[:-1], *FRAME_NUMBERS, "value")


def tidy(
    values: NumpyArray, axes: Mapping[str, Sequence[Any] | NumpyArray], **constants: Any
) -> pd.DataFrame:
    """A table by frame from an array with labelled axes.

    Args:
      values: one value per combination of labels.
      axes: column -> labels, in the order of the axes of `values`.
      **constants: column -> the value it has in every row.

    Raises:
      ConfigError: a column that does not exist, or labels that do not fit the array.
    """
    unknown = [name for name in (*axes, *constants) if name not in FRAME_COLUMNS]
    if unknown:
        raise ConfigError(f"a table has no column {unknown[0]!r}", fix=f"Columns: {FRAME_COLUMNS}")
    if values.shape != tuple(len(labels) for labels in axes.values()):
        sizes = {name: len(labels) for name, labels in axes.items()}
        raise ConfigError(f"values of shape {values.shape} with labels {sizes}")
    count = values.size
    data: dict[str, Any] = {}
    places = np.indices(values.shape).reshape(len(axes), -1) if axes else np.zeros((0, 1), int)
    for (name, labels), place in zip(axes.items(), places, strict=True):
        if name in TEXT:
            data[name] = pd.Categorical.from_codes(*_codes(labels, place))
        else:
            data[name] = np.asarray(labels, np.int64)[place]
    for name in FRAME_COLUMNS[:-1]:
        if name not in data:
            given = constants.get(name, "" if name in TEXT else -1)
            fixed = np.zeros(count, np.int64)
            data[name] = (
                pd.Categorical.from_codes(fixed, [str(given)])
                if name in TEXT
                else fixed + int(given)
            )
    data["value"] = np.asarray(values, np.float64).ravel()
    data = {name: data[name] for name in FRAME_COLUMNS}
    return pd.DataFrame(data)


def _codes(labels: Sequence[Any] | NumpyArray, place: NumpyArray) -> tuple[NumpyArray, list[str]]:
    names = [str(label) for label in labels]
    unique = list(dict.fromkeys(names))
    return np.array([unique.index(name) for name in names])[place], unique


def concat(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Tables below one another; text columns stay categorical. An empty table for none."""
    columns = list(tables[0].columns) if tables else list(FRAME_COLUMNS)
    data: dict[str, Any] = {}
    for name in columns:
        parts = [table[name] for table in tables]
        if name in TEXT:
            data[name] = (
                pd.api.types.union_categoricals([part.astype("category") for part in parts])
                if parts
                else pd.Categorical([])
            )
        else:
            kind = np.float64 if name == "value" else np.int64
            data[name] = np.concatenate([np.asarray(part) for part in parts] or [np.zeros(0, kind)])
    return pd.DataFrame(data)


def mean_over(table: pd.DataFrame, keep: Sequence[str]) -> pd.DataFrame:
    """Means of `value` over everything but the columns in `keep`; NaN only where all are NaN."""
    groups: Any = table.groupby(list(keep), observed=True, sort=False)
    return groups["value"].mean().reset_index()


def episode_table(table: pd.DataFrame) -> pd.DataFrame:
    """Means over frames and denoising steps: one row per episode and everything else."""
    return mean_over(table, COLUMNS[:-1])
