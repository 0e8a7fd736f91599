"""Questions about every frame of the episodes of a run, for hypothesis H2.2.

    RUN = out/run                        written by launch.evaluate --episodes or --env
    python -m launch.answer --checkpoint=DIR --run=RUN --questions=configs/prompts/questions.yaml

RUN receives `variants/ask_<key>/` for every question: the attention of the streams that --capture
names, and `vqa` in the info of each episode: `question`, `answer` (one text per call), `expected`
and `object` where the question has them. An episode that was asked to its end is not asked again.
Accuracy means little for the published Pi0.5 weights, which were trained to act and answer poorly.
"""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging

from attn_jax.bridge import processor_steps as names
from attn_jax.core.errors import ConfigError, EpisodeError, InputError
from attn_jax.core.typing import PathLike
from attn_jax.data import episodes
from attn_jax.data.episodes import Episode, read_episode, write_episode
from attn_jax.data.questions import Question
from attn_jax.policies.answers import Answerer
from attn_jax.probe.schema import continue_run
from attn_jax.probe.store import RecordWriter
from attn_jax.train.progress import ProgressBar

PREFIX = "ask_"
_BATCH = 4  # frames that are asked about together


def check_run(run: PathLike) -> list[pathlib.Path]:
    """Folders of the episodes of a run.

    Raises:
      ConfigError: there are none.
    """
    found = [*episodes.episodes_of(run)] if pathlib.Path(run).is_dir() else []
    if not found:
        raise ConfigError(
            "holds no episodes", where=run, fix="Name a run of launch.evaluate --episodes or --env"
        )
    return found


def ask(
    answerer: Answerer,
    run: PathLike,
    questions: Sequence[Question],
    *,
    seed: int = 0,
    provenance: Mapping[str, Any] | None = None,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Asks every question about every call of every episode.

    Args:
      answerer: has a tokenizer.
      run: folder of the episodes.
      questions: what to ask.
      seed: for sampling.
      provenance: JSON-compatible facts for `run.json`.
      progress: show a progress bar; None on a terminal only.

    Returns:
      `episodes`, `questions` (keys), `answers` (given now) and `skipped` (questions about episodes
      that were answered before).

    Raises:
      EpisodeError: episodes failed; all others were asked about before.
      ConfigError: the run has no episodes, or was asked the same with other settings.
    """
    run, folders = pathlib.Path(run), check_run(run)
    for question in questions:
        continue_run(
            run / episodes.VARIANTS / (PREFIX + question.key),
            ("question", "checkpoint", "seed"),
            if_known=("checkpoint_fingerprint",),
            selection=answerer.selection,
            provenance={
                **(provenance or {}),
                "question": dataclasses.asdict(question),
                "seed": seed,
            },
        )
    failed: dict[str, str] = {}
    answers = skipped = 0
    with ProgressBar(len(folders), enabled=progress) as bar:
        for number, folder in enumerate(folders):
            try:
                episode = None
                for question in questions:
                    to = _folder(run, question, folder)
                    if (to / episodes.META).is_file():
                        skipped += 1
                        continue
                    episode = read_episode(folder) if episode is None else episode
                    _ask_about(answerer, episode, folder, to, question, seed)
                    answers += episode.num_calls
            except InputError as error:
                failed[folder.name] = str(error)
                logging.error("%s failed: %s", folder.name, error)
            finally:
                bar.update(step=number + 1, values={"failed": float(len(failed))})
    if failed:
        name, message = next(iter(failed.items()))
        raise EpisodeError(
            f"{len(failed)} of {len(folders)} episodes failed ({', '.join(failed)}); the first: "
            f"{name}: {message}",
            fix="Repair them and start again: what was answered is not asked again",
        )
    return {
        "episodes": len(folders),
        "questions": [question.key for question in questions],
        "answers": answers,
        "skipped": skipped,
    }


def _folder(run: pathlib.Path, question: Question, episode: pathlib.Path) -> pathlib.Path:
    variant = run / episodes.VARIANTS / (PREFIX + question.key)
    return variant / episodes.EPISODES / episode.name


def _ask_about(
    answerer: Answerer,
    episode: Episode,
    folder: pathlib.Path,
    to: pathlib.Path,
    question: Question,
    seed: int,
) -> None:
    """Asks one question at every call of an episode and writes what comes.

    Args:
      answerer: has a tokenizer.
      episode: what was read from `folder`.
      folder: of the episode.
      to: folder to write to.
      question: what to ask.
      seed: for sampling.
    """
    asked = question.about(episode.roles)
    if to.exists():
        shutil.rmtree(to)  # of an attempt that was cut off
    number = int(folder.name.rpartition("_")[2])
    vqa: dict[str, Any] = {"question": asked.text}
    if asked.expected is not None:
        vqa["expected"] = asked.expected
    if asked.object is not None:
        vqa["object"] = asked.object
    info = {**episode.info, "variant": PREFIX + question.key, "method": "none", "vqa": vqa}
    selection = answerer.selection
    writer = None
    if selection is not None:
        writer = RecordWriter(to.parents[1], number, codec=selection.dtype, info=info)
    said: list[str] = []
    try:
        for start in range(0, episode.num_calls, _BATCH):
            calls = range(start, min(start + _BATCH, episode.num_calls))
            # A short batch is filled with its first frame, so that one program serves all.
            rows = [*calls, *([calls[0]] * (_BATCH - len(calls)))]
            wanted = [c for c in calls if selection is not None and selection.wants(c)]
            values = _observation(answerer, episode, rows)
            prepared = answerer.prepare(values, [asked.text] * len(rows))
            rng = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), number), start)
            answer, records = answerer.answer(prepared, rng, record=bool(wanted))
            said += answerer.texts(answer)[: len(calls)]
            if writer is None or records is None:
                continue
            for call in wanted:
                writer.append(records[call - start], env_step=int(episode.env_step[call]))
        if writer is not None:
            writer.close()
    finally:
        if writer is not None:
            writer.abort()
    vqa["answer"] = said
    write_episode(to, dataclasses.replace(episode, info=info, actions=None), frames_of=folder)


def _observation(answerer: Answerer, episode: Episode, rows: Sequence[int]) -> dict[str, Any]:
    """Calls of an episode with LeRobot's keys.

    Raises:
      ConfigError: the checkpoint lacks a camera of the episode.
    """
    keys = answerer.description.image_keys
    missing = [camera for camera in episode.images if camera not in keys]
    if missing or not episode.images:
        raise ConfigError(
            f"the checkpoint has no camera for {', '.join(missing) or 'an episode without any'}",
            where="--run",
            fix=f"It has {', '.join(keys)}: make the run with this checkpoint",
        )
    values: dict[str, Any] = {
        keys[camera]: np.asarray(pictures[rows]) for camera, pictures in episode.images.items()
    }
    return {**values, names.STATE: episode.state[rows]}
