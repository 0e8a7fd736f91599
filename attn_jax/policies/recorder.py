"""Writes one episode of a rollout while it runs: attention, observations, outcome.

    RUN/episodes/episode_00003/
      meta.json, commits.jsonl, suffix/, ...      the attention record (`probe.store`)
      observations.npz, observations.json         what the policy saw and did (`data.episodes`)
      outcome.json                                written last: the episode is finished

Only steps at which the policy predicted are recorded. Attention goes to disk as it comes, through
the bounded queue of the store; pictures wait until the end, a few megabytes an episode. An episode
without `outcome.json` was interrupted: it is removed and run again.

    recorder = EpisodeRecorder(run, 3, info={"prompt": task, "seed": 7})
    recorder.call(env_step=0, images=pictures, state=state, actions=chunk, records=records)
    recorder.close({"success": True})
"""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from attn_jax.core import files
from attn_jax.core.calibration import Calibration, joined
from attn_jax.core.errors import RecordError
from attn_jax.core.record import AttentionRecord
from attn_jax.core.typing import NumpyArray, PathLike
from attn_jax.data.episodes import Episode, episode_folder, write_episode
from attn_jax.probe.arrays import read_json
from attn_jax.probe.select import Selection
from attn_jax.probe.store import RecordWriter

OUTCOME = "outcome.json"


class EpisodeRecorder:
    """One episode being recorded.

    Attributes:
      folder: the episode.
      num_calls: predictions recorded so far.
    """

    def __init__(
        self,
        run: PathLike,
        episode: int,
        *,
        info: Mapping[str, Any],
        selection: Selection | None = None,
        queue_calls: int = 4,
    ):
        """Opens an episode; what an interrupted run left of it is removed.

        Args:
          run: run folder, see `probe.schema.start_run`.
          episode: number of the episode.
          info: JSON-compatible facts: prompt, task, seed, source, fps, geometry.
          selection: what is captured; None records observations only.
          queue_calls: predictions whose attention may wait for the disk.

        Raises:
          RecordError: the episode is finished already.
        """
        self.folder = episode_folder(run, episode)
        if (self.folder / OUTCOME).exists():
            raise RecordError(
                "episode is finished already", where=self.folder, fix="Remove it to run it again"
            )
        if self.folder.exists():
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True)
        self._info, self._selection = dict(info), selection
        self._writer = None
        if selection is not None:
            self._writer = RecordWriter(
                run, episode, codec=selection.dtype, queue_calls=queue_calls, info=self._info
            )
        self._steps: list[int] = []
        self._images: dict[str, list[NumpyArray]] = {}
        self._masks: dict[str, list[NumpyArray]] = {}
        self._calibration: dict[str, list[Calibration]] = {}
        self._states: list[NumpyArray] = []
        self._actions: list[NumpyArray] = []

    @property
    def num_calls(self) -> int:
        """Predictions recorded so far."""
        return len(self._steps)

    def call(
        self,
        *,
        env_step: int,
        images: Mapping[str, NumpyArray],
        state: NumpyArray,
        actions: NumpyArray,
        records: Mapping[str, AttentionRecord] | None = None,
        masks: Mapping[str, NumpyArray] | None = None,
        calibration: Mapping[str, Calibration] | None = None,
    ) -> None:
        """Records one prediction; waits while the queue of the store is full.

        Args:
          env_step: step of the observation.
          images: camera -> (h, w, 3) uint8, as the policy saw them.
          state: (s,) float32.
          actions: (H, a) float32, the predicted chunk in units of the robot.
          records: attention of this call; None where the selection leaves it out.
          masks: camera -> (o, h, w) bool.
          calibration: camera -> where it is and how far it sees, one moment.
        """
        if self._writer is not None and records is not None:
            self._writer.append(records, env_step=env_step)
        self._steps.append(env_step)
        for camera, picture in images.items():
            self._images.setdefault(camera, []).append(np.array(picture))
        for camera, mask in (masks or {}).items():
            self._masks.setdefault(camera, []).append(np.array(mask))
        for camera, found in (calibration or {}).items():
            self._calibration.setdefault(camera, []).append(found)
        self._states.append(np.array(state, np.float32))
        self._actions.append(np.array(actions, np.float32))

    def close(
        self,
        outcome: Mapping[str, Any],
        *,
        objects: Sequence[str] = (),
        roles: Mapping[str, str] | None = None,
    ) -> None:
        """Writes what is left and marks the episode as finished.

        Args:
          outcome: JSON-compatible result, with `success`; goes into `outcome.json`.
          objects: names of the objects of the masks.
          roles: object -> role.
        """
        info = {**self._info, "success": outcome.get("success")}
        write_episode(
            self.folder,
            Episode(
                info=info,
                env_step=np.asarray(self._steps, np.int64),
                images={camera: np.stack(found) for camera, found in self._images.items()},
                objects=tuple(objects),
                roles=dict(roles or {}),
                masks={camera: np.stack(found) for camera, found in self._masks.items()},
                calibration={c: joined(found) for c, found in self._calibration.items()},
                state=np.stack(self._states),
                actions=np.stack(self._actions),
            ),
        )
        if self._writer is not None:
            self._writer.close({"success": outcome.get("success")})
        with files.disk_errors(self.folder, what="an episode"):
            files.write_json(self.folder / OUTCOME, dict(outcome))

    def abort(self) -> None:
        """Stops; the episode stays unfinished. What was committed of it stays readable."""
        if self._writer is not None:
            self._writer.abort()


def read_outcome(run: PathLike, episode: int) -> dict[str, Any] | None:
    """`outcome.json` of a finished episode; None when it is not finished."""
    path = pathlib.Path(episode_folder(run, episode)) / OUTCOME
    return read_json(path) if path.is_file() else None
