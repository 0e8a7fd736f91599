"""From rows of episodes to conclusions: families of tests, declared before the data is seen.

A family names a question, the measures that answer it and how they are tested. Every combination of
metric, layer, camera and so on in it is one test; p-values are adjusted over the whole family.

| test | question | tests |
|---|---|---|
| `outcome` | do successes differ from failures? | Welch, Mann-Whitney, permutation |
| `above` | does the mean exceed a reference? | one-sample t, Wilcoxon, sign flip |
| `floor` | does a change exceed the null floor in the same episode? | the same, on the difference |

Episodes are the unit: values are averaged over frames and, unless `by` says otherwise, objects and
heads of an episode before anything is tested.

    families = (Family("objects", "h1_1", ("lift",), test="above", reference=1.0),)
    table = aggregate(rows, families, seed=0)
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from attn_jax.analysis import metrics, stats, tables
from attn_jax.core.errors import ConfigError

_SINGLE = ("paired_t", "wilcoxon", "sign_flip")
#: What is computed for every kind of test; the first one is the primary test unless a family says.
TESTS = {
    "outcome": ("welch", "mann_whitney", "permutation"),
    "above": _SINGLE,
    "floor": _SINGLE,
}
#: Kinds of variants that can make a null floor.
FLOORS = ("noise", "frame", "paraphrase", "counterfactual", "negation", "empty")
SUCCESS, FAILURE = "success", "failure"


@dataclasses.dataclass(frozen=True)
class Family:
    """One family of tests.

    Attributes:
      name: of the family, unique.
      hypothesis: rows of which hypothesis.
      metrics: which measures.
      test: `outcome`, `above` or `floor`.
      by: columns whose combinations are tests of their own; the others are averaged over.
      where: column -> allowed values; other rows are not looked at.
      reference: of `above`: what the mean is compared with.
      floor: of `floor`: kinds of variants that make the null floor; the largest of their means is
        the floor of an episode. One that has only some of them gets the largest of those, a laxer
        floor, and `floor_gaps` of the test names it.
      beside: a measure of the same hypothesis whose mean over episodes stands beside every test as
        `null_floor`; it is not tested.
      alternative: `two-sided`, `greater` or `less`.
      primary: the test whose p-values are adjusted; empty takes Welch or the t test.

    Raises:
      ConfigError: a value that cannot be, or a measure that the hypothesis does not give.
    """

    name: str
    hypothesis: str
    metrics: tuple[str, ...]
    test: str = "outcome"
    by: tuple[str, ...] = ("metric", "layer", "camera")
    where: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
    reference: float = 0.0
    floor: tuple[str, ...] = ("noise", "frame", "paraphrase")
    beside: str = ""
    alternative: str = "two-sided"
    primary: str = ""

    def __post_init__(self):
        lists = {name: getattr(self, name) for name in ("metrics", "by", "floor")}
        lists |= {f"where.{column}": allowed for column, allowed in self.where.items()}
        for field, value in lists.items():
            if isinstance(value, str) or not (value or field == "by"):
                raise ConfigError(
                    f"{field} is {value!r}", where=self.name, fix='Write a list, as ("lift",)'
                )
        for field in ("metrics", "by", "floor"):
            object.__setattr__(self, field, tuple(getattr(self, field)))
        if self.test not in TESTS:
            raise _unknown("test", self.test, tuple(TESTS), self.name)
        if self.alternative not in stats.ALTERNATIVES:
            raise _unknown("alternative", self.alternative, stats.ALTERNATIVES, self.name)
        if self.primary and self.primary not in TESTS[self.test]:
            raise _unknown("primary test", self.primary, TESTS[self.test], self.name)
        for kind in self.floor:
            if kind not in FLOORS:
                raise _unknown("floor", kind, FLOORS, self.name)
        if not isinstance(self.reference, (int, float)) or not math.isfinite(self.reference):
            raise ConfigError(f"reference is {self.reference!r}, no finite number", where=self.name)
        shown = (self.beside,) if self.beside else ()
        metrics.require(self.hypothesis, (*self.metrics, *shown), where=self.name)
        wrong = [c for c in (*self.by, *self.where) if c not in tables.COLUMNS]
        if wrong:
            raise ConfigError(
                f"a table has no column {wrong[0]!r}",
                where=self.name,
                fix=f"Columns: {tables.COLUMNS}",
            )
        if "metric" not in self.by:
            object.__setattr__(self, "by", ("metric", *self.by))


def _unknown(what: str, value: str, known: Sequence[str], where: str) -> ConfigError:
    return ConfigError(f"unknown {what} {value!r}", where=where, fix=f"Use {', '.join(known)}")


@dataclasses.dataclass
class _Means:
    """What was kept for a family, one entry per part of the rows.

    Attributes:
      units: means per episode of what is tested.
      floors: means per episode of every kind that makes a floor, a column each; NaN where the
        episode has none.
      floor_kinds: kinds of variants that made a floor.
      beside: per episode, the measure that stands beside the tests.
    """

    units: list[pd.DataFrame] = dataclasses.field(default_factory=list)
    floors: list[pd.DataFrame] = dataclasses.field(default_factory=list)
    floor_kinds: set[str] = dataclasses.field(default_factory=set)
    beside: list[float] = dataclasses.field(default_factory=list)


class Reduced:
    """What families need of the episodes: their means. Rows are added part by part and not kept.

    A part holds whole episodes.

        reduced = Reduced(families)
        for rows in parts:
            reduced.add(rows)
        table = reduced.table(seed=0)
    """

    def __init__(self, families: Sequence[Family]):
        """Raises `ConfigError` when two families have the same name."""
        names = [family.name for family in families]
        if len(set(names)) != len(names):
            raise ConfigError(f"family names repeat: {sorted(names)}")
        self._families = tuple(families)
        self._means = {name: _Means() for name in names}

    def add(self, rows: pd.DataFrame) -> None:
        """Adds episodes, a table with the columns of `tables.COLUMNS`."""
        for family in self._families:
            means = self._means[family.name]
            of_hypothesis: Any = rows[rows.hypothesis == family.hypothesis]
            shown = of_hypothesis[of_hypothesis.metric == family.beside]
            means.beside += tables.mean_over(shown, ["episode"]).value.tolist()
            chosen = of_hypothesis[of_hypothesis.metric.isin(family.metrics)]
            for column, allowed in family.where.items():
                chosen = chosen[chosen[column].isin(list(allowed))]
            if not len(chosen):
                continue
            if family.test == "floor":
                is_floor = chosen.kind.isin(family.floor)
                means.floors.append(_floors(chosen[is_floor], family))
                means.floor_kinds |= set(chosen.kind[is_floor])
                chosen = chosen[~is_floor]
            means.units.append(tables.mean_over(chosen, ["episode", "outcome", *family.by]))

    def table(
        self,
        families: Sequence[Family] | None = None,
        *,
        seed: int = 0,
        resamples: int = stats.RESAMPLES,
    ) -> pd.DataFrame:
        """Runs every test of every family, or of those named; arguments as of `aggregate`.

        Raises:
          ConfigError: a family without rows.
        """
        tests = []
        for family in self._families if families is None else families:
            if not self._means[family.name].units:
                raise ConfigError(
                    f"family {family.name!r} finds no rows of {family.hypothesis!r}"
                    f" with metrics {family.metrics}",
                    fix="Run launch.analyze with that hypothesis, or leave the family out",
                )
            tests += _tests(self._means[family.name], family, seed, resamples)
        return pd.DataFrame(tests).reindex(columns=pd.Index(COLUMNS))


def aggregate(
    rows: pd.DataFrame,
    families: Sequence[Family],
    *,
    seed: int = 0,
    resamples: int = stats.RESAMPLES,
) -> pd.DataFrame:
    """Runs every test of every family.

    Args:
      rows: table with the columns of `tables.COLUMNS`, one or several rows per episode.
      families: what is tested.
      seed: of permutations and bootstraps, not negative; the draws of a test depend on it and on
        the name of the test, not on other tests.
      resamples: of permutations and bootstraps.

    Returns:
      One row per test, with the columns `COLUMNS`. `p` is that of the primary test, `p_holm` and
      `p_bh` are adjusted over all `family_size` tests of the family, of which `tested` have a
      number; the others count as p = 1. `difference` is success - failure, the mean - reference,
      or the mean - floor; `ci_low`, `ci_high` are its BCa interval. `floor_gaps` names the kinds of
      `Family.floor` that episodes of the test lack.

    Raises:
      ConfigError: two families of one name, or a family without rows.
    """
    reduced = Reduced(families)
    reduced.add(rows)
    return reduced.table(seed=seed, resamples=resamples)


def _floors(floors: Any, family: Family) -> pd.DataFrame:
    """Means per episode, layer and so on of every kind that makes a floor, a column each."""
    shared = [c for c in family.by if c not in ("variant", "kind")]
    means = tables.mean_over(floors, ["episode", *shared, "variant", "kind"])
    by_kind: Any = tables.mean_over(means, ["episode", *shared, "kind"])
    by_kind["kind"] = by_kind["kind"].astype(str)
    wide = by_kind.set_index(["episode", *shared, "kind"])["value"].unstack("kind")
    return wide.reindex(columns=pd.Index(family.floor)).reset_index()


def _tests(means: _Means, family: Family, seed: int, resamples: int) -> list[dict[str, Any]]:
    units: Any = tables.concat(means.units)
    floors = tables.concat(means.floors) if means.floors else None
    shared_facts = {
        "null_floor": _mean(stats.finite(np.array(means.beside))),
        "floor_kinds": ",".join(kind for kind in family.floor if kind in means.floor_kinds),
    }
    tests = []
    for key, group in units.groupby(list(family.by), observed=True, sort=True):
        labels = dict(zip(family.by, key if isinstance(key, tuple) else (key,), strict=True))
        draw = zlib.crc32(repr((family.name, sorted(labels.items()))).encode()) ^ seed
        row = {"family": family.name, "hypothesis": family.hypothesis, "test": family.test}
        row |= labels | shared_facts
        if family.test == "outcome":
            row |= _outcome(group, family, draw, resamples)
        else:
            row |= _single(group, labels, floors, family, draw, resamples)
        tests.append(row)
    p = [row["p"] for row in tests]
    sizes = {"family_size": len(tests), "tested": int(np.isfinite(p).sum())}
    for row, p_holm, p_bh in zip(tests, *stats.adjust(p), strict=True):
        row |= {"p_holm": float(p_holm), "p_bh": float(p_bh), **sizes}
    return tests


def _outcome(group: Any, family: Family, seed: int, resamples: int) -> dict[str, Any]:
    good, bad = (
        stats.finite(group.value[group.outcome == name].to_numpy()) for name in (SUCCESS, FAILURE)
    )
    found = (
        stats.welch(good, bad, family.alternative),
        stats.mann_whitney(good, bad, family.alternative),
        stats.permutation(good, bad, family.alternative, seed=seed, resamples=resamples),
    )
    interval = stats.bca_interval((good, bad), seed=seed, resamples=resamples)
    d = stats.cohens_d(good, bad)
    return _row(found, family, interval) | {
        "n": len(good) + len(bad),
        "n_success": len(good),
        "n_failure": len(bad),
        "mean": _mean(np.concatenate([good, bad])),
        "mean_success": _mean(good),
        "mean_failure": _mean(bad),
        "d": d,
        "g": stats.hedges_g(d, len(good) + len(bad)),
        "minimal_d": stats.minimal_detectable_d(len(good), len(bad)),
        "power_note": stats.power_note(len(good), len(bad)),
    }


def _single(
    group: Any,
    labels: Mapping[str, Any],
    floors: Any,
    family: Family,
    seed: int,
    resamples: int,
) -> dict[str, Any]:
    value = group.value.to_numpy(np.float64)
    reference, given = np.full(len(value), family.reference), None
    if floors is not None:
        here = floors
        for column, label in labels.items():
            if column in floors.columns:
                here = here[here[column] == label]
        by_kind = here.assign(episode=here.episode.astype(str)).set_index("episode")
        given = by_kind[list(family.floor)].reindex(group.episode.astype(str))
        reference = given.max(axis=1).to_numpy(np.float64)
    difference = value - reference
    used = np.isfinite(difference)
    x = difference[used]
    found = (
        stats.paired_t(x, family.alternative),
        stats.wilcoxon(x, family.alternative),
        stats.sign_flip(x, family.alternative, seed=seed, resamples=resamples),
    )
    interval = stats.bca_interval((x,), seed=seed, resamples=resamples)
    d = stats.cohens_d_paired(x)
    row = _row(found, family, interval)
    if floors is not None and not used.any():
        row["reason"] = f"no null floor: no variant of kind {' or '.join(family.floor)}"
    minimal = stats.minimal_detectable_d(len(x))
    return row | {
        "n": len(x),
        "mean": _mean(value[used]),
        "reference": _mean(reference[used]),
        "floor_gaps": "" if given is None else _gaps(given[used]),
        "d": d,
        "g": stats.hedges_g(d, len(x), groups=1),
        "minimal_d": minimal,
        "power_note": ""
        if len(x) >= 2 and minimal <= stats.LARGE_EFFECT
        else f"{len(x)} episodes: too few to find d = {stats.LARGE_EFFECT} with 80% power",
    }


def _gaps(given: Any) -> str:
    """Kinds (columns) that episodes (rows) have no floor of, with the names of the episodes."""
    lacking = {kind: list(given.index[given[kind].isna()]) for kind in given.columns}
    return "; ".join(
        f"no {kind} in {'any episode' if len(names) == len(given) else ', '.join(names)}"
        for kind, names in lacking.items()
        if names
    )


def _row(found: Sequence[stats.Result], family: Family, interval: stats.Interval) -> dict[str, Any]:
    primary = family.primary or TESTS[family.test][0]
    by_name = {result.test: result for result in found}
    row: dict[str, Any] = {"alternative": family.alternative, "primary": primary}
    for result in found:
        row |= {f"{result.test}_statistic": result.statistic, f"{result.test}_p": result.p}
    return row | {
        "p": by_name[primary].p,
        "difference": interval.estimate,
        "ci_low": interval.low,
        "ci_high": interval.high,
        "reason": by_name[primary].reason,
    }


def _mean(x: np.ndarray) -> float:
    return float(x.mean()) if len(x) else float("nan")


COLUMNS: tuple[str, ...] = (
    "family",
    "hypothesis",
    "test",
    "metric",
    "variant",
    "kind",
    "query",
    "layer",
    "head",
    "camera",
    "object",
    "role",
    "n",
    "n_success",
    "n_failure",
    "mean",
    "mean_success",
    "mean_failure",
    "reference",
    "null_floor",
    "floor_kinds",
    "floor_gaps",
    "difference",
    "ci_low",
    "ci_high",
    "d",
    "g",
    "alternative",
    "primary",
    "p",
    "p_holm",
    "p_bh",
    "family_size",
    "tested",
    *(f"{t}_{f}" for t in TESTS["outcome"] for f in ("statistic", "p")),
    *(f"{t}_{f}" for t in _SINGLE for f in ("statistic", "p")),
    "minimal_d",
    "power_note",
    "reason",
)
