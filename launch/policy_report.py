"""Reads what the report of a policy is made of, from the folders of earlier commands.

RUN/           of launch.evaluate: episodes with attention, variants, run.json
AGG/           of launch.aggregate; without it the report shows successes and examples only
ROLLOUTS/      of launch.evaluate --env: how long episodes took, where RUN does not know

AGG alone will do, as it must where it pools several runs: then there are no examples.

report = build_policy_report(load_policy_run("RUN", "AGG"))
"""

from __future__ import annotations

import pathlib
import shlex
from collections.abc import Mapping
from typing import Any

import pandas as pd

from attn_jax.analysis.studies import FAILURE, SUCCESS, UNKNOWN, Study
from attn_jax.core.errors import ConfigError, InputError
from attn_jax.core.typing import PathLike
from attn_jax.data import episodes
from attn_jax.policies.recorder import read_outcome
from attn_jax.probe.schema import RUN
from attn_jax.viz.camera_maps import EpisodeView
from attn_jax.viz.policy_examples import Example
from attn_jax.viz.policy_report import PolicyRun
from launch import app
from launch.episode_analysis import open_study


def load_policy_run(
    run: PathLike | None = None,
    aggregate: PathLike | None = None,
    rollouts: PathLike | None = None,
) -> PolicyRun:
    """Reads the folders.

    Args:
      run: run folder with recorded episodes; None when there is only an aggregate.
      aggregate: folder of launch.aggregate.
      rollouts: run folder of the rollouts that `run` was made from; None takes `run`.

    Raises:
      InputError: neither is given, a folder that is missing or damaged, a run without episodes, or
        an aggregate of other episodes than those of the run.
    """
    table = rows = None
    summary: dict[str, Any] = {}
    heads: dict[str, Any] = {}
    if aggregate is not None:
        folder = pathlib.Path(aggregate)
        table, rows = _table(folder / "table.parquet"), _table(folder / "rows.parquet")
        summary, heads = (
            app.read_json(folder / "summary.json"),
            app.read_json(folder / "heads.json"),
        )
        analysed = _outcomes_of(rows)
        if run is None:
            return PolicyRun(
                table=table,
                rows=rows,
                summary=summary,
                heads=heads,
                outcomes=analysed,
                facts=_facts({}, analysed),
                provenance=app.read_json(folder / "run.json"),
            )
    elif run is None:
        raise ConfigError("neither a run nor an aggregate", fix="Give --run, --aggregate or both")
    run = pathlib.Path(run)
    names = [folder.name for folder in episodes.episodes_of(run)]
    outcomes = [
        _outcome(run / episodes.EPISODES / name, number, rollouts or run)
        for number, name in enumerate(names)
    ]
    if aggregate is not None:
        _check_same(outcomes, analysed, run, pathlib.Path(aggregate))
    settings = app.read_json(run / RUN)
    provenance = settings.get("provenance") or {}
    return PolicyRun(
        table=table,
        rows=rows,
        summary=summary or {"episodes": len(names), "families": {}},
        heads=heads,
        outcomes=outcomes,
        examples=_examples(run, names, outcomes),
        facts=_facts(settings, outcomes),
        provenance={
            key: shlex.join(value) if key == "command" and isinstance(value, list) else value
            for key, value in provenance.items()
            if key not in ("config", "model", "supervision")
        },
        supervision=provenance.get("supervision") or (),
    )


def _outcomes_of(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """What became of the episodes, as far as an aggregate knows; tasks are the pooled analyses."""
    success = {SUCCESS: True, FAILURE: False}
    found: Any = rows.groupby("episode", observed=True)["outcome"].first()
    out = []
    for name, outcome in found.items():
        analysis, _, _ = str(name).rpartition("/")
        task = analysis or "episodes"
        out.append(
            {"episode": str(name), "task": task, "success": success.get(outcome), "steps": None}
        )
    return out


def _check_same(
    outcomes: list[dict[str, Any]],
    analysed: list[dict[str, Any]],
    run: pathlib.Path,
    aggregate: pathlib.Path,
) -> None:
    """Raises ConfigError when an aggregate is of other episodes than those of the run."""
    known = {outcome["episode"]: outcome["success"] for outcome in outcomes}
    fix = "Give the two of one run; for an aggregate over several runs, --aggregate alone"
    strange = [o["episode"] for o in analysed if o["episode"] not in known]
    if strange:
        raise ConfigError(
            f"{len(strange)} of its episodes are not in the run {run.name!r}, {strange[0]} first",
            where=aggregate,
            fix=fix,
        )
    other = [o["episode"] for o in analysed if o["success"] is not known[o["episode"]]]
    if other:
        raise ConfigError(
            f"{other[0]} ended otherwise in the run {run.name!r}: they do not belong together",
            where=aggregate,
            fix=fix,
        )


def _table(path: pathlib.Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot be read: {error}", where=path, fix="Run launch.aggregate again"
        ) from error


def _outcome(folder: pathlib.Path, number: int, rollouts: PathLike) -> dict[str, Any]:
    """What became of an episode."""
    info = episodes.read_meta(folder)["info"]
    finished = read_outcome(rollouts, number) or {}
    return {
        "episode": folder.name,
        "task": str(info.get("task") or info.get("prompt") or "episodes"),
        "prompt": str(info.get("prompt") or ""),
        "success": info.get("success"),
        "steps": finished.get("steps"),
    }


def _examples(
    run: pathlib.Path, names: list[str], outcomes: list[dict[str, Any]]
) -> tuple[Example, ...]:
    """The first episode of every outcome that has attention."""
    chosen = []
    for wanted in (True, False, None):
        for name, outcome in zip(names, outcomes, strict=True):
            if outcome["success"] is wanted:
                study = open_study(run, name)
                if study.base.reader is not None:
                    chosen.append(_example(study))
                    break
    return tuple(chosen)


def _example(study: Study) -> Example:
    episode, reader = study.base.episode, study.base.reader
    assert isinstance(episode, episodes.Episode) and reader is not None
    places = study.base.places()
    changed = study.of_kind("counterfactual", "negation", "empty", "paraphrase")
    return Example(
        name=study.name,
        outcome={SUCCESS: "success", FAILURE: "failure", UNKNOWN: "unknown"}[study.outcome],
        prompt=episode.prompt,
        steps=[int(step) for step in study.base.steps()],
        images={camera: pictures[places] for camera, pictures in episode.images.items()},
        masks={camera: masks[places] for camera, masks in episode.masks.items()},
        objects=episode.objects,
        view=EpisodeView(reader),
        others={
            key: (str(other.episode.info.get("prompt") or ""), EpisodeView(other.reader))
            for key, other in changed.items()
            if other.reader is not None
        },
    )


def _facts(settings: Mapping[str, Any], outcomes: list[dict[str, Any]]) -> dict[str, Any]:
    provenance = settings.get("provenance") or {}
    facts = {
        "episodes": len(outcomes),
        "prompts": len({outcome["prompt"] for outcome in outcomes}) if settings else None,
        "source": provenance.get("source") or provenance.get("config", {}).get("env"),
        "checkpoint": provenance.get("checkpoint"),
        "captured": settings.get("selection"),
        "seed": provenance.get("seed"),
    }
    return {name: _words(value) for name, value in facts.items() if value is not None}


def _words(value: Any) -> Any:
    """A nested value as one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_words(item)}" for key, item in value.items())
    if isinstance(value, list):
        return " ".join(str(_words(item)) for item in value) or "all"
    return value
