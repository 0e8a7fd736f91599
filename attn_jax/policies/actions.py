"""One action at a time, as LeRobot's `select_action` gives them.

A prediction is made only when the queue is empty; its first `n_action_steps` actions are then given
one by one.

    queue = ActionQueue(policy)
    queue.reset()                                       # at the start of an episode
    action = queue.select_action(observation)           # (b, a)
    queue.prediction                                    # the one that this action comes from
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from attn_jax.core.typing import Float, NumpyArray
from attn_jax.policies.policy import Policy, Prediction


class ActionQueue:
    """Actions of a batch of robots that act in step.

    Attributes:
      policy: what predicts.
      prediction: the last prediction, None at the start of an episode.
      step: number of the next action in the episode.
    """

    def __init__(self, policy: Policy, *, seed: int = 0, n_action_steps: int | None = None):
        """Empty.

        Args:
          policy: what predicts.
          seed: of the noise.
          n_action_steps: actions of a chunk that are carried out; None is what the checkpoint says.
        """
        self.policy = policy
        self.n_action_steps = n_action_steps or policy.config.n_action_steps
        self._key, self._episode = jax.random.key(seed), -1
        self.reset()

    def reset(self) -> None:
        """Empties the queue: an episode begins."""
        self.prediction: Prediction | None = None
        self.step = 0
        self._episode += 1

    @property
    def needs_prediction(self) -> bool:
        """Whether the next action comes from a new prediction."""
        return self.step % self.n_action_steps == 0

    def select_action(
        self, observation: Mapping[str, Any], noise: NumpyArray | None = None
    ) -> Float[NumpyArray, "b a"]:
        """The next action of every robot, in units of the robot.

        Args:
          observation: see `policies.observations`; looked at only when the queue is empty.
          noise: (b, H, A) for a new prediction; None draws it by seed, episode and call.
        """
        if self.needs_prediction:
            call = self.step // self.n_action_steps
            key = jax.random.fold_in(jax.random.fold_in(self._key, self._episode), call)
            self.prediction = self.policy.predict(observation, noise, key)
        assert self.prediction is not None
        action = self.prediction.actions[:, self.step % self.n_action_steps]
        self.step += 1
        return action
