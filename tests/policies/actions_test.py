"""The queue of actions: one prediction for every `n_action_steps` actions."""

from __future__ import annotations

import numpy as np
import pytest

from attn_jax.policies.actions import ActionQueue
from attn_jax.policies.policy import load_policy
from tests import testing
from tests.policies import checkpoints

testing.require_module("tokenizers")
pytestmark = [pytest.mark.bridge]


def test_actions_of_a_chunk_in_order(tmp_path):
    policy = load_policy(checkpoints.write_checkpoint(tmp_path / "checkpoint"))
    observation = checkpoints.observation(1)
    queue = ActionQueue(policy, seed=3, n_action_steps=3)
    found = []
    for step in range(7):
        assert queue.needs_prediction == (step % 3 == 0)
        found.append(queue.select_action(observation if step % 3 == 0 else {}))
        if step % 3 == 0:
            chunk = queue.prediction
        assert queue.prediction is chunk
        np.testing.assert_array_equal(found[-1], chunk.actions[:, step % 3])
    assert np.abs(found[0] - found[3]).max() > 1e-3, "every call has its own noise"
    queue.reset()
    assert queue.prediction is None and queue.step == 0
    other = queue.select_action(observation)
    assert np.abs(other - found[0]).max() > 1e-3, "every episode has its own noise"
    again = ActionQueue(policy, seed=3, n_action_steps=3).select_action(observation)
    np.testing.assert_array_equal(again, found[0])


if __name__ == "__main__":
    testing.main()
