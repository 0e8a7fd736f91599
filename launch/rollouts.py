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
import dataclasses
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from attn_jax.core import files
from attn_jax.core.errors import ConfigError
from attn_jax.core.geometry import rot180
from attn_jax.core.typing import NumpyArray
from attn_jax.policies.policy import Policy, Prediction
from attn_jax.policies.recorder import EpisodeRecorder, read_outcome
from attn_jax.train.progress import ProgressBar
from attn_jax.viz.video import VideoWriter
from robots.interface import EnvTask, PolicyEnv, View

EVAL_INFO = "eval_info.json"


@dataclasses.dataclass(frozen=True)
class Job:
    """One episode to run.

    Attributes:
      number: of the episode in the run.
      task: what to do.
      seed: of the environment.
      repeat: number of the episode of its task.
    """

    number: int
    task: EnvTask
    seed: int
    repeat: int


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to run.

    Attributes:
      run: run folder.
      n_envs: environments side by side.
      seed: of the noise.
      n_action_steps: actions of a chunk that are carried out; None is what the checkpoint says.
      max_steps: an episode ends after so many steps; None leaves it to the environment.
      masks: record where the objects are.
      video: write a video of every episode; renders every step.
      source: name of the environment.
      progress: show a progress bar; None on a terminal only.
    """

    run: pathlib.Path
    n_envs: int = 1
    seed: int = 0
    n_action_steps: int | None = None
    max_steps: int | None = None
    masks: bool = True
    video: bool = True
    source: str = ""
    progress: bool | None = None


def plan_jobs(tasks: Sequence[EnvTask], *, episodes: int, seed: int) -> list[Job]:
    """`episodes` episodes of every task; as in lerobot-eval, seeds begin anew with every task."""
    pairs = [(task, repeat) for task in tasks for repeat in range(episodes)]
    return [Job(n, task, seed + repeat, repeat) for n, (task, repeat) in enumerate(pairs)]


def run_rollouts(
    policy: Policy, make_env: Callable[[], PolicyEnv], jobs: Sequence[Job], settings: Settings
) -> dict[str, Any]:
    """Runs the jobs that are not finished yet; returns and writes `eval_info.json`.

    Raises:
      ConfigError: the environment does not fit the policy.
    """
    started = time.monotonic()
    waiting = collections.deque(j for j in jobs if read_outcome(settings.run, j.number) is None)
    if len(waiting) < len(jobs):
        logging.info("%d of %d episodes are finished already", len(jobs) - len(waiting), len(jobs))
    slots: list[_Slot] = []
    succeeded = finished = 0
    bar = ProgressBar(len(waiting), enabled=settings.progress)
    try:
        with bar:
            slots += [_Slot(make_env, settings) for _ in range(min(settings.n_envs, len(waiting)))]
            while True:
                for slot in slots:
                    if slot.job is None and waiting:
                        slot.begin(waiting.popleft(), policy)
                active = [slot for slot in slots if slot.job is not None]
                if not active:
                    break
                prediction = _predict(policy, active, settings, batch=len(slots))
                steps = settings.n_action_steps or policy.config.n_action_steps
                turns = [
                    slot.act(prediction, item, steps, policy) for item, slot in enumerate(active)
                ]
                for outcome in [turn.result() for turn in turns]:
                    if outcome is not None:
                        finished += 1
                        succeeded += bool(outcome["success"])
                        eval_info(jobs, settings, time.monotonic() - started)
                        logging.info(
                            "episode %d of %s: %s after %d steps",
                            outcome["episode"],
                            outcome["task"],
                            "success" if outcome["success"] else "no success",
                            outcome["steps"],
                        )
                        bar.update(step=finished, values={"success": succeeded / finished})
    finally:
        for slot in slots:
            slot.close()
    return eval_info(jobs, settings, time.monotonic() - started)


def _predict(
    policy: Policy, slots: Sequence[_Slot], settings: Settings, *, batch: int
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


class _Slot:
    """One environment and the episode that runs in it; the environment stays in one thread."""

    def __init__(self, make_env: Callable[[], PolicyEnv], settings: Settings):
        self._settings = settings
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "environment")
        self._making = self._thread.submit(make_env)
        self.job: Job | None = None
        self.num_calls = 0
        self._video: VideoWriter | None = None
        self._recorder: EpisodeRecorder | None = None

    @property
    def number(self) -> int:
        assert self.job is not None
        return self.job.number

    def begin(self, job: Job, policy: Policy) -> None:
        """Starts an episode."""
        self.job = job
        self._thread.submit(self._begin, job, policy).result()

    def act(
        self, prediction: Prediction, item: int, steps: int, policy: Policy
    ) -> concurrent.futures.Future[dict[str, Any] | None]:
        """Records a prediction and carries it out; the result is the outcome of a done episode."""
        return self._thread.submit(self._act, prediction, item, steps, policy)

    def close(self) -> None:
        """Stops the episode that runs, if one does, and the environment."""
        for open_ in (self._recorder, self._video):
            if open_ is not None:
                self._thread.submit(open_.abort).result()
        if self._making.exception() is None:
            self._thread.submit(self._making.result().close).result()
        self._thread.shutdown(wait=True)

    # --- Below: what runs in the thread of the environment. ---

    def _begin(self, job: Job, policy: Policy) -> None:
        self._env = self._making.result()
        self.prompt = self._env.reset(job.task, seed=job.seed, episode=job.repeat)
        self.view = self._env.view()
        self.num_calls, self._step = 0, 0
        self._rewards: list[float] = []
        self._objects = self._env.objects() if self._settings.masks else None
        info = {
            "prompt": self.prompt,
            "other_prompts": list(self._env.other_prompts),
            "task": job.task.name,
            "task_group": job.task.group,
            "task_id": job.task.number,
            "seed": job.seed,
            "source": self._settings.source,
            "fps": self._env.fps,
            "geometry": {c: dict(self._env.geometry[c]) for c in self.view.images},
            **policy.denoising,
        }
        if self._settings.video:
            path = self.video_path(job)
            self._video = VideoWriter(self._settings.run / path, fps=self._env.fps)
            info["video"] = {"path": path.as_posix(), "panels": _panels(self.view)}
        self._recorder = EpisodeRecorder(
            self._settings.run, job.number, info=info, selection=policy.selection
        )

    @staticmethod
    def video_path(job: Job) -> pathlib.Path:
        """Path of the video of an episode, relative to the run."""
        folder = f"{job.task.group}_{job.task.number}"
        return pathlib.Path("videos") / folder / f"eval_episode_{job.repeat:05d}.mp4"

    def _act(
        self, prediction: Prediction, item: int, steps: int, policy: Policy
    ) -> dict[str, Any] | None:
        assert self._recorder is not None
        selection = policy.selection
        wanted = selection is not None and selection.wants(self.num_calls)
        objects = self._objects
        self._recorder.call(
            env_step=self._step,
            images=self.view.images,
            state=self.view.state,
            actions=prediction.actions[item],
            records=prediction.records[item] if wanted and prediction.records else None,
            masks=None if objects is None else objects.masks,
        )
        self.num_calls += 1
        for number in range(steps):
            if self._video is not None:
                if number:
                    self.view = self._env.view()
                self._video.append(_frame(self.view, self._env.geometry))
            done = self._env.step(prediction.actions[item, number])
            self._step += 1
            self._rewards.append(done.reward)
            if done.done or self._step == self._settings.max_steps:
                return self._finish(success=done.success)
        self.view = self._env.view()
        if objects is not None:
            self._objects = self._env.objects()
        return None

    def _finish(self, *, success: bool) -> dict[str, Any]:
        assert self.job is not None and self._recorder is not None
        if self._video is not None:
            self._video.close()
            self._video = None
        job = self.job
        outcome = {
            "episode": job.number,
            "task_group": job.task.group,
            "task_id": job.task.number,
            "task": job.task.name,
            "seed": job.seed,
            "steps": self._step,
            "calls": self.num_calls,
            "success": bool(success),
            "sum_reward": float(np.sum(self._rewards)),
            "max_reward": float(np.max(self._rewards)),
            "video": self.video_path(job).as_posix() if self._settings.video else None,
        }
        objects = self._objects
        self._recorder.close(
            outcome,
            objects=() if objects is None else objects.names,
            roles=None if objects is None else objects.roles,
        )
        self._recorder, self.job = None, None
        return outcome


def _panels(view: View) -> dict[str, list[int]]:
    """Camera -> (top, left, height, width) of its picture in a frame of the video."""
    panels, left = {}, 0
    for camera, picture in view.images.items():
        panels[camera] = [0, left, *picture.shape[:2]]
        left += picture.shape[1]
    return panels


def _frame(view: View, geometry: Mapping[str, Mapping[str, bool]]) -> NumpyArray:
    """All cameras side by side, turned as the video has them."""
    height = max(picture.shape[0] for picture in view.images.values())
    turned = []
    for camera, picture in view.images.items():
        flags = geometry[camera]
        if flags["model_rot180"] != flags["video_rot180"]:
            picture = rot180(picture, axes=(0, 1))
        turned.append(np.pad(picture, ((0, height - picture.shape[0]), (0, 0), (0, 0))))
    return np.concatenate(turned, axis=1)


def eval_info(jobs: Sequence[Job], settings: Settings, seconds: float) -> dict[str, Any]:
    """Writes and returns the results of the finished episodes under the keys of lerobot-eval.

    Args:
      jobs: all episodes of the run.
      settings: of the run.
      seconds: that this process has been running.
    """
    found = [read_outcome(settings.run, job.number) for job in jobs]
    outcomes = [outcome for outcome in found if outcome is not None]
    for job, outcome in zip(jobs, found, strict=True):
        wanted = (job.task.group, job.task.number, job.seed)
        if outcome and (outcome["task_group"], outcome["task_id"], outcome["seed"]) != wanted:
            raise ConfigError(
                f"episode {job.number} was run with another task or seed",
                where=settings.run,
                fix="Name another --workdir, or give the same tasks, episodes and seed",
            )
    of_task: dict[tuple[str, int], list[dict[str, Any]]] = {}
    of_group: dict[str, list[dict[str, Any]]] = {}
    for outcome in outcomes:
        group, number = outcome["task_group"], outcome["task_id"]
        of_task.setdefault((group, number), []).append(outcome)
        of_group.setdefault(group, []).append(outcome)
    info = {
        "per_task": [
            {"task_group": group, "task_id": number, "metrics": _lists(found, settings.run)}
            for (group, number), found in of_task.items()
        ],
        "per_group": {group: _means(found, settings.run) for group, found in of_group.items()},
        "overall": {
            **_means(outcomes, settings.run),
            "eval_s": seconds,
            "eval_ep_s": seconds / max(1, len(outcomes)),
        },
    }
    files.write_json(settings.run / EVAL_INFO, info)
    return info


def _lists(outcomes: Sequence[Mapping[str, Any]], run: pathlib.Path) -> dict[str, list[Any]]:
    return {
        "sum_rewards": [o["sum_reward"] for o in outcomes],
        "max_rewards": [o["max_reward"] for o in outcomes],
        "successes": [o["success"] for o in outcomes],
        "video_paths": [str(run / o["video"]) for o in outcomes if o["video"]],
    }


def _means(outcomes: Sequence[Mapping[str, Any]], run: pathlib.Path) -> dict[str, Any]:
    lists = _lists(outcomes, run)

    def mean(name: str) -> float | None:
        return float(np.mean(lists[name])) if outcomes else None

    success = mean("successes")
    return {
        "avg_sum_reward": mean("sum_rewards"),
        "avg_max_reward": mean("max_rewards"),
        "pc_success": None if success is None else 100 * success,
        "n_episodes": len(outcomes),
        "video_paths": lists["video_paths"],
    }
