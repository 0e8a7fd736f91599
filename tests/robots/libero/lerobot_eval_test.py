"""lerobot-eval on LIBERO, end to end: its own loop and environments, our policy and records."""

from __future__ import annotations

import json

import pytest

from attn_jax.data.episodes import episode_folder, read_episode
from attn_jax.probe.store import RecordReader
from attn_jax.viz.video import read_info
from tests import testing
from tests.policies import checkpoints

testing.require_module("torch", "lerobot", "libero")
testing.require_library("OSMesa")
pytestmark = [pytest.mark.bridge, pytest.mark.slow]

#: LeRobot finds it by its name in the package that is to be discovered.
MODELING = "robots.lerobot_policy_attn_jax.modeling_attn_jax"


def test_lerobot_eval_records_attention_on_libero(tmp_path):
    checkpoint = checkpoints.write_checkpoint(
        tmp_path / "checkpoint", cameras=("image", "image2"), state=8, action=7, prompt=80
    )
    run, out = tmp_path / "run", tmp_path / "out"
    done = testing.run_python(
        "-m",
        "robots.libero.lerobot_eval",
        "--env.type=libero",
        "--env.task=libero_object",
        "--env.task_ids=[0]",
        "--env.observation_height=128",
        "--env.observation_width=128",
        "--env.episode_length=4",
        f"--policy.discover_packages_path={MODELING.rpartition('.')[0]}",
        "--policy.type=attn_jax",
        f"--policy.checkpoint={checkpoint}",
        "--policy.device=cpu",
        f"--policy.attention_dir={run}",
        "--policy.capture=streams=suffix;layers=all;reduce=full,group_mass",
        "--eval.n_episodes=1",
        "--eval.batch_size=1",
        "--eval.use_async_envs=false",
        f"--output_dir={out}",
        timeout_s=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    overall = json.loads((out / "eval_info.json").read_text())["overall"]
    assert overall["n_episodes"] == 1 and overall["pc_success"] == 0
    assert read_info(out / "videos" / "libero_object_0" / "eval_episode_0.mp4").num_frames == 4
    assert RecordReader(run, 0).env_step == (0, 2)
    episode = read_episode(episode_folder(run, 0))
    assert episode.prompt == "pick up the alphabet soup and place it in the basket"
    assert episode.images["image"].shape == (2, 128, 128, 3) and episode.state.shape == (2, 8)
    verified = testing.run_python("-m", "launch.attention", "verify", str(run), "--json")
    assert verified.returncode == 0, verified.stderr
    assert json.loads(verified.stdout.splitlines()[-1])["ok"]
    inspected = testing.run_python("-m", "launch.attention", "inspect", str(run))
    assert inspected.returncode == 0 and "image/image2" in inspected.stdout


if __name__ == "__main__":
    testing.main()
