"""`lerobot-rollout` drives the policy on a robot; the robot is the simulated tabletop."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from attn_jax.data.episodes import episode_folder, read_episode
from attn_jax.policies.actions import ActionQueue
from attn_jax.policies.policy import load_policy
from attn_jax.policies.recorder import read_outcome
from attn_jax.probe.verify import verify
from robots.tabletop.env import TabletopEnv
from tests import testing

testing.require_module("torch", "lerobot")
pytestmark = [pytest.mark.bridge, pytest.mark.slow]

ROOT = pathlib.Path(__file__).resolve().parents[3]
CHECKPOINT = ROOT / "robots/tabletop/policy"
#: LeRobot finds them by their names in the packages that are to be discovered.
MODELING = "robots.lerobot_policy_attn_jax.modeling_attn_jax"
ROBOT = "tests.robots.lerobot_robot.tabletop_robot"
PROMPT = "find the red cube and pick it up"


def test_actions_and_attention_of_a_rollout(tmp_path):
    run = tmp_path / "run"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "lerobot.scripts.lerobot_rollout"),
            "--strategy.type=base",
            f"--policy.discover_packages_path={MODELING.rpartition('.')[0]}",
            "--policy.type=attn_jax",
            f"--policy.checkpoint={CHECKPOINT}",
            "--policy.device=cpu",
            f"--policy.attention_dir={run}",
            f"--robot.discover_packages_path={ROBOT.rpartition('.')[0]}",
            "--robot.type=attn_jax_tabletop",
            "--robot.actions=12",
            f"--task={PROMPT}",
            *("--fps=10", "--play_sounds=false"),
            "--return_to_initial_position=false",
        ],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert verify(run).ok and read_outcome(run, 0)["success"] is None
    recorded = read_episode(episode_folder(run, 0))
    assert recorded.prompt == PROMPT and recorded.env_step.tolist() == [0, 5, 10]

    # The same without LeRobot: what was seen at every prediction, and what was predicted.
    env = TabletopEnv("pick", size=64)
    observation, _ = env.reset(seed=0)
    queue = ActionQueue(load_policy(CHECKPOINT))
    for call, step in enumerate(recorded.env_step):
        assert queue.step == step
        seen = {
            key: value[None]
            for key, value in observation.items()
            if key.startswith(("observation.images", "observation.state"))
        }
        np.testing.assert_allclose(seen["observation.state"][0], recorded.state[call], atol=1e-5)
        noise = queue.policy.episode_noise(0, 0, call)[None]
        actions = [queue.select_action({**seen, "task": [PROMPT]}, noise)[0]]
        np.testing.assert_allclose(queue.prediction.actions[0], recorded.actions[call], atol=1e-3)
        actions += [queue.select_action({})[0] for _ in range(queue.n_action_steps - 1)]
        for action in actions:
            observation, *_ = env.step(action)


if __name__ == "__main__":
    testing.main()
