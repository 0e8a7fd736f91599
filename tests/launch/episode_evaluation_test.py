"""A tiny real checkpoint over recordings in the DROID layout."""

import dataclasses
import json
import shutil

import numpy as np
import pandas as pd
import pytest

from attn_jax.bridge.checkpoint_folder import open_checkpoint
from attn_jax.core.errors import ConfigError, EpisodeError
from attn_jax.data.droid import DroidOptions, read_droid
from attn_jax.data.episodes import episode_folder, read_episode
from attn_jax.data.prompts import Prompt
from attn_jax.policies.observations import describe
from attn_jax.policies.policy import load_policy
from attn_jax.probe.select import Selection
from attn_jax.probe.store import RecordReader
from configs.analysis import relevance
from launch import episode_evaluation
from launch.analyze import analyse_run
from launch.episode_evaluation import Settings, evaluate_episodes
from launch.episode_sources import EpisodeSource, open_source
from tests import testing
from tests.data import fake_droid
from tests.policies import checkpoints

CAPTURE = Selection.parse("layers=last:1;reduce=patch_map,group_mass;dtype=float32")
PROMPTS = (
    Prompt("banana", "pick up the red plate", "object_swap"),
    Prompt("same", "{prompt}", "paraphrase"),
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return checkpoints.write_checkpoint(
        tmp_path_factory.mktemp("checkpoint"), cameras=("base", "wrist"), state=8, action=8
    )


@pytest.fixture(scope="module")
def policy(checkpoint):
    return load_policy(checkpoint, capture=CAPTURE)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    for number in range(2):
        fake_droid.save_droid(root, number=number, prompt="pick up the red cube")
    return root


def settings(run, **changes):
    return Settings(
        run, PROMPTS, noise_seeds=1, batch=2, rename={"left": "base"}, progress=False, **changes
    )


@pytest.fixture(scope="module")
def run(policy, root, tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    result = evaluate_episodes(policy, open_source(root), settings(run))
    # Two episodes of three keyframes, under four variants.
    assert result == {
        "episodes": 2,
        "variants": ["base", "noise_1", "banana", "same"],
        "inferences": 2 * 3 * 4,
        "skipped": 0,
    }
    return run


def actions(run, number=0):
    found = read_episode(episode_folder(run, number)).actions
    assert found is not None
    return found


@pytest.mark.slow
def test_observations_and_records_of_every_variant(run, root):
    recorded = read_droid(root / "success/2025-12-10/2025-12-10_12-34-01")
    for key, prompt in (("", "pick up the red cube"), ("banana", "pick up the red plate")):
        folder = episode_folder(run / "variants" / key if key else run, 1)
        episode, reader = read_episode(folder), RecordReader(folder)
        assert episode.prompt == reader.info["prompt"] == prompt
        assert episode.info["base_prompt"] == "pick up the red cube"
        assert episode.cameras == ("base", "wrist") and set(episode.info["geometry"]) == {
            "base",
            "wrist",
        }
        np.testing.assert_array_equal(episode.images["base"], recorded.images["left"])
        np.testing.assert_array_equal(episode.masks["wrist"], recorded.masks["wrist"])
        np.testing.assert_array_equal(episode.state, recorded.state)
        assert reader.complete and reader.env_step == (0, 8, 16)
        assert reader.info["denoising_steps"] == 3 == len(reader.info["times"])
        assert reader.names == ("prefix.group_mass", "prefix.patch_map", *reader.names[2:])
        mass = np.asarray(reader.record("suffix.group_mass").values)
        np.testing.assert_allclose(mass.sum(-1), 1, atol=1e-5)
    gold = np.load(episode_folder(run, 1) / "recorded_actions.npy")
    np.testing.assert_array_equal(gold, recorded.actions)
    facts = json.loads((run / "variants" / "banana" / "run.json").read_text())["provenance"]
    assert facts["recorded_episodes"]["prompt"]["method"] == "object_swap"


@pytest.mark.slow
def test_noise_and_state_are_shared_and_words_decide(run):
    """The same words give the same actions, bit for bit; other words or noise do not."""
    base = actions(run)
    np.testing.assert_array_equal(actions(run / "variants" / "same"), base)
    assert np.abs(actions(run / "variants" / "banana") - base).max() > 1e-4
    assert np.abs(actions(run / "variants" / "noise_1") - base).max() > 1e-4


@pytest.mark.slow
def test_actions_are_those_of_the_policy(run, policy, root):
    """Alone, without a batch and without capture."""
    episode = read_droid(root / "success/2025-12-10/2025-12-10_12-34-01")
    observation = {
        "observation.images.base": episode.images["left"][2:3],
        "observation.images.wrist": episode.images["wrist"][2:3],
        "observation.state": episode.state[2:3],
        "task": ["pick up the red cube"],
    }
    noise = policy.episode_noise(0, 1, 2)[None]
    alone = policy.predict(observation, noise, capture=False).actions[0]
    np.testing.assert_allclose(actions(run, 1)[2], alone, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("capture", [CAPTURE, None])
def test_what_moved_the_actions_is_recorded_and_analysed(checkpoint, root, tmp_path, capture):
    policy, run = load_policy(checkpoint, capture=capture), tmp_path / "run"
    asked = dataclasses.replace(settings(run), prompts=(), relevance=True)
    evaluate_episodes(policy, open_source(root), asked)
    names = {"prefix.relevance", "suffix.relevance"}
    reader = RecordReader(episode_folder(run, 1))
    assert names <= {*reader.names} and (capture is None) == (names == {*reader.names})
    assert reader.record("suffix.relevance").shape[:3] == (3, 3, 2)  # calls, steps, layers
    assert (episode_folder(run / "variants" / "noise_1", 1) / "meta.json").exists() == bool(capture)
    result = analyse_run(run, relevance.get_config("tiny"), tmp_path / "analysis")
    assert result["analysed"] == 2 and not result["skipped"]
    rows = pd.read_parquet(tmp_path / "analysis/episodes/episode_00001/rows.parquet")
    shares = rows[rows.metric.str.startswith("relevance:")]
    np.testing.assert_allclose(shares.value.sum(), 1, atol=1e-6)
    assert {*rows[rows.metric == "lift"].object} == {"bowl", "duck toy"}
    with pytest.raises(ConfigError, match="relevance"):
        evaluate_episodes(policy, open_source(root), dataclasses.replace(asked, relevance=False))


@pytest.mark.slow
def test_what_is_finished_is_not_run_again(run, policy, root):
    source = open_source(root)
    read: list[int] = []
    counted = dataclasses.replace(source, read=lambda n: read.append(n) or source.read(n))
    before = actions(run / "variants" / "banana", 1)
    (episode_folder(run / "variants" / "banana", 1) / "observations.json").unlink()
    result = evaluate_episodes(policy, counted, settings(run))
    assert (result["inferences"], result["skipped"], read) == (3, 7, [1])
    np.testing.assert_array_equal(actions(run / "variants" / "banana", 1), before)


@pytest.mark.slow
def test_a_failing_episode_is_named_and_not_marked(policy, root, tmp_path):
    source = open_source(root)

    def read(number):
        episode = source.read(number)
        return episode if number else dataclasses.replace(episode, state=episode.state[:, :3])

    damaged = EpisodeSource("droid", source.names, read)
    only = dataclasses.replace(settings(tmp_path), prompts=(), noise_seeds=0)
    with pytest.raises(EpisodeError, match=rf"1 of 2 episodes failed \({source.names[0]}\)"):
        evaluate_episodes(policy, damaged, only)
    assert not episode_evaluation.is_finished(tmp_path, 0)
    assert episode_evaluation.is_finished(tmp_path, 1)
    result = evaluate_episodes(policy, source, only)  # repaired
    assert (result["inferences"], result["skipped"]) == (3, 1)


@pytest.mark.slow
def test_a_run_of_other_settings_is_refused(run, policy, root):
    for change in ({"seed": 3}, {"rename": {"left": "wrist"}}):
        other = dataclasses.replace(settings(run), **change)
        with pytest.raises(ConfigError, match="made with another recorded_episodes"):
            evaluate_episodes(policy, open_source(root), other)


@pytest.mark.slow
def test_a_run_of_other_recordings_is_refused(run, policy, root, tmp_path):
    """Episodes go by their number: those of another root would pass for finished ones."""
    reading = dataclasses.replace(settings(run), reading={"keyframe_step": 4})
    with pytest.raises(ConfigError, match="made with another recorded_episodes"):
        evaluate_episodes(policy, open_source(root, DroidOptions(keyframe_step=4)), reading)
    moved = tmp_path / "moved"
    shutil.copytree(root, moved)
    assert evaluate_episodes(policy, open_source(moved), settings(run))["skipped"] == 8
    first = open_source(root).names[0]
    (moved / first).rename((moved / first).with_name("2025-12-10_01-00-00"))
    with pytest.raises(ConfigError, match=rf"recording {first}, in whose place is .*01-00-00 now"):
        evaluate_episodes(policy, open_source(moved), settings(run))
    other = tmp_path / "other"
    path = fake_droid.trajectory(seed=9)
    for number in range(2):
        fake_droid.save_droid(other, number=number, trajectory=path, prompt="pick up the red cube")
    assert open_source(other).names == open_source(root).names
    with pytest.raises(ConfigError, match="another one of this name"):
        evaluate_episodes(policy, open_source(other), settings(run))


@pytest.mark.slow
def test_cameras_that_the_checkpoint_lacks(policy, root, tmp_path):
    only = Settings(tmp_path, progress=False)
    with pytest.raises(EpisodeError, match=r"no camera for left.*--rename=left:base"):
        evaluate_episodes(policy, open_source(root), only)
    both = dataclasses.replace(only, rename={"left": "wrist"}, run=tmp_path / "both")
    with pytest.raises(EpisodeError, match="left and wrist of the recording would both be 'wrist'"):
        evaluate_episodes(policy, open_source(root), both)
    alone = dataclasses.replace(only, cameras=("wrist",))
    with pytest.raises(ConfigError, match="another recorded_episodes"):
        evaluate_episodes(policy, open_source(root, cameras=("wrist",)), alone)
    alone = dataclasses.replace(alone, run=tmp_path / "alone")
    evaluate_episodes(policy, open_source(root, cameras=("wrist",)), alone)
    found = read_episode(episode_folder(tmp_path / "alone", 1))
    assert found.cameras == ("wrist",) and set(found.info["geometry"]) == {"wrist"}


def test_what_does_not_fit_is_found_without_weights(checkpoint, root):
    """In the description and one recorded call; `test_command` does so without weights on disk."""
    description, episode = describe(checkpoint), open_source(root).first()
    check = episode_evaluation.check_fits
    assert check(description, episode, {"left": "base"}) == ("base", "wrist")
    with pytest.raises(ConfigError, match="no camera for left"):
        check(description, episode, {})
    narrow = dataclasses.replace(episode, state=episode.state[:, :3])
    with pytest.raises(ConfigError, match=r"do not fit .*state: has 3 dimensions, expected 8"):
        check(description, narrow, {"left": "base"})


@pytest.mark.slow
def test_every_nth_call_and_no_capture(checkpoint, root, tmp_path):
    selection = dataclasses.replace(CAPTURE, every_n=2)
    thin = load_policy(checkpoint, capture=selection)
    options = DroidOptions(masks="none")
    only = Settings(tmp_path / "a", batch=2, rename={"left": "base"}, progress=False)
    evaluate_episodes(thin, open_source(root, options), only)
    assert RecordReader(tmp_path / "a", 0).env_step == (0, 16)
    blind = load_policy(checkpoint)
    evaluate_episodes(blind, open_source(root, options), dataclasses.replace(only, run=tmp_path))
    folder = episode_folder(tmp_path, 0)
    assert sorted(f.name for f in folder.iterdir()) == [
        "observations.json",
        "observations.npz",
        "recorded_actions.npy",
    ]


def test_renames():
    assert episode_evaluation.parse_rename(["left:base", "wrist:wrist"]) == {
        "left": "base",
        "wrist": "wrist",
    }
    with pytest.raises(ConfigError, match="left:base,wrist:wrist"):
        episode_evaluation.parse_rename(["left"])
    with pytest.raises(ConfigError, match="two names"):
        episode_evaluation.parse_rename(["left:base", "left:wrist"])


@pytest.mark.slow
def test_command(checkpoint, root, tmp_path):
    prompts = tmp_path / "prompts.yaml"
    prompts.write_text("- {key: empty, prompt: '', method: empty}\n")
    done = testing.run_python(
        "-m",
        "launch.evaluate",
        f"--checkpoint={checkpoint}",
        f"--episodes={root}",
        f"--workdir={tmp_path / 'run'}",
        "--capture=layers=last:1;reduce=patch_map",
        f"--prompts={prompts}",
        "--rename=left:base",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["variants"] == ["base", "empty"] and result["inferences"] == 12
    facts = json.loads((tmp_path / "run" / "run.json").read_text())["provenance"]
    assert open_checkpoint(checkpoint).identity().items() <= facts.items()
    assert facts["model"]["cameras"] == ["base", "wrist"] and facts["packages"]["jax"]
    # No weights are read, and no folder is made.
    blind = tmp_path / "checkpoint"
    shutil.copytree(checkpoint, blind)
    (blind / "model.safetensors").unlink()
    for flag, message in (
        (f"--episodes={tmp_path / 'none'}", "no such folder"),
        (f"--episodes={root}", "no camera for left"),
    ):
        again = testing.run_python(
            "-m",
            "launch.evaluate",
            f"--checkpoint={blind}",
            flag,
            f"--workdir={tmp_path / 'again'}",
        )
        assert again.returncode == 2 and message in again.stderr.splitlines()[-1]
    assert not (tmp_path / "again").exists()


if __name__ == "__main__":
    testing.main()
