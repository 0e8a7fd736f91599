"""Runs hypotheses over recorded episodes: per-episode tables, resumable, in parallel.

    python -m launch.analyze --run=RUN --config=configs/analysis/all.py --workdir=OUT
        [--jobs=2] [--backend=loky|threading|ray|dask] [--json]

RUN is what `launch.evaluate --capture=...` left: `episodes/` with observations and attention, and
`variants/<key>/` with other prompts, noise or interventions. OUT receives `config.json` (with the
families of tests, declared before anything is tested), `run.json`, `episodes.json`, and per episode
`frames.parquet`, `rows.{parquet,csv,json}` and `done.json`.

Finished episodes are not analysed again. An episode that fails is named and never marked done; the
others are analysed, and the exit code is 2; 1 for a defect, with the traceback of the first.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
from absl import flags, logging

from attn_jax.analysis.options import Options
from attn_jax.core.errors import ConfigError, InputError
from attn_jax.data import episodes
from attn_jax.probe import arrays, schema
from attn_jax.train.progress import ProgressBar
from launch import app, episode_analysis
from launch.analysed import EXPECTED, check_config
from launch.parallel import BACKENDS, parallel, register

RUN = app.define_run()
JOBS = app.define_jobs()
BACKEND = flags.DEFINE_enum("backend", "loky", BACKENDS, "How jobs run, a joblib back end.")


#: Hypotheses that read no attention of the base.
_OF_VARIANTS = ("h1", "h2_2")


def main(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
    """Analyses what is not finished; returns counts.

    Raises:
      ConfigError: bad settings.
      InputError: no episodes there, or some of them failed.
    """
    if not RUN.value:
        raise ConfigError("--run is required", fix="Name the folder that launch.evaluate wrote")
    return analyse_run(
        pathlib.Path(RUN.value), config, workdir, jobs=JOBS.value, backend=BACKEND.value
    )


def analyse_run(
    run: pathlib.Path,
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    *,
    jobs: int = 1,
    backend: str = "loky",
) -> dict[str, Any]:
    """Analyses every episode of a run that is not finished.

    Returns:
      `episodes`, `analysed`, `already_done`, `rows` and `skipped` (hypothesis -> episodes).

    Raises:
      InputError: bad settings, no episodes, or, after the others are done, failed ones.
      RuntimeError: after the others are done, episodes whose analysis has a defect; with the
        traceback of the first.
    """
    plain = app.jsonable(config.to_dict())
    check_config(plain)
    register(backend)
    names = [folder.name for folder in episodes.episodes_of(run)]
    check_recorded(run, names, episode_analysis.options_of(plain))
    folder = app.prepare_workdir(workdir, config)
    # So that an aggregate knows which episodes are missing.
    app.write_json(folder / EXPECTED, {"run": run.name, "episodes": names})
    std = episode_analysis.run_action_std(run, plain)
    work = [episode_analysis.Job(run, name, folder, plain, std) for name in names]
    waiting = [job for job in work if not job.is_done()]
    logging.info("%d episodes, %d already done", len(work), len(work) - len(waiting))
    failed: dict[str, str] = {}
    defects: dict[str, str] = {}
    skipped: dict[str, list[str]] = {}
    rows = 0
    with ProgressBar(len(waiting)) as bar:
        for number, done in enumerate(
            parallel(episode_analysis.analyse, waiting, jobs=jobs, backend=backend)
        ):
            bar.update(step=number + 1)
            rows += done.rows
            if done.defect:
                defects[done.episode] = done.defect
            if done.problem:
                failed[done.episode] = done.problem
                logging.error("%s failed: %s", done.episode, done.problem)
            for name in done.skipped:
                skipped.setdefault(name, []).append(done.episode)
    for name, where in skipped.items():
        logging.warning("%s was skipped in %d episodes, see done.json", name, len(where))
    if failed:
        first = next(iter(defects or failed))
        text = (
            f"{len(failed)} of {len(work)} episodes failed ({', '.join(failed)});"
            f" {first}: {failed[first]}"
        )
        if defects:
            raise RuntimeError(f"{run}: {text}\n\n{defects[first]}")
        raise InputError(
            text, where=run, fix="The others are done; start again when the cause is gone"
        )
    return {
        "episodes": len(work),
        "analysed": len(waiting),
        "already_done": len(work) - len(waiting),
        "rows": rows,
        "skipped": skipped,
    }


def check_recorded(
    run: pathlib.Path, names: Sequence[str], options: Mapping[str, tuple[Options, str]]
) -> None:
    """Refuses cameras and streams that no episode of a run has.

    A hypothesis that may be left out may name streams that were not recorded. Episodes that are
    damaged count as if they had everything; they are named when they are analysed.

    Raises:
      ConfigError: names what there is.
    """
    cameras: set[str] = set()
    streams: set[str] = set()
    for name in names:
        folder = run / episodes.EPISODES / name
        try:
            cameras.update(episodes.read_meta(folder)["cameras"])
            if (folder / schema.META).is_file():
                meta = arrays.read_json(folder / schema.META)
                streams.update(record.partition(".")[0] for record in meta.get("arrays", ()))
        except InputError:
            return
    for name, (given, missing) in options.items():
        wanted = [("camera", camera, cameras) for camera in given.cameras]
        if missing == episode_analysis.ERROR and streams and name not in _OF_VARIANTS:
            wanted += [("stream", stream, streams) for stream, _ in given.pairs()]
        for kind, value, known in wanted:
            if value not in known:
                raise ConfigError(
                    f"no episode has a {kind} {value!r}",
                    where=f"config.hypotheses.{name}",
                    fix=f"The run has {', '.join(sorted(known))}",
                )


if __name__ == "__main__":
    app.run(
        main,
        config=app.define_config(),
        field="hypotheses",
        example="configs/analysis/all.py",
        needs_workdir=True,
    )
