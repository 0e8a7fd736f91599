"""Rollouts: episodes that do not depend on their batch, records that end when an episode does."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time

import numpy as np
import pytest

from attn_jax.core.errors import ConfigError, EpisodeError
from attn_jax.data.episodes import episode_folder, read_episode
from attn_jax.policies.policy import load_policy
from attn_jax.policies.recorder import OUTCOME, read_outcome
from attn_jax.probe.schema import start_run
from attn_jax.probe.select import Selection
from attn_jax.probe.store import RecordReader
from attn_jax.probe.verify import verify
from attn_jax.viz.video import read_frames, read_info
from launch import rollout_results
from launch.attention_convert import convert
from launch.rollouts import Settings, plan_jobs, run_rollouts
from tests import testing
from tests.policies import checkpoints
from tests.robots.point_env import SIZE, PointEnv

testing.require_module("tokenizers")
pytestmark = [pytest.mark.bridge]

SELECTION = Selection.parse("layers=all;streams=suffix;reduce=full,group_mass;dtype=float32")
JOBS = plan_jobs(PointEnv.tasks, episodes=2, seed=10)  # 2 or 3 steps; 2 actions a prediction


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    folder = checkpoints.write_checkpoint(tmp_path_factory.mktemp("policy") / "checkpoint")
    return load_policy(folder, capture=SELECTION)


@pytest.fixture(scope="module")
def single(policy, tmp_path_factory):
    run = tmp_path_factory.mktemp("single")
    info = run_rollouts(policy, PointEnv, JOBS, Settings(run, source="points"))
    return run, info


def test_calls_stand_at_the_steps_of_predictions(single):
    run, _ = single
    for job in JOBS:
        steps = 2 + job.seed % 5
        expected = [*range(0, steps, 2)]
        reader = RecordReader(run, job.number)
        assert list(reader.env_step) == expected and reader.complete
        assert reader.info["success"] == (job.seed % 2 == 0)
        episode = read_episode(episode_folder(run, job.number))
        assert episode.env_step.tolist() == expected and episode.prompt == job.task.name
        assert episode.roles == {"point": "target"} and episode.masks["front"].any()
        for seen in (episode.calibration["front"], episode.calibration["wrist"]):
            assert seen.depth_m[:, 0, 0].tolist() == [1 + step for step in expected]
            assert seen.pose.shape == (len(expected), 4, 4) and seen.intrinsics[0, 0] == 16
        assert episode.info["geometry"] == PointEnv.geometry and episode.info["source"] == "points"
    assert verify(run).ok


def test_videos_show_the_observation_before_every_action(single):
    run, _ = single
    job = JOBS[1]
    video = run / "videos" / "points_0" / "eval_episode_00001.mp4"
    found = read_info(video)
    assert found.num_frames == 2 + job.seed % 5 and found.fps == 10
    assert found.size == (SIZE[0], 2 * SIZE[1])
    episode = read_episode(episode_folder(run, job.number))
    frames = list(read_frames(video))
    panels = episode.info["video"]["panels"]
    assert panels == {"front": [0, 0, *SIZE], "wrist": [0, SIZE[1], *SIZE]}
    left, right = np.split(frames[0].astype(int), 2, axis=1)
    picture = episode.images["front"][0].astype(int)
    assert np.abs(left - picture).mean() < np.abs(left - picture[::-1, ::-1]).mean() / 2
    assert np.abs(right - picture[::-1, ::-1]).mean() < np.abs(right - picture).mean() / 2


def test_eval_info_of_a_run(single):
    run, info = single
    assert json.loads((run / rollout_results.EVAL_INFO).read_text()) == info
    overall = info["overall"]
    assert overall["n_episodes"] == 4 and overall["pc_success"] == 50.0
    assert overall["avg_sum_reward"] == overall["avg_max_reward"] == 0.5
    assert overall["eval_s"] > 0 and overall["eval_ep_s"] > 0 and len(overall["video_paths"]) == 4
    assert set(info) == {"per_task", "per_group", "overall"}
    assert [(t["task_group"], t["task_id"]) for t in info["per_task"]] == [
        ("points", 0),
        ("points", 1),
    ]
    assert info["per_task"][0]["metrics"]["successes"] == [True, False]
    assert info["per_group"]["points"]["n_episodes"] == 4


def test_times_are_those_of_the_episodes(single, policy, tmp_path):
    """Of all processes that worked on a run; environments side by side share the time."""

    def times(found):
        return found["overall"]["eval_s"], found["overall"]["eval_ep_s"]

    run, info = single
    seconds = [read_outcome(run, job.number)["seconds"] for job in JOBS]
    assert min(seconds) > 0 and times(info) == (sum(seconds), sum(seconds) / 4)
    assert times(run_rollouts(policy, PointEnv, JOBS, Settings(run, source="points"))) == times(
        info
    )
    first, three = plan_jobs(PointEnv.tasks[:1], episodes=1, seed=10), Settings(tmp_path, n_envs=3)
    begin = time.monotonic()
    run_rollouts(policy, PointEnv, first, three)
    jobs = plan_jobs(PointEnv.tasks[:1], episodes=4, seed=10)
    total, mean = times(run_rollouts(policy, PointEnv, jobs, three))
    assert 0 < total <= time.monotonic() - begin and mean == total / 4


def test_an_episode_does_not_depend_on_its_batch(single, policy, tmp_path):
    run_rollouts(policy, PointEnv, JOBS, Settings(tmp_path, n_envs=3, source="points"))
    for job in JOBS:
        one, three = (RecordReader(run, job.number) for run in (single[0], tmp_path))
        assert one.env_step == three.env_step and one.names == three.names
        for name in one.names:
            first, second = one.record(name), three.record(name)
            assert first.layout == second.layout and first.call_layouts == second.call_layouts
            np.testing.assert_allclose(first.values[:], second.values[:], atol=1e-5)
        first, second = (read_episode(f.folder) for f in (one, three))
        np.testing.assert_array_equal(first.images["front"], second.images["front"])
        np.testing.assert_allclose(first.actions, second.actions, atol=1e-5)
        sizes = [
            sum(f.stat().st_size for f in reader.folder.rglob("*") if f.is_file())
            for reader in (one, three)
        ]
        assert abs(sizes[0] - sizes[1]) < 0.01 * sizes[0]


def test_finished_episodes_are_not_run_again(single, policy, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(single[0], run)
    # As a killed process leaves it: committed calls, no outcome.
    (episode_folder(run, 2) / OUTCOME).unlink()
    shutil.rmtree(episode_folder(run, 3))
    made = []

    def make():
        made.append(PointEnv())
        return made[-1]

    info = run_rollouts(policy, make, JOBS, Settings(run, source="points"))
    assert [env.resets for env in made] == [
        [("pick up the red cube", 11, 1), ("place it on the plate", 11, 1)]
    ]
    assert made[0].closed and info["overall"]["n_episodes"] == 4
    again, before = RecordReader(run, 2), RecordReader(single[0], 2)
    np.testing.assert_array_equal(
        again.record("suffix").values[:], before.record("suffix").values[:]
    )
    others = [dataclasses.replace(job, seed=job.seed + 1) for job in JOBS]
    with pytest.raises(ConfigError, match="another task or seed"):
        run_rollouts(policy, make, others, Settings(run))
    (episode_folder(run, 2) / OUTCOME).write_text('{"seed": 11}')
    with pytest.raises(ConfigError, match=r"outcome of episode 2 lacks max_reward, .*task_group"):
        run_rollouts(policy, make, JOBS, Settings(run))


def test_a_failing_environment_costs_its_episode_only(single, policy, tmp_path):
    """Seed 11 fails at its second step, whatever runs beside it; everything else is finished."""

    class Broken(PointEnv):
        def step(self, action):
            if self._step and self._seed == 11:
                raise RuntimeError("the simulator is gone")
            return super().step(action)

        def reset(self, task, *, seed, episode):
            if seed == 12:
                raise OSError("no such start state")
            return super().reset(task, seed=seed, episode=episode)

        def close(self):
            super().close()
            if self.resets[-1:] and self.resets[-1][1] == 11:
                raise RuntimeError("it cannot even be closed")

    made = []

    def make():
        made.append(Broken())
        return made[-1]

    settings = Settings(tmp_path, n_envs=2, source="points")
    with pytest.raises(EpisodeError) as failed:
        run_rollouts(policy, make, JOBS, settings)
    assert "2 of 4 episodes failed (2, 3)" in str(failed.value)
    first = "episode 2 (pick up the red cube, seed 11): RuntimeError: the simulator is gone"
    assert first in str(failed.value)
    assert [(env.closed, len(env.resets)) for env in made[:2]] == [(True, 2), (True, 1)]
    assert all(env.closed for env in made) and len(made) == 4
    done = [read_outcome(tmp_path, job.number) for job in JOBS]
    assert [outcome is not None for outcome in done] == [True, False, True, False]
    assert RecordReader(tmp_path, 2).num_calls == 1  # what was recorded of it stays
    assert not (tmp_path / "videos" / "points_0" / "eval_episode_00001.mp4").exists()
    before, after = (read_episode(episode_folder(run, 1)) for run in (single[0], tmp_path))
    np.testing.assert_allclose(after.actions, before.actions, atol=1e-5)
    (tmp_path / "reset").mkdir()
    unlucky = plan_jobs(PointEnv.tasks[:1], episodes=1, seed=12)
    with pytest.raises(EpisodeError, match=r"seed 12\): OSError: no such start state"):
        run_rollouts(policy, make, unlucky, Settings(tmp_path / "reset", video=False))
    info = run_rollouts(policy, PointEnv, JOBS, settings)  # repaired
    assert info["overall"]["n_episodes"] == 4


def test_actions_that_are_no_numbers_reach_no_environment(policy, tmp_path, monkeypatch):
    """Those of the second call of the first episode are NaN; the second episode goes on."""
    acted = []

    class Listening(PointEnv):
        def step(self, action):
            acted.append(action)
            return super().step(action)

    predict, calls = policy.predict, []

    def spoilt(*args, **kwargs):
        prediction = predict(*args, **kwargs)
        calls.append(prediction)
        actions = np.array(prediction.actions)
        if len(calls) == 2:
            actions[0, 1, 2] = np.nan
        return dataclasses.replace(prediction, actions=actions)

    monkeypatch.setattr(policy, "predict", spoilt)
    jobs = plan_jobs(PointEnv.tasks[:1], episodes=2, seed=12)  # 4 and 5 steps
    message = r"episode 0 \(.*, seed 12\): NonFiniteError: actions of call 1 \(step 2\) are NaN"
    with pytest.raises(EpisodeError, match=message):
        run_rollouts(policy, Listening, jobs, Settings(tmp_path, n_envs=2, video=False))
    assert np.isfinite(acted).all() and len(acted) == 2 + 5
    assert RecordReader(tmp_path, 0).env_step == (0,) and read_outcome(tmp_path, 0) is None
    assert read_outcome(tmp_path, 1) is not None


def test_what_fails_for_every_episode_stops_the_run(policy, tmp_path):
    class Other(PointEnv):
        def step(self, action):
            raise ConfigError("takes other actions")

    made = []

    def make():
        made.append(Other())
        return made[-1]

    with pytest.raises(ConfigError, match="takes other actions"):
        run_rollouts(policy, make, JOBS, Settings(tmp_path, video=False))
    assert [(env.closed, len(env.resets)) for env in made] == [(True, 1)]


def test_every_nth_call_and_a_limit_of_steps(policy, tmp_path):
    sparse = load_policy(
        policy.description.folder, capture=dataclasses.replace(SELECTION, every_n=2)
    )
    jobs = plan_jobs(PointEnv.tasks[:1], episodes=1, seed=14)  # 6 steps
    settings = Settings(tmp_path, max_steps=5, video=False, masks=False)
    info = run_rollouts(sparse, PointEnv, jobs, settings)
    assert RecordReader(tmp_path, 0).env_step == (0, 4)
    episode = read_episode(episode_folder(tmp_path, 0))
    assert episode.env_step.tolist() == [0, 2, 4]
    assert not episode.masks and not episode.calibration
    assert info["overall"]["video_paths"] == [] and info["overall"]["pc_success"] == 0


def test_a_part_of_the_denoising_steps_keeps_its_times(policy, tmp_path):
    testing.require_module("torch")
    import torch

    part = dataclasses.replace(SELECTION, denoise=(0, 1), reduce=("full",))
    some = load_policy(policy.description.folder, capture=part)
    settings = Settings(tmp_path / "run", max_steps=2, video=False, masks=False)
    run_rollouts(some, PointEnv, JOBS[:1], settings)
    info = RecordReader(tmp_path / "run", 0).info
    assert info["denoising_steps"] == 3 and info["times"] == [1.0, 0.6666667, 0.33333334]
    start_run(tmp_path / "run", selection=part)
    convert(tmp_path / "run", tmp_path / "x.pt")
    data = torch.load(tmp_path / "x.pt", weights_only=True)
    assert data["metadata"]["num_denoising_steps_per_action"] == 3
    maps = data["rollout_steps"][0]["attention_maps"]
    assert {step: maps[step]["time"] for step in maps} == {0: 1.0, 1: 0.6666667}


if __name__ == "__main__":
    testing.main()
