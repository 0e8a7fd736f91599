"""Recording under LeRobot: episodes of a batch of environments, and how their end is seen.

LeRobot does not tell a policy that an environment is done: `lerobot-eval` steps a finished
environment on (frozen, or begun anew, according to its kind) until the last one of the batch is
done, and calls `policy.reset()` only before the next batch. `watch_lerobot_eval` therefore listens
to `env.step` inside its `rollout`; recording of an environment stops at the step that ends its
episode. Under other commands (`lerobot-rollout`) an episode ends at `policy.reset()` or when the
program ends, and its success is unknown.

    recording = BatchRecording(run, selection=selection, source="lerobot")
    recording.call(env_step=0, images=..., state=..., prompts=..., prediction=prediction)
    recording.note(done, success)
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from attn_jax.core.typing import NumpyArray, PathLike
from attn_jax.policies.policy import Prediction, denoising_facts
from attn_jax.policies.recorder import EpisodeRecorder
from attn_jax.probe.schema import start_run
from attn_jax.probe.select import Selection


class BatchRecording:
    """Episodes being recorded, one for each environment of the batch.

    Attributes:
      first: number of the episode of the first environment; those of a batch are consecutive, so
        that they do not depend on the size of the batch.
    """

    def __init__(
        self,
        run: PathLike,
        *,
        selection: Selection | None,
        provenance: Mapping[str, Any],
        source: str,
    ):
        """Makes the run folder; nothing is recorded yet."""
        self._run = start_run(run, selection=selection, provenance=provenance)
        self._selection, self._source = selection, source
        self._recorders: dict[int, EpisodeRecorder] = {}
        self._closed: set[int] = set()
        self._batch = 0
        self.first = 0

    @property
    def size(self) -> int:
        """Environments of the present batch."""
        return self._batch

    def begin(self) -> None:
        """Ends the episodes of the last batch; the next call begins new ones."""
        self.end()
        self.first += self._batch
        self._batch = 0
        self._closed = set()

    def call(
        self,
        *,
        env_step: int,
        images: Mapping[str, NumpyArray],
        state: NumpyArray,
        prompts: Sequence[str],
        prediction: Prediction,
        wanted: bool,
    ) -> None:
        """Records one prediction of every environment whose episode goes on.

        Args:
          env_step: step of the observation.
          images: camera -> (b, h, w, 3) uint8.
          state: (b, s) float32.
          prompts: of every environment.
          prediction: for all of them.
          wanted: whether the attention of this call is kept (`every_n`).
        """
        self._batch = max(self._batch, len(prompts))
        for item, prompt in enumerate(prompts):
            if item in self._closed:
                continue
            if item not in self._recorders:
                info = {
                    "prompt": prompt,
                    "task": prompt,
                    "seed": None,
                    "source": self._source,
                    "fps": None,
                    "geometry": {},
                    **denoising_facts(prediction.time),
                }
                self._recorders[item] = EpisodeRecorder(
                    self._run, self.first + item, info=info, selection=self._selection
                )
            self._recorders[item].call(
                env_step=env_step,
                images={camera: pictures[item] for camera, pictures in images.items()},
                state=state[item],
                actions=prediction.actions[item],
                records=prediction.records[item] if wanted and prediction.records else None,
            )

    def note(self, done: NumpyArray, success: NumpyArray | None, steps: int) -> None:
        """Ends the episodes that are done.

        Args:
          done: (b,) bool.
          success: (b,) bool, or None when unknown.
          steps: actions carried out so far.
        """
        for item in np.flatnonzero(done):
            self._close(int(item), None if success is None else bool(success[item]), steps)

    def end(self) -> None:
        """Ends every episode that still goes on; their success is unknown."""
        for item in list(self._recorders):
            self._close(item, None, None)

    def _close(self, item: int, success: bool | None, steps: int | None) -> None:
        if item in self._recorders:
            outcome = {"episode": self.first + item, "success": success, "steps": steps}
            self._recorders.pop(item).close(outcome)
            self._closed.add(item)


def watch_lerobot_eval() -> None:
    """Lets `lerobot-eval` tell policies with `note_done` when environments are done; idempotent."""
    for name in ("lerobot.scripts.lerobot_eval", "__main__"):
        module = sys.modules.get(name)
        original = getattr(module, "rollout", None)
        if original is None or not hasattr(module, "eval_policy"):
            continue
        if not getattr(original, "tells_when_done", False):
            module.rollout = _watching(original)


def _watching(original: Any) -> Any:
    def rollout(env: Any, policy: Any, *arguments: Any, **options: Any) -> Any:
        if not hasattr(policy, "note_done"):
            return original(env, policy, *arguments, **options)
        step = env.step

        def watched(actions: Any) -> Any:
            out = step(actions)
            _, _, terminated, truncated, info = out
            policy.note_done(np.asarray(terminated | truncated), successes(info))
            return out

        env.step = watched
        try:
            return original(env, policy, *arguments, **options)
        finally:
            del env.step
            policy.finish()

    rollout.tells_when_done = True  # pyright: ignore[reportFunctionMemberAccess]
    return rollout


def successes(info: Mapping[str, Any]) -> NumpyArray | None:
    """`is_success` of a vector environment's info, (b,) bool; None when it does not say."""
    final = info.get("final_info")
    found = final.get("is_success") if isinstance(final, Mapping) else info.get("is_success")
    return None if found is None else np.asarray(found, bool)
