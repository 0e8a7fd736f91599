"""Rollouts of a policy in environments: what `launch.evaluate --env` runs.

n environments run side by side, each in a thread of its own; the policy predicts for all of them at
once, every `n_action_steps` steps. An environment that is done begins its next episode at the next
prediction, so that the batch stays full and calls stay in step. An episode depends on its task,
seed and number only: noise is drawn by seed, episode and call.

    RUN/run.json, episodes/episode_00000/...    see `attn_jax.policies.recorder`
    RUN/videos/<group>_<task>/eval_episode_00000.mp4
    RUN/eval_info.json                          keys of lerobot-eval

    jobs = plan_jobs(env.tasks, episodes=10, seed=1000)
    info = run_rollouts(policy, make_env, jobs, Settings(run, n_envs=2))
"""

from __future__ import annotations

import collections
import concurrent.futures
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from absl import logging

from attn_jax.core.errors import ConfigError, DiskFullError, EpisodeError
from attn_jax.policies.policy import Policy, Prediction
from attn_jax.policies.recorder import read_outcome
from attn_jax.train.progress import ProgressBar
from launch.pace import Pace
from launch.rollout_results import write_eval_info
from launch.rollout_slots import Job, Settings, Slot
from robots.interface import EnvTask, PolicyEnv

#: Of an outcome; `seconds` was not written by earlier versions.
_FIELDS = {"task_group", "task_id", "seed", "success", "sum_reward", "max_reward", "video"}


def plan_jobs(tasks: Sequence[EnvTask], *, episodes: int, seed: int) -> list[Job]:
    """`episodes` episodes of every task, one task after the other.

    As in lerobot-eval, seeds begin anew with every task. Numbers count the first episodes of all
    tasks, then the second ones and so on, so that more episodes leave those of earlier ones alone.
    """
    return [
        Job(repeat * len(tasks) + place, task, seed + repeat, repeat)
        for place, task in enumerate(tasks)
        for repeat in range(episodes)
    ]


def run_rollouts(
    policy: Policy, make_env: Callable[[], PolicyEnv], jobs: Sequence[Job], settings: Settings
) -> dict[str, Any]:
    """Runs the jobs that are not finished yet; returns and writes `eval_info.json`.

    Raises:
      EpisodeError: episodes failed; they stay unfinished, all others were run before.
      ConfigError: the environment does not fit the policy, or the run is one of other jobs.
      DiskFullError: nothing more can be written.
    """
    run = _Run(policy, jobs, settings)
    slots: list[Slot] = []
    try:
        with run.bar:
            slots += [Slot(make_env, settings) for _ in range(min(settings.n_envs, run.left))]
            while run.turn(slots):
                pass
    finally:
        for slot in slots:
            slot.close()
    return run.result()


class _Run:
    """The jobs that wait, those that are finished and those that failed."""

    def __init__(self, policy: Policy, jobs: Sequence[Job], settings: Settings):
        self._policy, self._jobs, self._settings = policy, jobs, settings
        self._finished = _outcomes(jobs, settings)
        self._failed: dict[Job, Exception] = {}
        self._waiting = collections.deque(j for j in jobs if j.number not in self._finished)
        if self._finished:
            logging.info("%d of %d episodes are finished already", len(self._finished), len(jobs))
        self._succeeded = 0
        self._pace = Pace(self.left)
        self.bar = ProgressBar(self.left, enabled=settings.progress)

    @property
    def left(self) -> int:
        """Jobs that have not begun."""
        return len(self._waiting)

    def turn(self, slots: Sequence[Slot]) -> bool:
        """One prediction for every environment, and its actions; False when all jobs are done."""
        began = time.monotonic()
        for slot in slots:
            while slot.job is None and self._waiting:
                job = self._waiting.popleft()
                self._settle(slot, job, slot.begin(job, self._policy))
        active = [(slot, slot.job) for slot in slots if slot.job is not None]
        if not active:
            return False
        policy, settings = self._policy, self._settings
        prediction = _predict(policy, [slot for slot, _ in active], settings, batch=len(slots))
        steps = settings.n_action_steps or policy.config.n_action_steps
        # Environments side by side share the time: the seconds of their episodes add up to it.
        share = 1 / len(active)
        turns = [
            slot.act(prediction, item, steps, policy, began=began, share=share)
            for item, (slot, _) in enumerate(active)
        ]
        concurrent.futures.wait(turns)
        for slot, _ in active:
            slot.seconds += share * (time.monotonic() - began)
        for (slot, job), turn in zip(active, turns, strict=True):
            self._settle(slot, job, turn)
        return True

    def _settle(
        self, slot: Slot, job: Job, turn: concurrent.futures.Future[dict[str, Any] | None]
    ) -> None:
        """Waits; an episode that failed is left unfinished, its environment is made anew.

        What fails for every episode alike stops the run.
        """
        error = turn.exception()
        if error is None:
            outcome = turn.result()
            if outcome is None:
                return
            self._finished[job.number] = outcome
            self._succeeded += bool(outcome["success"])
            self._write()
            success = "success" if outcome["success"] else "no success"
            ending = f"{success} after {outcome['steps']} steps"
        elif isinstance(error, Exception) and not isinstance(error, (ConfigError, DiskFullError)):
            logging.error("%s failed; a new environment goes on", job, exc_info=error)
            self._failed[job] = error
            slot.rebuild()
            ending = "failed"
        else:
            raise error
        logging.info("%s: %s; %s", job, ending, self._pace.done())
        ended = max(1, self._pace.count - len(self._failed))
        self.bar.update(step=self._pace.count, values={"success": self._succeeded / ended})

    def _write(self) -> dict[str, Any]:
        outcomes = [self._finished[j.number] for j in self._jobs if j.number in self._finished]
        return write_eval_info(outcomes, self._settings.run)

    def result(self) -> dict[str, Any]:
        """What `eval_info.json` holds; raises `EpisodeError` when episodes failed."""
        info = self._write()
        if self._failed:
            job, error = next(iter(self._failed.items()))
            raise EpisodeError(
                f"{len(self._failed)} of {len(self._jobs)} episodes failed "
                f"({', '.join(str(job.number) for job in self._failed)}); the first: {job}: "
                f"{type(error).__name__}: {error}",
                where=self._settings.run,
                fix="Repair the environment and start again: what is finished is not run again",
            ) from error
        return info


def _outcomes(jobs: Sequence[Job], settings: Settings) -> dict[int, dict[str, Any]]:
    """Number -> outcome of the jobs that are finished.

    Raises:
      ConfigError: one of them was another job, or its outcome is not whole.
    """
    found = {}
    for job in jobs:
        outcome = read_outcome(settings.run, job.number)
        if outcome is None:
            continue
        if missing := _FIELDS - set(outcome):
            raise ConfigError(
                f"outcome of episode {job.number} lacks {', '.join(sorted(missing))}",
                where=settings.run,
                fix="Remove the folder of the episode to run it again",
            )
        wanted = (job.task.group, job.task.number, job.seed)
        if (outcome["task_group"], outcome["task_id"], outcome["seed"]) != wanted:
            raise ConfigError(
                f"episode {job.number} was run with another task or seed",
                where=settings.run,
                fix="Name another --workdir, or give the same tasks and seed",
            )
        found[job.number] = outcome
    return found


def _predict(
    policy: Policy, slots: Sequence[Slot], settings: Settings, *, batch: int
) -> Prediction:
    """Predicts for every slot; a batch that has become small is filled with its first sample."""
    rows = [*slots, *(slots[:1] * (batch - len(slots)))]
    views = [slot.view for slot in rows]
    first = views[0]
    observation: dict[str, Any] = {
        f"observation.images.{camera}": np.stack([view.images[camera] for view in views])
        for camera in first.images
    }
    observation["observation.state"] = np.stack([view.state for view in views])
    observation["task"] = [slot.prompt for slot in rows]
    noise = np.stack(
        [policy.episode_noise(settings.seed, slot.number, slot.num_calls) for slot in rows]
    )
    wanted = policy.selection is not None and any(
        policy.selection.wants(slot.num_calls) for slot in slots
    )
    return policy.predict(observation, noise, capture=wanted)
