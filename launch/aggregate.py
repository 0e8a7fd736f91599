"""Statistics over analysed episodes: the families of tests that the analysis declared.

    python -m launch.aggregate --analysis=OUT[,OUT2] --workdir=AGG [--seed=0] [--allow_missing]
        [--json]

OUT is a folder of `launch.analyze`; several are pooled when they declared the same families and
have no recording in common. An episode without results is an error that names it, or with
`--allow_missing` is named in the summary and the report. AGG
receives `table.{parquet,csv,json}` (one row per test: means, effect, interval, p, adjusted p, null
floor, power note; columns of `analysis.aggregate.COLUMNS`), `rows.{parquet,csv}` (one row per
episode and measure), `heads.{parquet,csv,json}` (ranking of heads), `summary.json`, and in the
shapes of an earlier system `multi_episode_aggregate.json` and `cf_multi_episode_aggregate.json`.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from absl import flags, logging

from attn_jax.analysis import heads, seed_json, stats, tables
from attn_jax.analysis.aggregate import Family, Reduced
from attn_jax.core.errors import ConfigError, InputError
from launch import app
from launch.analysed import RowsWriter, families_of, open_analyses
from launch.episode_analysis import write_table

ANALYSIS = flags.DEFINE_list("analysis", None, "Folders that launch.analyze wrote.")
ALLOW_MISSING = flags.DEFINE_bool(
    "allow_missing", False, "Test what there is when episodes were not analysed, and name them."
)
ALPHA = stats.ALPHA
#: A head with less of its attention on a camera does not look at it.
LEAST_MASS = 0.01
#: Columns of heads.csv; `place` is that in the order of the query and camera, from 1.
HEADS = (
    "query", "camera", "place", "layer", "head", "normalised_entropy", "lift", "mass",
    "rank", "rank_low", "rank_high", "units",
)  # fmt: skip


def main() -> dict[str, Any]:
    """Aggregates; returns the summary."""
    if not ANALYSIS.value or not app.WORKDIR.value:
        raise ConfigError(
            "--analysis and --workdir are required",
            fix="--analysis names folders of launch.analyze, --workdir where results go",
        )
    folders = [pathlib.Path(name) for name in ANALYSIS.value]
    return aggregate_runs(
        folders,
        pathlib.Path(app.WORKDIR.value),
        seed=app.define_seed().value,
        allow_missing=ALLOW_MISSING.value,
    )


def aggregate_runs(
    analyses: Sequence[pathlib.Path],
    workdir: pathlib.Path,
    *,
    seed: int = 0,
    allow_missing: bool = False,
) -> dict[str, Any]:
    """Runs the declared families and writes every table; returns the summary.

    Args:
      analyses: folders of launch.analyze.
      workdir: where the tables go.
      seed: of permutations and bootstraps, not negative.
      allow_missing: test what there is when episodes have no results; `missing` names them.

    Raises:
      ConfigError: nothing analysed, folders that declared different families, or an episode that
        would count twice.
      InputError: episodes without results, or with damaged ones.
    """
    found = open_analyses(analyses)
    config, missing = found.config, found.missing
    if missing:
        first = next(iter(missing))
        text = (
            f"{len(missing)} of {len(missing) + len(found.episodes)} episodes have no results"
            f" ({', '.join(missing)}); {first} {missing[first]}"
        )
        if not allow_missing:
            raise InputError(
                text, where=analyses[0], fix="Run launch.analyze again, or add --allow_missing"
            )
        logging.warning("%s", text)
    workdir.mkdir(parents=True, exist_ok=True)
    families = families_of(config)
    if seed < 0:
        raise ConfigError(f"seed is {seed}", where="--seed", fix="Use 0 or more")
    reduced, present = Reduced(families), set()
    for_heads, for_seeds = [], []
    # Episode by episode: only their means are kept, so that memory does not grow with the rows.
    with RowsWriter(workdir / "rows") as writer:
        for episode in found.episodes:
            rows = episode.rows()
            writer.add(rows)
            reduced.add(rows)
            present |= set(rows.hypothesis.unique())
            for_heads.append(head_rows(rows))
            for_seeds.append(seed_json.aggregate_rows(rows))
    left_out = [family for family in families if family.hypothesis not in present]
    for family in left_out:
        logging.warning("family %r: %s was not run", family.name, family.hypothesis)
    families = [family for family in families if family not in left_out]
    table = reduced.table(families, seed=seed, resamples=int(config["resamples"]))
    write_table(table, workdir / "table")
    ranking = rank(tables.concat(for_heads), seed, int(config["rank_resamples"]))
    app.write_json(workdir / "heads.json", ranking)
    head_table(ranking).to_parquet(workdir / "heads.parquet", index=False)
    head_table(ranking).to_csv(workdir / "heads.csv", index=False)
    means = tables.concat(for_seeds)
    for name, data in (
        ("multi_episode_aggregate.json", seed_json.object_aggregate(means)),
        ("cf_multi_episode_aggregate.json", seed_json.counterfactual_aggregate(means)),
    ):
        if data is not None:
            app.write_json(workdir / name, data)
    summary = summarise(table, [episode.facts for episode in found.episodes], families)
    for name, facts in summary["families"].items():
        for gap in facts["floor_gaps"]:
            logging.warning("family %r: null floor with %s", name, gap)
    summary["missing"] = dict(missing)
    summary["left_out"] = {family.name: f"{family.hypothesis} was not run" for family in left_out}
    summary["seed"], summary["resamples"] = seed, int(config["resamples"])
    app.write_json(workdir / "summary.json", summary)
    app.write_json(workdir / "run.json", app.provenance(seed))
    return summary


def head_rows(rows: Any) -> pd.DataFrame:
    """The means per episode that `rank` needs."""
    chosen = rows[(rows.hypothesis == "h4") & (rows["head"] >= 0)]
    chosen = chosen[chosen.metric.isin(("normalised_entropy", "mass", "lift"))]
    keep = ["episode", "hypothesis", "metric", "query", "layer", "head", "camera", "role"]
    return tables.mean_over(chosen, keep)


def rank(rows: Any, seed: int, resamples: int) -> dict[str, Any]:
    """Ranking of heads by query and camera; episodes are the units.

    Heads that give a camera less than `LEAST_MASS` of their attention come last, without an
    entropy: the shape of nearly nothing is no focus.
    """
    out: dict[str, Any] = {}
    chosen = rows[(rows.hypothesis == "h4") & (rows["head"] >= 0)]
    for (query, camera), group in chosen.groupby(["query", "camera"], observed=True):
        entropy, layers, numbers, names = _grid(group[group.metric == "normalised_entropy"])
        mass = np.nanmean(_grid(group[group.metric == "mass"])[0], axis=0)
        entropy[:, mass < LEAST_MASS] = np.nan
        target = group[(group.metric == "lift") & (group.role == "target")]
        lift = None
        if len(target):
            lift = np.full_like(entropy, np.nan)
            found, _, _, there = _grid(target)
            lift[[names.index(name) for name in there]] = found
        ranking = heads.rank_heads(
            entropy, lift, layers=layers, heads=numbers, seed=seed, resamples=resamples
        )
        out[f"{query}/{camera}"] = {
            "units": ranking.units,
            "heads": [
                {
                    "layer": layer,
                    "head": head,
                    "normalised_entropy": ranking.entropy[i],
                    "lift": ranking.lift[i],
                    "mass": mass[layers.index(layer), numbers.index(head)],
                    "rank": ranking.rank[i],
                    "rank_low": ranking.low[i],
                    "rank_high": ranking.high[i],
                }
                for i, (layer, head) in enumerate(ranking.order)
            ],
        }
    return out


def head_table(ranking: Mapping[str, Any]) -> pd.DataFrame:
    """The ranking of `rank` as one row per query, camera and head, with the columns `HEADS`."""
    lines = [
        dict(zip(("query", "camera"), name.rsplit("/", 1), strict=True))
        | {"place": place, "units": of["units"]}
        | head
        for name, of in ranking.items()
        for place, head in enumerate(of["heads"], 1)
    ]
    return pd.DataFrame(lines, columns=pd.Index(HEADS))


def _grid(rows: Any) -> tuple[np.ndarray, list[int], list[int], list[str]]:
    """(episode, layer, head) means and the labels of its axes."""
    means = rows.groupby(["episode", "layer", "head"], observed=True)["value"].mean()
    wide = means.unstack(["layer", "head"])
    layers, numbers = (sorted(set(wide.columns.get_level_values(i))) for i in (0, 1))
    columns = pd.MultiIndex.from_product([layers, numbers], names=["layer", "head"])
    values = wide.reindex(columns=columns).to_numpy(np.float64)
    shape = (len(wide), len(layers), len(numbers))
    return values.reshape(shape), [*map(int, layers)], [*map(int, numbers)], [*map(str, wide.index)]


def summarise(
    table: Any, episodes: Sequence[Mapping[str, Any]], families: Sequence[Family]
) -> dict[str, Any]:
    """Counts, what was found in every family, and power notes."""
    outcomes = [episode["outcome"] for episode in episodes]
    skipped: dict[str, int] = {}
    for episode in episodes:
        for name in episode.get("skipped", {}):
            skipped[name] = skipped.get(name, 0) + 1
    out: dict[str, Any] = {
        "episodes": len(episodes),
        "outcomes": {name: outcomes.count(name) for name in sorted(set(outcomes))},
        "skipped": skipped,
        "families": {},
    }
    for family in families:
        rows = table[table.family == family.name]
        found = rows[rows.p_holm <= ALPHA]
        notes = [note for note in dict.fromkeys(rows.power_note.dropna()) if note]
        out["families"][family.name] = {
            "hypothesis": family.hypothesis,
            "test": family.test,
            "tests": len(rows),
            "undefined": int(rows.p.isna().sum()),
            "found_holm": len(found),
            "found_bh": int((rows.p_bh <= ALPHA).sum()),
            "smallest_p_holm": float(rows.p_holm.min()),
            "null_floor": float(rows.null_floor.max()),
            "floor_gaps": [gap for gap in dict.fromkeys(rows.floor_gaps.dropna()) if gap],
            "power_note": notes[0] if notes else "",
        }
    return out


if __name__ == "__main__":
    app.define_seed()
    app.run(main)
