"""What is checked before a rollout begins, and that it goes on when it is asked for again."""

from __future__ import annotations

import json
import shutil

import pytest
import safetensors.numpy

from attn_jax.bridge.checkpoint_folder import open_checkpoint
from attn_jax.core.errors import ConfigError
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
    monkeypatch.setattr(rollout_evaluation, "env_factory", lambda config: PointEnv)
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
    with pytest.raises(ConfigError, match="another selection"):
        again(None)
    copy = tmp_path / checkpoint.name
    shutil.copytree(checkpoint, copy)
    write_other_weights(copy)
    with pytest.raises(ConfigError, match="another checkpoint_fingerprint"):
        rollout_evaluation.evaluate(config, checkpoint=copy, run=tmp_path, selection=SELECTION)
    config.seed = 11
    with pytest.raises(ConfigError, match="another config"):
        again()


def test_bad_settings(checkpoint, config, tmp_path):
    for field, value, message in (
        ("episodes", 0, "config.episodes: must be at least 1"),
        ("n_action_steps", 9, "outside 1..4"),
    ):
        wrong = config.copy_and_resolve_references()
        wrong[field] = value
        with pytest.raises(ConfigError, match=message):
            rollout_evaluation.evaluate(wrong, checkpoint=checkpoint, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_unknown_environment():
    config = get_config("tabletop").env
    config.name = "kitchen"
    with pytest.raises(ConfigError, match="unknown environment 'kitchen'"):
        rollout_evaluation.env_factory(config)


if __name__ == "__main__":
    testing.main()
