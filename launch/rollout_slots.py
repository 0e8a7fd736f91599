"""One environment of a rollout in its own thread, and the episode that runs in it.

slot = Slot(make_env, settings)
slot.begin(job, policy).result()
turn = slot.act(prediction, item, steps, policy)     # n slots act at the same time
outcome = turn.result()                              # None while the episode goes on
slot.close()
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from absl import logging

from attn_jax.core.errors import NonFiniteError
from attn_jax.core.geometry import rot180
from attn_jax.core.typing import NumpyArray
from attn_jax.policies.policy import Policy, Prediction
from attn_jax.policies.recorder import EpisodeRecorder
from attn_jax.viz.video import VideoWriter
from robots.interface import EnvTask, PolicyEnv, View


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

    def __str__(self) -> str:
        return f"episode {self.number} ({self.task.name}, seed {self.seed})"


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to run.

    Attributes:
      run: run folder.
      n_envs: environments side by side.
      seed: of the noise.
      n_action_steps: actions of a chunk that are carried out; None is what the checkpoint says.
      max_steps: an episode ends after so many steps; None leaves it to the environment.
      masks: record where the objects are, and where the cameras are and how far they see.
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


class Slot:
    """One environment and the episode that runs in it; the environment stays in one thread.

    Attributes:
      job: the episode that runs; None between episodes.
      num_calls: predictions that the episode has had.
      seconds: its part of the time of turns that are over; the caller adds to it.
      prompt, view: what the policy sees next.
    """

    def __init__(self, make_env: Callable[[], PolicyEnv], settings: Settings):
        self._settings, self._make_env = settings, make_env
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "environment")
        self._making = self._thread.submit(make_env)
        self.job: Job | None = None
        self.num_calls, self.seconds = 0, 0.0
        self._video: VideoWriter | None = None
        self._recorder: EpisodeRecorder | None = None

    @property
    def number(self) -> int:
        """Of the episode that runs."""
        assert self.job is not None
        return self.job.number

    def begin(self, job: Job, policy: Policy) -> concurrent.futures.Future[None]:
        """Starts an episode; raises what making the environment raised."""
        self._making.result()
        self.job = job
        return self._thread.submit(self._begin, job, policy)

    def act(
        self,
        prediction: Prediction,
        item: int,
        steps: int,
        policy: Policy,
        *,
        began: float,
        share: float,
    ) -> concurrent.futures.Future[dict[str, Any] | None]:
        """Records a prediction and carries it out; the result is the outcome of a done episode.

        Args:
          prediction: of all environments that act now.
          item: which sample of it is this environment's.
          steps: actions to carry out.
          policy: that predicted.
          began: `time.monotonic()` at which this turn began, with the prediction.
          share: of the time since then, and of turns before in `seconds`, that is the episode's.
        """
        return self._thread.submit(self._act, prediction, item, steps, policy, began, share)

    def rebuild(self) -> None:
        """Stops the episode that runs, which stays unfinished, and makes a new environment."""
        self._stop()
        self._making = self._thread.submit(self._make_env)

    def close(self) -> None:
        """Stops the episode that runs, if one does, and the environment."""
        self._stop()
        self._thread.shutdown(wait=True)

    def _stop(self) -> None:
        for open_ in (self._recorder, self._video):
            if open_ is not None:
                self._thread.submit(open_.abort).result()
        self._recorder = self._video = self.job = None
        if self._making.exception() is None:
            error = self._thread.submit(self._making.result().close).exception()
            if error is not None:  # of an environment that is given up in any case
                logging.warning("closing an environment failed: %s", error)

    # --- Below: what runs in the thread of the environment. ---

    def _begin(self, job: Job, policy: Policy) -> None:
        self._env = self._making.result()
        self.prompt = self._env.reset(job.task, seed=job.seed, episode=job.repeat)
        self.view = self._env.view()
        self.num_calls, self.seconds, self._step = 0, 0.0, 0
        self._rewards: list[float] = []
        self._objects = self._env.objects() if self._settings.masks else None
        self._calibration = self._env.calibration() if self._settings.masks else None
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
        self,
        prediction: Prediction,
        item: int,
        steps: int,
        policy: Policy,
        began: float,
        share: float,
    ) -> dict[str, Any] | None:
        assert self._recorder is not None
        actions = prediction.actions[item]
        if not np.isfinite(actions).all():  # a simulator would go on with NaN in all its numbers
            raise NonFiniteError(
                f"actions of call {self.num_calls} (step {self._step}) are NaN or infinite",
                fix="Look at the weights and the statistics of the checkpoint",
            )
        selection = policy.selection
        wanted = selection is not None and selection.wants(self.num_calls)
        objects = self._objects
        self._recorder.call(
            env_step=self._step,
            images=self.view.images,
            state=self.view.state,
            actions=actions,
            records=prediction.records[item] if wanted and prediction.records else None,
            masks=None if objects is None else objects.masks,
            calibration=None if objects is None else self._calibration,
        )
        self.num_calls += 1
        for number in range(steps):
            if self._video is not None:
                if number:
                    self.view = self._env.view()
                self._video.append(_frame(self.view, self._env.geometry))
            done = self._env.step(actions[number])
            self._step += 1
            self._rewards.append(done.reward)
            if done.done or self._step == self._settings.max_steps:
                seconds = self.seconds + share * (time.monotonic() - began)
                return self._finish(success=done.success, seconds=seconds)
        self.view = self._env.view()
        if objects is not None:
            self._objects, self._calibration = self._env.objects(), self._env.calibration()
        return None

    def _finish(self, *, success: bool, seconds: float) -> dict[str, Any]:
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
            "seconds": seconds,
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
