"""The policy under LeRobot's own evaluation loop: actions, batches, environments done early."""

from __future__ import annotations

import json

import numpy as np
import pytest

from attn_jax.bridge.checkpoint_folder import open_checkpoint
from attn_jax.core.errors import ConfigError
from attn_jax.data.episodes import episode_folder, read_episode
from attn_jax.policies.policy import load_policy
from attn_jax.policies.recorder import read_outcome
from attn_jax.probe.store import RecordReader
from attn_jax.probe.verify import verify
from tests import testing
from tests.policies import checkpoints
from tests.robots.lerobot_policy_attn_jax.eval_env import TinyEnv

testing.require_module("torch", "lerobot")
# lerobot's own imports warn.
pytestmark = [pytest.mark.bridge, pytest.mark.filterwarnings("ignore")]

CAPTURE = "streams=suffix;layers=all;reduce=full,group_mass;dtype=float32"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return checkpoints.write_checkpoint(tmp_path_factory.mktemp("policy") / "checkpoint")


def make(checkpoint, **settings):
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors

    from robots.lerobot_policy_attn_jax import AttnJaxConfig
    from robots.lerobot_policy_attn_jax.modeling_attn_jax import AttnJaxPolicy

    config = AttnJaxConfig(checkpoint=str(checkpoint), device="cpu", **settings)
    assert get_policy_class("attn_jax") is AttnJaxPolicy
    policy = AttnJaxPolicy(config)
    return policy, *make_pre_post_processors(config)


def evaluate(checkpoint, run, *, batch, episodes=3):
    import gymnasium
    from lerobot.processor import PolicyProcessorPipeline
    from lerobot.scripts import lerobot_eval

    policy, pre, post = make(checkpoint, attention_dir=str(run), capture=CAPTURE)
    env = gymnasium.vector.SyncVectorEnv(
        [TinyEnv] * batch, autoreset_mode=gymnasium.vector.AutoresetMode.NEXT_STEP
    )
    nothing = PolicyProcessorPipeline(steps=[])
    info = lerobot_eval.eval_policy(
        env, policy, nothing, nothing, pre, post, n_episodes=episodes, start_seed=0
    )
    env.close()
    return info


@pytest.fixture(scope="module")
def single(checkpoint, tmp_path_factory):
    run = tmp_path_factory.mktemp("single")
    return run, evaluate(checkpoint, run, batch=1)


@pytest.fixture(scope="module")
def triple(checkpoint, tmp_path_factory):
    run = tmp_path_factory.mktemp("triple")
    return run, evaluate(checkpoint, run, batch=3)


def test_recording_stops_when_an_environment_is_done(triple):
    run, info = triple
    # 2, 3, and 7 steps of at most 6; a prediction every 2 steps.
    expected = {0: [0], 1: [0, 2], 2: [0, 2, 4]}
    for episode, steps in expected.items():
        assert list(RecordReader(run, episode).env_step) == steps
        assert read_episode(episode_folder(run, episode)).env_step.tolist() == steps
    assert [ep["success"] for ep in info["per_episode"]] == [True, False, False]
    outcomes = [read_outcome(run, episode) for episode in range(3)]
    assert [o["success"] for o in outcomes] == [True, False, False]
    assert [o["steps"] for o in outcomes] == [2, 3, 6]
    assert verify(run).ok
    facts = RecordReader(run, 0).info
    assert facts["denoising_steps"] == 3 and facts["times"] == [1.0, 0.6666667, 0.33333334]


def test_the_run_names_its_policy(checkpoint, tmp_path):
    names = {"observation.images.image": "observation.images.front"}
    make(checkpoint, attention_dir=str(tmp_path), precision="bfloat16_lerobot", rename_map=names)
    facts = json.loads((tmp_path / "run.json").read_text())["provenance"]
    assert open_checkpoint(checkpoint).identity().items() <= facts.items()
    assert facts["config"]["precision"] == facts["model"]["precision"] == "bfloat16_lerobot"
    assert facts["config"]["rename_map"] == names
    assert {"jax", "lerobot", "torch"} <= set(facts["packages"])
    assert str(checkpoint.parent) not in json.dumps(facts)


def test_an_episode_does_not_depend_on_its_batch(single, triple):
    for episode in range(3):
        one, three = (RecordReader(run, episode) for run in (single[0], triple[0]))
        assert one.env_step == three.env_step
        for name in one.names:
            first, second = one.record(name), three.record(name)
            np.testing.assert_allclose(first.values[:], second.values[:], atol=1e-5)
        first, second = (read_episode(reader.folder) for reader in (one, three))
        np.testing.assert_allclose(first.actions, second.actions, atol=1e-5)


def test_actions_are_those_of_the_policy_called_directly(checkpoint, single):
    episode = read_episode(episode_folder(single[0], 2))
    policy = load_policy(checkpoint)
    for call in range(2):
        observation = {
            f"observation.images.{camera}": pictures[call : call + 1]
            for camera, pictures in episode.images.items()
        }
        observation |= {"observation.state": episode.state[call : call + 1], "task": [TinyEnv.task]}
        noise = policy.episode_noise(0, 2, call)[None]
        direct = policy.predict(observation, noise)
        np.testing.assert_allclose(direct.actions[0], episode.actions[call], atol=1e-5)
    assert episode.prompt == TinyEnv.task


def lerobot_batch():
    import torch

    raw = checkpoints.observation(1)
    batch = {
        key: torch.from_numpy(np.moveaxis(value / np.float32(255), 3, 1))
        if "images" in key
        else value
        for key, value in raw.items()
    }
    return batch | {"observation.state": torch.from_numpy(raw["observation.state"])}


def test_options_of_a_chunk(checkpoint):
    import torch

    policy, batch = make(checkpoint)[0], lerobot_batch()
    noise = torch.from_numpy(policy._noise(1))
    chunk = policy.predict_action_chunk(batch, noise=noise, num_steps=None)
    assert torch.equal(policy.predict_action_chunk(batch, noise=noise, num_steps=3), chunk)
    short = policy.predict_action_chunk(batch, noise=noise, num_steps=1)
    plain = load_policy(checkpoint)
    observation = checkpoints.observation(1)
    expected = plain.predict(observation, noise.numpy(), num_steps=1).actions
    np.testing.assert_allclose(short.numpy(), expected, atol=1e-5)
    assert (short - chunk).abs().max() > 1e-4
    for options in ({"inference_delay": 2}, {"noise": noise, "steps": 3}):
        with pytest.raises(ConfigError, match=r"takes no (inference_delay|steps)"):
            policy.predict_action_chunk(batch, **options)
    with pytest.raises(ConfigError, match="num_steps: must be a positive integer"):
        policy.predict_action_chunk(batch, noise=noise, num_steps=0)


def test_chunks_and_single_actions(checkpoint):
    import torch

    policy, _, _ = make(checkpoint)
    batch = lerobot_batch()
    policy.reset()
    noise = torch.from_numpy(policy._noise(1))
    chunk = policy.predict_action_chunk(batch, noise=noise)
    assert chunk.shape == (1, 4, checkpoints.ACTION)
    for number in range(2):
        assert torch.equal(policy.select_action(batch), chunk[:, number])
    assert not torch.equal(policy.select_action(batch), chunk[:, 2])  # two actions of a chunk


def test_saved_and_loaded_by_path(checkpoint, tmp_path):
    from lerobot.configs import PreTrainedConfig
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors

    policy, _, _ = make(checkpoint)
    policy.save_pretrained(tmp_path)
    config = PreTrainedConfig.from_pretrained(tmp_path)
    assert config.checkpoint == str(checkpoint)
    again = get_policy_class("attn_jax").from_pretrained(tmp_path, config=config)
    assert len(list(again.parameters())) == 1 and not again.training
    make_pre_post_processors(config, pretrained_path=str(tmp_path))


if __name__ == "__main__":
    testing.main()
