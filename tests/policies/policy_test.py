"""The policy runtime: one program for every prompt, samples that do not depend on their batch."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

from attn_jax.core.errors import CheckpointError, ConfigError, InputError
from attn_jax.models.pi05.sample import sample
from attn_jax.policies.observations import layouts_of, prepare
from attn_jax.policies.policy import Policy, load_policy
from attn_jax.probe.capture import discover
from attn_jax.probe.edits import intervened
from attn_jax.probe.intervene import ScaleValues, resolve_edits
from attn_jax.probe.select import Selection
from tests import testing
from tests.policies import checkpoints

testing.require_module("tokenizers")
pytestmark = [pytest.mark.bridge]

CAPTURE = Selection.parse(
    "layers=all;queries=action,text,image/front;keys=all;reduce=patch_map,group_mass;dtype=float32;"
    "streams=suffix"
)
EVERYTHING = Selection.parse("layers=all;reduce=full,patch_map,group_mass,entropy;dtype=float32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return checkpoints.write_checkpoint(tmp_path_factory.mktemp("policy") / "checkpoint")


@pytest.fixture(scope="module")
def policy(folder):
    return load_policy(folder, capture=EVERYTHING)


def rows(observation, *items):
    return {
        key: [value[i] for i in items] if isinstance(value, list) else value[list(items)]
        for key, value in observation.items()
    }


def same_records(found, expected, atol=1e-5):
    assert found.keys() == expected.keys()
    for name, record in found.items():
        assert record.layout == expected[name].layout
        np.testing.assert_allclose(record.values, expected[name].values, atol=atol)


def test_shapes_and_units(policy):
    prediction = policy.predict(checkpoints.observation())
    assert prediction.actions.shape == prediction.chunk.shape == (2, 4, checkpoints.ACTION)
    # The statistics map -1..1 to itself.
    np.testing.assert_allclose(prediction.actions, prediction.chunk, atol=1e-6)
    assert prediction.x_t.shape == prediction.v_t.shape == (3, 2, 4, 8)
    np.testing.assert_allclose(prediction.time, [1, 2 / 3, 1 / 3], rtol=1e-6)
    assert prediction.prefix_valid.shape == (2, 3 * 4 + checkpoints.PROMPT)
    assert not prediction.prefix_valid[:, 8:12].any()  # the camera without a picture


def test_every_sample_has_its_own_layout_and_is_the_one_predicted_alone(policy):
    observation = checkpoints.observation(3)
    noise = policy.noise(jax.random.key(1), 3)
    together = policy.predict(observation, noise)
    lengths = set()
    for item in range(3):
        alone = policy.predict(rows(observation, item), noise[item : item + 1])
        np.testing.assert_allclose(alone.actions[0], together.actions[item], atol=1e-5)
        same_records(together.records[item], alone.records[0])
        layout = together.records[item]["suffix"].layout
        lengths.add(len(layout.group("prompt").indices))
        assert layout.group("text").labels and layout.group("state").labels
    assert len(lengths) > 1, "the prompts of this test should differ in length"


def test_masses_are_those_of_the_full_maps(policy):
    records = policy.predict(checkpoints.observation()).records[1]
    for stream in ("prefix", "suffix"):
        full, mass = records[stream], records[f"{stream}.group_mass"]
        np.testing.assert_allclose(np.asarray(full.values).sum(-1), 1, atol=1e-5)
        for name in mass.key_names:
            expected = full.select(key=name)
            axes = tuple(range(5, expected.ndim))
            found = mass.select(key=name)[..., 0]
            np.testing.assert_allclose(found, expected.sum(axes), atol=1e-5)
    expected = records["suffix"].select(query="action", key="image/wrist").mean(axis=4)
    found = records["suffix.patch_map"].select(query="action", key="image/wrist")[..., 0, :, :]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_capture_changes_no_action(policy, folder):
    observation, noise = checkpoints.observation(), policy.noise(jax.random.key(0), 2)
    captured = policy.predict(observation, noise)
    plain = policy.predict(observation, noise, capture=False)
    assert plain.records is None and captured.records is not None
    np.testing.assert_allclose(plain.actions, captured.actions, atol=1e-6)


def test_removed_keys(policy):
    """A whole camera removed is the policy without it."""
    observation = checkpoints.observation()
    prepared = prepare(policy.description, observation)
    noise = policy.noise(jax.random.key(5), 2)
    plain = policy.run(prepared, noise=noise, capture=False).actions
    removed = np.zeros((2, 3 * 4 + checkpoints.PROMPT), bool)
    removed[0, :4] = removed[1, -1] = True  # the last place is padding
    with pytest.raises(InputError, match="sample 1 removes no token that can be seen"):
        policy.run(prepared, noise=noise, removed=removed)
    # Of the first sample the first camera, of the second one patch.
    removed[1] = np.arange(removed.shape[1]) == 2
    prediction = policy.run(prepared, noise=noise, removed=removed)
    assert prediction.records is None
    both = prediction.actions
    blind = {k: v for k, v in observation.items() if not k.endswith("front")}
    without = policy.predict(rows(blind, 0), noise[:1], capture=False).actions
    np.testing.assert_allclose(both[0], without[0], atol=1e-5)
    one = prepare(policy.description, rows(observation, 1))
    alone = policy.run(one, noise=noise[1:], removed=removed[1:]).actions
    np.testing.assert_allclose(both[1], alone[0], atol=1e-5)
    assert np.abs(both - plain).max(axis=(1, 2)).min() > 1e-5


def test_explained_alone_and_in_a_batch(folder):
    policy = load_policy(folder)
    prepared = prepare(policy.description, checkpoints.observation(2))
    noise = policy.noise(jax.random.key(6), 2)
    found = policy.explain(prepared, noise)
    for item in range(2):
        one = prepare(policy.description, rows(checkpoints.observation(2), item))
        [alone] = policy.explain(one, noise[item : item + 1])
        same_records(found[item], alone)
        assert alone.keys() == {"prefix.relevance", "suffix.relevance"}
        valid = policy.run(one, noise=noise[item : item + 1]).prefix_valid[0]
        keys = np.abs(alone["suffix.relevance"].values).sum((0, 1, 2, 3, 4))[: len(valid)]
        assert (keys[~valid] == 0).all() and keys[valid].max() > 0
    assert found[0]["suffix.relevance"].layout != found[1]["suffix.relevance"].layout
    with pytest.raises(InputError, match="noise"):
        policy.explain(prepared, noise[:1])


@pytest.mark.parametrize("stream", ["prefix", "suffix"])
def test_explained_is_what_scaling_the_edges_does(policy, stream):
    """To first order, by central differences of the explained number."""
    prepared = prepare(policy.description, checkpoints.observation(1))
    noise = policy.noise(jax.random.key(7), 1)
    record = policy.explain(prepared, noise)[0][f"{stream}.relevance"]
    watched = functools.partial(sample, policy.config, watch=True)
    args = (policy._params, prepared.inputs, noise)
    streams = discover(watched, layouts_of(policy.config, prepared, 0), *args)
    step, layer = 0.05, 1 if stream == "suffix" else 0
    where = {"streams": (stream,), "layers": (layer,)}
    scaled = [ScaleValues("image/front", 1 + sign * step, **where) for sign in (1, -1)]
    edits = resolve_edits(scaled, streams)
    run = jax.jit(intervened(lambda *args: sample(policy.config, *args)[0]))
    up, down = (
        0.5
        * np.square(
            np.asarray(run(edits[i], *args).actions, np.float64)[..., : checkpoints.ACTION]
        ).sum()
        for i in range(2)
    )
    keys = record.layout.positions("image/front", "key")
    explained = record.values[:, :, record.layers.index(layer)][..., keys].sum()
    assert abs(explained) > 1e-4
    np.testing.assert_allclose(explained, (up - down) / (2 * step), rtol=0.02)


def test_one_program_for_prompts_of_similar_length(folder):
    policy = load_policy(folder, capture=CAPTURE)
    lengths = set()
    for seed in range(4):
        observation = checkpoints.observation(1, seed=seed)
        prepared = prepare(policy.description, observation)
        lengths.add(int(prepared.inputs.token_mask.sum()))
        policy.predict(observation)
    assert len(lengths) > 1 and policy.num_programs == 1, lengths


def test_noise_depends_on_seed_episode_and_call_only(policy):
    drawn = {
        key: policy.episode_noise(*key) for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    }
    for key, noise in drawn.items():
        np.testing.assert_array_equal(noise, policy.episode_noise(*key))
        assert all(np.abs(noise - other).max() > 0.1 for k, other in drawn.items() if k != key)


def test_layouts_name_words_of_the_own_prompt(policy):
    prepared = prepare(policy.description, checkpoints.observation())
    first, second = (layouts_of(policy.config, prepared, i)["suffix"] for i in (0, 1))
    assert first.group("text/word/cube") and second.group("text/word/plate")


def test_another_number_of_denoising_steps(folder):
    policy = load_policy(folder, capture=CAPTURE)
    observation, noise = checkpoints.observation(), policy.noise(jax.random.key(2), 2)
    usual = policy.predict(observation, noise, capture=False)
    assert policy.num_programs == 1
    same = policy.predict(observation, noise, capture=False, num_steps=3)
    np.testing.assert_array_equal(same.actions, usual.actions)
    assert policy.num_programs == 1
    short = policy.predict(observation, noise, capture=False, num_steps=2)
    np.testing.assert_array_equal(short.time, np.array([1, 0.5], np.float32))
    assert np.abs(short.actions - usual.actions).max() > 1e-4 and policy.num_programs == 2
    # One Euler step from noise to data.
    np.testing.assert_allclose(short.x_t[1], noise - short.v_t[0] / 2, atol=1e-6)
    with pytest.raises(ConfigError, match=r"num_steps: attention is captured of 3.*capture=False"):
        policy.predict(observation, noise, num_steps=2)
    for wrong in (0, -1):
        with pytest.raises(ConfigError, match="num_steps: must be a positive integer"):
            policy.predict(observation, noise, capture=False, num_steps=wrong)


def test_bad_input(policy, tmp_path):
    observation = checkpoints.observation()
    with pytest.raises(InputError, match="neither tokens nor a task"):
        policy.predict({k: v for k, v in observation.items() if k != "task"})
    with pytest.raises(InputError, match="noise: has shape"):
        policy.predict(observation, np.zeros((1, 4, 8), np.float32))
    with pytest.raises(InputError, match="no camera is present"):
        policy.predict({k: v for k, v in observation.items() if "images" not in k})
    with pytest.raises(ConfigError, match="valid_keys_only"):
        Policy(policy.description, {}, selection=Selection(valid_keys_only=True))
    with pytest.raises(CheckpointError, match="no such folder"):
        load_policy(tmp_path / "nothing")


if __name__ == "__main__":
    testing.main()
