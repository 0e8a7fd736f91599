"""Hidden patches and turned pictures: pixels, choice, and a tiny real policy to the analysis."""

import dataclasses
import json

import jax
import numpy as np
import pandas as pd
import pytest

from attn_jax.bridge.image_resize import content_box
from attn_jax.core.errors import ConfigError, EpisodeError, RecordError
from attn_jax.data.episodes import episode_folder, read_episode
from attn_jax.policies.observations import prepare
from attn_jax.policies.policy import load_policy
from attn_jax.probe.occlusion import FILLS
from attn_jax.probe.select import Selection
from attn_jax.probe.store import RecordReader
from configs.analysis import h1_fidelity, rotation
from launch import episode_evaluation, episode_occlusion
from launch.analyze import analyse_run
from launch.episode_evaluation import Settings, evaluate_episodes
from launch.episode_occlusion import BaseMaps, hidden_patches, hide
from launch.episode_sources import open_source
from launch.episode_variants import KEY_REMOVAL, Hiding, Occlusion
from tests import testing
from tests.analysis import runs
from tests.data import fake_droid
from tests.policies import checkpoints

HIGH = Hiding("wrist", 5, "mean", "high")
CONTROL = dataclasses.replace(HIGH, set="control")
WIDE = (8, 0, 16, 32)  # a picture with bars above and below: rows 1 and 2 of four
CAPTURE = Selection.parse("layers=all;reduce=patch_map;dtype=float32")
OCCLUSION = Occlusion((1,), ("wrist",), ("black", "noise"), seeds=2)


@pytest.fixture
def maps(tmp_path):
    folder = runs.write_run(tmp_path)
    return BaseMaps(folder, read_episode(folder))


def test_the_planted_patch_is_high_and_bars_are_never_chosen(maps):
    high = hidden_patches(maps, HIGH, WIDE, seed=0, number=0)
    # One of the eight patches of the picture: (1, 1), where the cube is.
    assert high.facts() == {"patches": [[5]] * 3, "grid": [4, 4], "matched": [True] * 3}
    drawn = set()
    for seed in range(20):
        control = hidden_patches(maps, CONTROL, WIDE, seed=seed, number=0)
        assert (control.patches.sum((1, 2)) == 1).all() and not (
            high.patches & control.patches
        ).any()
        drawn |= set(np.flatnonzero(control.patches.any(0)).tolist())
    assert drawn == {4, 6, 7, 8, 9, 10, 11}
    more = dataclasses.replace(CONTROL, fill="blur")
    for hiding in (CONTROL, more):  # the fill does not move the control
        again = hidden_patches(maps, hiding, WIDE, seed=19, number=0)
        np.testing.assert_array_equal(again.patches, control.patches)


def test_nothing_is_hidden_where_nothing_is_looked_at(maps, monkeypatch):
    values, seen = maps.of("wrist", 5)
    values = values.copy()
    values[1] = 0
    monkeypatch.setattr(maps, "of", lambda camera, layer: (values, seen))
    for hiding in (HIGH, CONTROL):
        hidden = hidden_patches(maps, hiding, WIDE, seed=0, number=0)
        assert hidden.patches.any((1, 2)).tolist() == [True, False, True]
        assert hidden.facts()["matched"] == [True, False, True]


def test_maps_that_were_not_recorded_are_named(maps, tmp_path):
    with pytest.raises(RecordError, match="layer 3 was not recorded"):
        hidden_patches(maps, dataclasses.replace(HIGH, layer=3), WIDE, seed=0, number=0)
    half = dataclasses.replace(HIGH, share=0.5)
    hidden_patches(maps, half, WIDE, seed=0, number=0)
    with pytest.raises(ConfigError, match="Hide a smaller share"):
        hidden_patches(maps, dataclasses.replace(HIGH, share=0.6), WIDE, seed=0, number=0)


@pytest.mark.parametrize("how", FILLS)
def test_exactly_the_chosen_patches_change(how):
    rng = np.random.default_rng(0)
    images = rng.uniform(-0.9, 0.9, (2, 32, 32, 3)).astype(np.float32)
    top, _, height, _ = WIDE
    images[:, :top] = images[:, top + height :] = -1
    patches = np.zeros((2, 4, 4), bool)
    patches[0, 1, 1] = patches[1, 2, 3] = patches[1, 0, 0] = True  # the last one is bar
    keys = [jax.random.key(i) for i in range(2)]
    after = hide(images, patches, (32, 32), WIDE, how, keys)
    expected = np.zeros((2, 32, 32), bool)
    expected[0, 8:16, 8:16] = expected[1, 16:24, 24:32] = True
    np.testing.assert_array_equal((after != images).any(-1), expected)
    picture = images[:, top : top + height]
    if how == "black":
        assert (after[expected] == -1).all()
    if how == "mean":  # of the picture, not of the bars
        np.testing.assert_allclose(after[0, 9, 9], picture[0].mean((0, 1)), atol=1e-6)
    assert np.abs(after).max() <= 1
    one = hide(images[1:], patches[1:], (32, 32), WIDE, how, keys[1:])
    np.testing.assert_array_equal(one[0], after[1])  # alone as in a batch
    same = hide(images, np.zeros_like(patches), (32, 32), WIDE, how, keys)
    np.testing.assert_array_equal(same, images)


def test_pixels_beyond_the_last_whole_patch_are_left_alone():
    images = np.zeros((1, 10, 10, 3), np.float32)
    after = hide(
        images, np.ones((1, 2, 2), bool), (8, 8), (0, 0, 10, 10), "black", [jax.random.key(0)]
    )
    assert (after[:, :8, :8] == -1).all() and not after[:, 8:].any() and not after[:, :, 8:].any()


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
    fake_droid.save_droid(root, prompt="pick up the red cube")
    return root


def settings(run, **changes):
    given = {"noise_seeds": 1, "occlusion": OCCLUSION, "rotate": (90, 180), **changes}
    return Settings(run, batch=2, rename={"left": "base"}, progress=False, **given)


@pytest.fixture(scope="module")
def run(policy, root, tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    result = evaluate_episodes(policy, open_source(root), settings(run))
    assert len(result["variants"]) == 2 + 2 * 2 * 2 + 2
    assert result["inferences"] == 3 * len(result["variants"])
    return run


def variant(run, key):
    return episode_folder(run / "variants" / key, 0)


@pytest.mark.slow
def test_occluded_runs(run, policy):
    base = read_episode(episode_folder(run, 0))
    values, seen = BaseMaps(episode_folder(run, 0), base).of("wrist", 1)
    assert seen == (28, 28) and values.shape == (3, 2, 2)
    record = np.asarray(RecordReader(episode_folder(run, 0)).record("suffix.patch_map").values)
    # Axes call, denoise, layer, head, query, key; the second camera has the last four patches.
    mean = record[:, :, 1, :, 0, 4:].mean((1, 2)).reshape(3, 2, 2)
    np.testing.assert_allclose(values, mean, rtol=1e-5)
    for noise in ("", "noise_1"):
        end = f"_{noise}" if noise else ""
        sets = {}
        for which in ("high", "control"):
            folder = variant(run, f"occlude_wrist_L1_black_{which}{end}")
            found = read_episode(folder)
            facts = found.info["intervention"]
            assert (facts["set"], facts["noise"], facts["grid"]) == (which, noise, [2, 2])
            assert not (folder / "meta.json").exists()  # no attention
            np.testing.assert_array_equal(found.images["wrist"], base.images["wrist"])
            sets[which] = facts["patches"]
            actions = found.actions
            clean = read_episode(variant(run, noise)) if noise else base
            assert actions is not None and clean.actions is not None
            assert np.abs(actions - clean.actions).max() > 1e-5
        assert sets["high"] == [[int(m.argmax())] for m in mean]
        assert all(a != b for a, b in zip(sets["high"], sets["control"], strict=True))


@pytest.mark.slow
def test_removed_keys(root, policy, tmp_path):
    """The actions on disk are those without the tokens of the chosen patches; pixels stay."""
    occlusion = Occlusion((1,), ("wrist",), (KEY_REMOVAL,))
    evaluate_episodes(policy, open_source(root), settings(tmp_path, occlusion=occlusion, rotate=()))
    base = read_episode(episode_folder(tmp_path, 0))
    found = read_episode(variant(tmp_path, "occlude_wrist_L1_key_removal_high"))
    assert found.info["intervention"]["fill"] == KEY_REMOVAL
    call = 1
    observation = {
        **{f"observation.images.{c}": base.images[c][call : call + 1] for c in base.images},
        "observation.state": base.state[call : call + 1],
        "task": [base.prompt],
    }
    prepared = prepare(policy.description, observation)
    (place,) = found.info["intervention"]["patches"][call]
    removed = np.zeros((1, 2 * 4 + policy.config.prompt_length), bool)
    removed[0, 4 + place] = True
    noise = policy.episode_noise(0, 0, call)[None]
    alone = policy.run(prepared, noise=noise, removed=removed).actions[0]
    assert found.actions is not None and base.actions is not None
    np.testing.assert_allclose(found.actions[call], alone, atol=2e-5)
    assert np.abs(found.actions - base.actions).max() > 1e-5


@pytest.mark.slow
def test_the_policy_sees_the_letterboxed_picture_without_the_patches(run, policy):
    """The actions on disk are those of the picture with these pixels black."""
    base = read_episode(episode_folder(run, 0))
    found = read_episode(variant(run, "occlude_wrist_L1_black_high"))
    call = 2
    observation = {
        **{f"observation.images.{c}": base.images[c][call : call + 1] for c in base.images},
        "observation.state": base.state[call : call + 1],
        "task": [base.prompt],
    }
    prepared = prepare(policy.description, observation)
    images = np.array(prepared.inputs.images)
    top, left, height, width = content_box(base.images["wrist"].shape[1:3], (28, 28))
    pixels = np.zeros((28, 28), bool)
    (place,) = found.info["intervention"]["patches"][call]
    row, column = divmod(place, 2)
    pixels[14 * row : 14 * row + 14, 14 * column : 14 * column + 14] = True
    pixels[:top] = pixels[top + height :] = pixels[:, :left] = pixels[:, left + width :] = False
    images[0, 1][pixels] = -1
    assert 0 < pixels.sum() < 14 * 14  # a part of the patch is bar
    prepared = dataclasses.replace(prepared, inputs=prepared.inputs.replace(images=images))
    noise = policy.episode_noise(0, 0, call)[None]
    alone = policy.run(prepared, noise=noise, capture=False).actions[0]
    assert found.actions is not None
    np.testing.assert_allclose(found.actions[call], alone, atol=2e-5)


@pytest.mark.slow
def test_turned_runs(run):
    base = read_episode(episode_folder(run, 0))
    found = read_episode(variant(run, "rotate_90"))
    assert found.info["rotation"] == {"degrees": 90, "camera": ["base", "wrist"]}
    assert "geometry" in base.info and "geometry" not in found.info
    for camera in ("base", "wrist"):
        assert found.images[camera].shape == (3, 64, 36, 3)
        expected = np.rot90(base.images[camera], 1, (1, 2))
        np.testing.assert_array_equal(found.images[camera], expected)
    np.testing.assert_array_equal(found.masks["wrist"], np.rot90(base.masks["wrist"], 1, (2, 3)))
    records = [RecordReader(f) for f in (episode_folder(run, 0), variant(run, "rotate_90"))]
    assert records[0].names == records[1].names and records[1].complete
    facts = json.loads((run / "variants/rotate_90/run.json").read_text())
    assert facts["provenance"]["recorded_episodes"]["rotation"] == 90


@pytest.mark.slow
def test_hypotheses_read_them(run, tmp_path):
    result = analyse_run(run, h1_fidelity.get_config("tiny"), tmp_path / "h1")
    assert result["analysed"] == 1 and result["skipped"] == {}
    rows = pd.read_parquet(tmp_path / "h1/episodes/episode_00000/rows.parquet")
    scores = rows[rows.metric == "fidelity"]
    assert sorted(scores.variant) == ["black", "noise"] and set(scores.layer) == {1}
    assert np.isfinite(scores.value).all() and (scores.value != 0).all()
    assert rows.value[rows.metric == "null_floor"].item() > 0
    result = analyse_run(run, rotation.get_config("tiny"), tmp_path / "rotation")
    assert result["analysed"] == 1 and result["skipped"] == {}
    rows = pd.read_parquet(tmp_path / "rotation/episodes/episode_00000/rows.parquet")
    assert set(rows.variant) == {"rotate_90", "rotate_180"}
    assert set(rows.camera) == {"base", "wrist"} and set(rows["query"]) == {"text", "action"}
    assert {"topk_iou", "centroid_shift_patches", "overlap_drop"} <= set(rows.metric)


@pytest.mark.slow
def test_nothing_hidden_has_fidelity_zero(policy, root, tmp_path, monkeypatch):
    def nothing(*args, **keywords):
        hidden = hidden_patches(*args, **keywords)
        return dataclasses.replace(hidden, patches=np.zeros_like(hidden.patches))

    monkeypatch.setattr(episode_evaluation, "hidden_patches", nothing)
    only = Occlusion((1,), ("wrist",), ("mean",))
    blank = settings(tmp_path / "run", noise_seeds=0, occlusion=only, rotate=())
    evaluate_episodes(policy, open_source(root), blank)
    analyse_run(tmp_path / "run", h1_fidelity.get_config("tiny"), tmp_path / "out")
    rows = pd.read_parquet(tmp_path / "out/episodes/episode_00000/rows.parquet")
    assert rows.value[rows.metric == "fidelity"].item() == 0
    # The program without capture rounds differently.
    assert rows.value[rows.metric == "mse_high"].item() < 1e-8


@pytest.mark.slow
def test_what_is_finished_is_not_run_again(run, policy, root):
    keys = ("occlude_wrist_L1_noise_control_noise_1", "rotate_180")
    before = [read_episode(variant(run, key)).actions for key in keys]
    for key in keys:
        (variant(run, key) / "observations.json").unlink()
    result = evaluate_episodes(policy, open_source(root), settings(run))
    assert (result["inferences"], result["skipped"]) == (6, 10)
    for key, actions in zip(keys, before, strict=True):
        np.testing.assert_array_equal(read_episode(variant(run, key)).actions, actions)
    other = dataclasses.replace(OCCLUSION, share=0.3)
    with pytest.raises(ConfigError, match="made with another recorded_episodes"):
        evaluate_episodes(policy, open_source(root), settings(run, occlusion=other))


@pytest.mark.slow
def test_a_camera_that_the_episode_lacks(policy, root, tmp_path):
    spare = Occlusion((1,), ("spare",), ("mean",))
    with pytest.raises(EpisodeError, match=r"no camera 'spare'.*base, wrist"):
        evaluate_episodes(policy, open_source(root), settings(tmp_path, occlusion=spare, rotate=()))


@pytest.mark.slow
def test_command(checkpoint, root, tmp_path):
    command = (
        "-m",
        "launch.evaluate",
        f"--checkpoint={checkpoint}",
        f"--episodes={root}",
        f"--workdir={tmp_path / 'run'}",
        "--rename=left:base",
        "--occlude=last",
        "--occlude_fills=mean",
        "--occlude_share=0.25",
        "--rotate=270",
        "--json",
    )
    wrong = testing.run_python(*command, "--capture=layers=0;reduce=patch_map")
    assert wrong.returncode == 2 and "layer 1 is not captured" in wrong.stderr
    assert "--capture='streams=suffix;layers=all" in wrong.stderr
    assert not (tmp_path / "run").exists()  # before any work
    done = testing.run_python(*command, "--capture=layers=last:1;reduce=patch_map")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["variants"] == [
        "base",
        "occlude_base_L1_mean_high",
        "occlude_base_L1_mean_control",
        "occlude_wrist_L1_mean_high",
        "occlude_wrist_L1_mean_control",
        "rotate_270",
    ]


def test_share_of_picture():
    share = episode_occlusion.picture_share((6, 0, 20, 32), (32, 32), (4, 4))
    assert share[:, 0].tolist() == [0.25, 1.0, 1.0, 0.25] and (share == share[:, :1]).all()


if __name__ == "__main__":
    testing.main()
