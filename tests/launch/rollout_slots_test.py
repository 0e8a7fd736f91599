"""One environment in its thread, driven by hand."""

from __future__ import annotations

import dataclasses
import threading
import time

import numpy as np
import pytest

from attn_jax.core.errors import NonFiniteError
from attn_jax.policies.policy import load_policy
from attn_jax.policies.recorder import read_outcome
from attn_jax.probe.select import Selection
from attn_jax.probe.store import RecordReader
from launch.rollout_slots import Job, Settings, Slot
from tests import testing
from tests.policies import checkpoints
from tests.robots.point_env import PointEnv

testing.require_module("tokenizers")
pytestmark = [pytest.mark.bridge]


def test_an_episode_that_is_given_up_and_begun_anew(tmp_path):
    checkpoint = checkpoints.write_checkpoint(tmp_path / "checkpoint")
    policy = load_policy(checkpoint, capture=Selection.parse("layers=last:1;reduce=group_mass"))
    made = []

    class Threaded(PointEnv):
        def __init__(self):
            super().__init__()
            self.threads = {threading.get_ident()}
            made.append(self)

        def step(self, action):
            self.threads.add(threading.get_ident())
            return super().step(action)

    job = Job(3, PointEnv.tasks[0], 12, 0)  # 4 steps
    assert str(job) == "episode 3 (pick up the red cube, seed 12)"
    run = tmp_path / "run"
    slot = Slot(Threaded, Settings(run, video=False, masks=False))

    def act(prediction, ago=0.0):
        began = time.monotonic() - ago
        return slot.act(prediction, 0, 2, policy, began=began, share=0.5)

    slot.begin(job, policy).result()
    observation = {
        **{f"observation.images.{k}": v[None] for k, v in slot.view.images.items()},
        "observation.state": slot.view.state[None],
        "task": [slot.prompt],
    }
    good = policy.predict(observation, policy.episode_noise(0, 3, 0)[None])
    bad = np.array(good.actions)
    bad[0, 3, 1] = np.inf  # also where it would not be carried out
    assert act(good).result() is None and slot.num_calls == 1
    error = act(dataclasses.replace(good, actions=bad)).exception()
    assert isinstance(error, NonFiniteError) and "call 1 (step 2)" in str(error)
    slot.rebuild()
    assert slot.job is None and made[0].closed
    assert RecordReader(run, 3).env_step == (0,) and read_outcome(run, 3) is None
    slot.begin(job, policy).result()
    assert act(good).result() is None
    slot.seconds = 10.0  # of turns before
    outcome = act(good, ago=100.0).result()
    assert outcome is not None and outcome == read_outcome(run, 3)
    assert (outcome["steps"], outcome["calls"], outcome["success"]) == (4, 2, True)
    assert 60 <= outcome["seconds"] < 90
    slot.close()
    assert [len(env.threads) for env in made] == [1, 1] and made[1].closed
    assert threading.get_ident() not in made[1].threads


if __name__ == "__main__":
    testing.main()
