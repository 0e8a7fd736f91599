"""The launcher of single predictions, against LeRobot's predict_action_chunk."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from attn_jax.bridge.checkpoint_folder import open_checkpoint
from attn_jax.bridge.tokenizer import PromptTokenizer
from attn_jax.core.errors import CheckpointError, InputError
from attn_jax.core.layout import TokenLayout
from attn_jax.policies.observations import describe, layouts_of, prepare
from attn_jax.policies.policy import with_weights
from attn_jax.probe.select import Selection
from launch import predict
from tests import testing
from tests.bridge import lerobot_processors
from tests.models.pi05 import lerobot_reference as reference

testing.require_module("torch", "lerobot")
# lerobot's own imports warn.
pytestmark = [pytest.mark.bridge, pytest.mark.filterwarnings("ignore")]

CASE = reference.Case(lengths=(17, 9), action_dim=4, steps=4, chunk=5, raw=(40, 60))


@pytest.fixture(scope="module")
def lerobot(tmp_path_factory):
    """(checkpoint folder, inputs, what LeRobot computes)."""
    folder = tmp_path_factory.mktemp("pi05")
    policy = reference.make_policy(CASE)
    reference.save(policy, CASE, folder)
    (folder / "architecture.json").write_text(json.dumps(CASE.sizes.to_json()))
    batch = reference.make_batch(CASE)
    expected = reference.run(policy, CASE, batch)
    inputs = {f"image{i}": batch[f"cam{i}"] for i in range(CASE.cameras)}
    inputs |= {"tokens": batch["tokens"], "token_mask": batch["mask"], "noise": batch["noise"]}
    return folder, inputs, expected


def run(folder, inputs, tmp_path, *flags):
    np.savez(tmp_path / "in.npz", **inputs)
    done = testing.run_python(
        "-m",
        "launch.predict",
        f"--checkpoint={folder}",
        f"--inputs={tmp_path / 'in.npz'}",
        f"--outputs={tmp_path / 'out.npz'}",
        *flags,
    )
    if done.returncode:
        return done
    with np.load(tmp_path / "out.npz", allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def test_everything_out_equals_lerobot(lerobot, tmp_path):
    folder, inputs, expected = lerobot
    out = run(folder, inputs, tmp_path, "--capture=all")
    np.testing.assert_allclose(out["action_chunk"], expected.actions, atol=1e-5)
    np.testing.assert_allclose(out["attn_suffix"], expected.suffix, atol=2e-6)
    np.testing.assert_allclose(out["attn_prefix"], expected.prefix, atol=2e-6)
    np.testing.assert_allclose(out["v_t"], expected.velocity, atol=1e-5)
    np.testing.assert_array_equal(out["prefix_pad_mask"], expected.prefix_valid)
    np.testing.assert_array_equal(out["x_t"][0], inputs["noise"])
    np.testing.assert_array_equal(out["time"], np.array([1, 0.75, 0.5, 0.25], np.float32))
    labels = json.loads(str(out["attn_labels"]))
    assert set(labels) == {"attn_suffix", "attn_prefix"}
    facts = json.loads(str(out["provenance"]))
    assert open_checkpoint(folder).identity().items() <= facts.items()
    assert facts["model"]["chunk_size"] == 5 and facts["packages"]["jax"]
    assert facts["selection"]["layers"] == "all" and facts["seed"] == 0
    layout = TokenLayout.from_json(labels["attn_suffix"]["layouts"][0])
    grid = layout.select(out["attn_suffix"], query="action", key="image/cam1")
    assert grid.shape == (4, 3, 2, 8, 5, 4, 4)
    assert not layout.group("image/empty_camera_0").valid
    other = TokenLayout.from_json(labels["attn_suffix"]["layouts"][1])
    assert [len(made.group("prompt").indices) for made in (layout, other)] == [17, 9]


def made(lerobot, **changes):
    folder, inputs, _ = lerobot
    description = describe(folder)
    arrays = {k: v for k, v in (inputs | changes).items() if v is not None}
    prepared = prepare(description, predict.features(description, arrays))
    noise = predict.given_noise(description.config, arrays, len(prepared.inputs.tokens))
    return description, prepared, noise


def results(description, prepared, noise, selection=None):
    policy = with_weights(description, capture=selection, bucket=1)
    return predict.results_of(policy.run(prepared, noise=noise))


def test_without_capture_the_same_to_rounding(lerobot):
    out = results(*made(lerobot))
    expected = lerobot[2]
    np.testing.assert_allclose(out["action_chunk"], expected.actions, atol=1e-5)
    np.testing.assert_array_equal(out["prefix_pad_mask"], expected.prefix_valid)
    assert set(out) == {"action_chunk", "x_t", "v_t", "time", "prefix_pad_mask"}


def test_another_arithmetic(lerobot):
    _, prepared, noise = made(lerobot)
    out = results(describe(lerobot[0], precision="bfloat16_lerobot"), prepared, noise)
    error = np.abs(out["action_chunk"] - lerobot[2].actions).max()
    assert 1e-4 < error < 1e-1  # the weights themselves lose 16 bits


def test_a_selection_keeps_what_it_names(lerobot):
    selection = Selection.parse(
        "streams=suffix;layers=2;heads=0,3;denoise=1;keys=image/*;reduce=full,group_mass;"
        "dtype=float32"
    )
    out = results(*made(lerobot), selection)
    suffix = lerobot[2].suffix
    np.testing.assert_allclose(
        out["attn_suffix"], suffix[1:2, 2:3][:, :, :, [0, 3], :, :48], atol=2e-6
    )
    masses = out["attn_suffix.group_mass"]
    np.testing.assert_allclose(masses[..., 0], out["attn_suffix"][..., :16].sum(-1), atol=1e-5)
    assert "attn_prefix" not in out
    labels = json.loads(str(out["attn_labels"]))["attn_suffix.group_mass"]
    assert labels["key_names"] == ["image/cam0", "image/cam1", "image/empty_camera_0"]
    assert labels["layers"] == [2] and labels["heads"] == [0, 3] and labels["denoise"] == [1]
    assert labels["denoising_steps"] == 4 and labels["times"] == [1.0, 0.75, 0.5, 0.25]


def test_present_cameras_come_first(lerobot):
    _, prepared, _ = made(lerobot, image0=None)
    assert prepared.cameras == ("cam1", "cam0", "empty_camera_0")
    np.testing.assert_array_equal(prepared.inputs.image_mask[0], [True, False, False])


def test_noise_is_drawn_from_the_seed(lerobot):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict, "SEED", type("Flag", (), {"value": 3}))
        drawn = made(lerobot, noise=None)[2]
    assert drawn.shape == lerobot[1]["noise"].shape and drawn.dtype == np.float32
    assert np.abs(drawn.mean()) < 0.2 and np.abs(drawn.std() - 1) < 0.2


def test_tasks_go_through_the_processors(lerobot, tmp_path):
    folder = tmp_path / "with_processors"
    shutil.copytree(lerobot[0], folder)
    tokenizer = lerobot_processors.save_tokenizer(tmp_path / "tokenizer")
    pipelines = lerobot_processors.build(tokenizer, tokenizer_max_length=40)
    pipelines.save(folder)
    inputs = {key: lerobot[1][key] for key in ("image0", "image1", "noise")}
    state = np.random.default_rng(0).normal(size=(2, lerobot_processors.STATE_DIM))
    inputs["state"] = state.astype(np.float32)
    inputs["task"] = np.array(["pick up the cube", "place it"])
    out = run(folder, inputs, tmp_path, f"--tokenizer={tokenizer}")
    assert isinstance(out, dict), out.stderr
    import torch

    expected = pipelines.post(torch.from_numpy(out["action_chunk"])).numpy()
    np.testing.assert_allclose(out["actions"], expected, atol=1e-6)
    description = describe(folder, tokenizer=tokenizer)
    prepared = prepare(description, predict.features(description, inputs))
    assert prepared.pieces is not None and prepared.pieces[0][0] == "<bos>"
    layout = layouts_of(description.config, prepared, 0)["suffix"]
    assert layout.group("text/word/cube").labels == (" cube",)
    bins = predict.names.state_bins(prepared.values["observation.state"])[0]
    assert "".join(layout.group("state/1").labels).strip() == str(bins[1])


def test_words_of_tokens(lerobot, tmp_path):
    """The checkpoint has no processors; the tokenizer is named by the flag."""
    tokenizer = lerobot_processors.save_tokenizer(tmp_path / "tokenizer")
    made = PromptTokenizer.load(tokenizer, 17)(["Task: pick up the cube, State: 7;"] * 2)
    inputs = lerobot[1] | {"tokens": made.ids, "token_mask": made.mask}
    flags = f"--tokenizer={tokenizer}", "--capture=streams=suffix;keys=text/word/cube;reduce=full"
    out = run(lerobot[0], inputs, tmp_path, *flags)
    assert isinstance(out, dict), out.stderr
    assert out["attn_suffix"].shape[-1] == 1
    labels = json.loads(str(out["attn_labels"]))["attn_suffix"]
    layout = TokenLayout.from_json(labels["layouts"][0])
    place = made.ids[0].tolist().index(lerobot_processors.WORDS.index("cube") + 4)
    assert layout.group("text/word/cube").indices == (3 * 16 + place,) == layout.keys
    assert sorted(layout.group("text").ids + layout.group("state").ids + (2,)) == sorted(
        made.ids[0][made.mask[0]].tolist()
    )


def test_bad_inputs(lerobot, tmp_path):
    folder, inputs, _ = lerobot
    image = inputs["image0"]
    for changes, message in (
        ({"image7": image}, "image7: the checkpoint has 3 cameras"),
        ({"image0": image * 255}, r"image0: pixels are outside \[0, 1\]"),
        ({"image0": None, "image1": None}, "no camera is present"),
        ({"token_mask": None}, "come together"),
        ({"tokens": None, "token_mask": None}, "neither tokens nor task"),
        ({"tokens": inputs["tokens"][:1], "token_mask": inputs["token_mask"][:1]}, "1 prompts"),
        ({"tokens": inputs["tokens"] + 1000}, "outside the vocabulary"),
        ({"state": np.ones(4, np.float32)}, "state: has shape"),
        ({"noise": inputs["noise"][:, 1:]}, "noise: has shape"),
    ):
        with pytest.raises(InputError, match=message):
            made(lerobot, **changes)
    task = {"tokens": None, "token_mask": None, "task": np.array(["a", "b"])}
    with pytest.raises(CheckpointError, match="has no processors"):
        made(lerobot, **task)
    done = run(folder, inputs | {"depth": image}, tmp_path)
    assert done.returncode == 2 and "unknown array 'depth'" in done.stderr


def test_files_that_are_no_inputs(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        predict.read_inputs(tmp_path / "in.npz")
    np.save(tmp_path / "one.npy", np.ones(3))
    with pytest.raises(InputError, match="one array without a name"):
        predict.read_inputs(tmp_path / "one.npy")
    np.savez(tmp_path / "objects.npz", task=np.array([{"a": 1}], object))
    with pytest.raises(InputError, match=r"no readable \.npz"):
        predict.read_inputs(tmp_path / "objects.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(InputError, match=r"no readable \.npz"):
        predict.read_inputs(tmp_path / "text.npz")


if __name__ == "__main__":
    testing.main()
