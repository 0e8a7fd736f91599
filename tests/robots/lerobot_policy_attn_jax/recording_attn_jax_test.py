"""How the end of episodes is seen; the whole of it runs in modeling_attn_jax_test.py."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest

from tests import testing

testing.require_module("torch", "lerobot")
pytestmark = [pytest.mark.bridge, pytest.mark.filterwarnings("ignore")]


class Env:
    def step(self, actions):
        done = np.array([True, False])
        return None, None, done, np.zeros(2, bool), {"is_success": np.array([True, False])}


class Policy:
    def __init__(self):
        self.noted, self.finished = [], 0

    def note_done(self, done, success):
        self.noted.append((done.tolist(), success.tolist()))

    def finish(self):
        self.finished += 1


def test_the_loop_is_watched_once(monkeypatch):
    from robots.lerobot_policy_attn_jax import recording_attn_jax as recording

    module = types.ModuleType("lerobot_eval")
    module.rollout = lambda env, policy, times: [env.step(None) for _ in range(times)]
    module.eval_policy = None
    monkeypatch.setitem(sys.modules, "lerobot.scripts.lerobot_eval", module)
    recording.watch_lerobot_eval()
    watched = module.rollout
    recording.watch_lerobot_eval()
    assert module.rollout is watched
    env, policy = Env(), Policy()
    assert len(module.rollout(env, policy, times=2)) == 2
    assert policy.noted == [([True, False], [True, False])] * 2 and policy.finished == 1
    assert "step" not in vars(env), "the environment is as it was"
    assert len(module.rollout(Env(), object(), times=1)) == 1, "other policies are left alone"


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({}, None),
        ({"is_success": np.array([True, False])}, [True, False]),
        ({"final_info": {"is_success": [False, True]}, "is_success": [True, True]}, [False, True]),
    ],
)
def test_successes(info, expected):
    from robots.lerobot_policy_attn_jax import recording_attn_jax as recording

    found = recording.successes(info)
    assert (None if found is None else found.tolist()) == expected


if __name__ == "__main__":
    testing.main()
