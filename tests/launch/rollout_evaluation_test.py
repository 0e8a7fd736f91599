"""What is checked before a rollout begins, and that it goes on when it is asked for again."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import safetensors.numpy

from attn_jax.bridge.checkpoint_folder import open_checkpoint
from attn_jax.core.errors import ConfigError
from attn_jax.data.episodes import episode_folder, read_episode
from attn_jax.probe.select import Selection
from configs.rollout import get_config
from launch import rollout_evaluation
from tests import testing
from tests.policies import checkpoints
from tests.robots.point_env import PointEnv

testing.require_module("tokenizers")
pytestmark = [pytest.mark.bridge]

SELECTION = Selection.parse("streams=suffix;layers=last:1;reduce=group_mass")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return checkpoints.write_checkpoint(tmp_path_factory.mktemp("policy") / "checkpoint")


def write_other_weights(folder):
    """One number of one tensor becomes another; header and size stay."""
    path = folder / "model.safetensors"
    tensors = dict(safetensors.numpy.load_file(path))
    name = min(tensors)
    tensors[name] = tensors[name] + 1
    safetensors.numpy.save_file(tensors, path)


@pytest.fixture
def config(monkeypatch):
    """Rollouts on the points of the test environment instead of a simulator."""
    monkeypatch.setattr(rollout_evaluation, "env_factory", lambda config, max_steps: PointEnv)
    config = get_config("tabletop,tiny")
    config.seed, config.max_steps = 10, 2
    return config


def test_runs_and_goes_on(checkpoint, config, tmp_path):
    def again(selection=SELECTION):
        return rollout_evaluation.evaluate(
            config, checkpoint=checkpoint, run=tmp_path, selection=selection
        )

    info = again()
    assert info["overall"]["n_episodes"] == 2
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["selection"]["reduce"] == ["group_mass"]
    assert run["provenance"]["config"]["seed"] == 10 and run["provenance"]["family"] == "pi05"
    identity = open_checkpoint(checkpoint).identity()
    assert identity.items() <= run["provenance"].items()
    assert run["provenance"]["packages"]["jax"] and run["provenance"]["model"]["cameras"]
    before = (tmp_path / "episodes" / "episode_00000" / "outcome.json").stat().st_mtime_ns
    assert again()["per_task"] == info["per_task"]
    after = (tmp_path / "episodes" / "episode_00000" / "outcome.json").stat().st_mtime_ns
    assert before == after
    with pytest.raises(ConfigError, match="holds another run: selection: was"):
        again(None)
    copy = tmp_path / checkpoint.name
    shutil.copytree(checkpoint, copy)
    write_other_weights(copy)
    with pytest.raises(ConfigError, match="another run: checkpoint_fingerprint: was"):
        rollout_evaluation.evaluate(config, checkpoint=copy, run=tmp_path, selection=SELECTION)
    config.seed = 11
    with pytest.raises(ConfigError, match=r"another run: config\.seed: was 10, now 11"):
        again()


def test_more_episodes_and_other_environments_side_by_side_go_on(checkpoint, config, tmp_path):
    def results():
        info = rollout_evaluation.evaluate(config, checkpoint=checkpoint, run=tmp_path / "run")
        return [task["metrics"]["successes"] for task in info["per_task"]]

    config.max_steps = None
    assert results() == [[True], [True]]  # seed 10
    outcomes = sorted((tmp_path / "run").glob("episodes/*/outcome.json"))
    before = [path.read_bytes() for path in outcomes]
    config.episodes, config.n_envs = 2, 2
    assert results() == [[True, False], [True, False]]
    assert [path.read_bytes() for path in outcomes] == before
    kept = json.loads((tmp_path / "run" / "run.json").read_text())["provenance"]["config"]
    assert kept["episodes"] == 2
    config.episodes = 1
    with pytest.raises(ConfigError, match=r"config\.episodes: was 2, now fewer, 1"):
        results()
    # The same as all of them at once.
    config.episodes = 2
    at_once = rollout_evaluation.evaluate(config, checkpoint=checkpoint, run=tmp_path / "at_once")
    assert [task["metrics"]["successes"] for task in at_once["per_task"]] == results()
    for number in range(4):
        one, other = (
            read_episode(episode_folder(tmp_path / run, number)) for run in ("run", "at_once")
        )
        assert one.info["task"] == other.info["task"] and one.info["seed"] == other.info["seed"]
        np.testing.assert_allclose(one.actions, other.actions, atol=1e-5)


def test_an_environment_that_cannot_be_leaves_no_run(checkpoint, tmp_path):
    config = get_config("tabletop,tiny")
    config.env.task = "juggle"
    with pytest.raises(ConfigError, match="juggle"):
        rollout_evaluation.evaluate(config, checkpoint=checkpoint, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_bad_settings(checkpoint, config, tmp_path):
    for field, value, message in (
        ("episodes", 0, "config.episodes: must be at least 1"),
        ("n_envs", 0, "config.n_envs: must be at least 1, got 0"),
        ("max_steps", 0, "config.max_steps: must be at least 1, got 0"),
        ("n_action_steps", 0, "config.n_action_steps: must be at least 1, got 0"),
        ("seed", -1, "config.seed: must be at least 0, got -1"),
        ("n_action_steps", 9, "outside 1..4"),
    ):
        wrong = config.copy_and_resolve_references()
        wrong[field] = value
        with pytest.raises(ConfigError, match=message):
            rollout_evaluation.evaluate(wrong, checkpoint=checkpoint, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_more_steps_than_the_environment_has():
    config = get_config("tabletop,size=8").env
    lengths = []
    for max_steps in (None, 3, 70):
        env = rollout_evaluation.env_factory(config, max_steps)()
        env.reset(env.tasks[0], seed=0, episode=0)
        steps = 1
        while not env.step(np.zeros(7, np.float32)).done:
            steps += 1
        lengths.append(steps)
    assert lengths == [60, 3, 70]


def test_unknown_environment():
    config = get_config("tabletop").env
    config.name = "kitchen"
    with pytest.raises(ConfigError, match="unknown environment 'kitchen'"):
        rollout_evaluation.env_factory(config)


if __name__ == "__main__":
    testing.main()
