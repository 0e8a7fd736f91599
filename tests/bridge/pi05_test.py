"""Variants of checkpoint files, all made from one that our writer made (no torch here)."""

from __future__ import annotations

import dataclasses
import json

import flax.traverse_util
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from attn_jax.bridge.checkpoint_folder import open_checkpoint
from attn_jax.bridge.pi05 import camera_name, config_from_settings, read_pi05
from attn_jax.bridge.pi05_table import EMBEDDING, EXPERT, EXPERT_LM_HEAD, LM_HEAD
from attn_jax.bridge.pi05_write import write_pi05
from attn_jax.core.errors import CheckpointError, ConfigError
from attn_jax.models.pi05 import Architecture
from tests import testing
from tests.models.pi05 import small

NORM = f"{EXPERT}.model.layers.0.input_layernorm"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    write_pi05(folder, small.CONFIG, small.params())
    return folder, load_file(folder / "model.safetensors")


@pytest.fixture
def variant(saved, tmp_path):
    """Copies the checkpoint after `edit` has changed its tensors and `settings` its config."""

    def make(edit=None, **settings):
        folder, tensors = saved
        tensors = dict(tensors)
        if edit is not None:
            edit(tensors)
        data = json.loads((folder / "config.json").read_text()) | settings
        (tmp_path / "config.json").write_text(json.dumps(data))
        (tmp_path / "architecture.json").write_text(json.dumps(small.SIZES.to_json()))
        save_file(tensors, tmp_path / "model.safetensors")
        return tmp_path

    return make


def flat(params):
    return flax.traverse_util.flatten_dict(params, sep="/")


def same(params):
    found, expected = flat(params), small.flat_params()
    assert found.keys() == expected.keys()
    for path in expected:
        assert found[path].dtype == expected[path].dtype
        np.testing.assert_array_equal(found[path], expected[path], err_msg=path)


def test_what_was_written_is_read_bit_for_bit(saved):
    checkpoint = read_pi05(saved[0])
    checkpoint.report.require()
    assert checkpoint.config == small.CONFIG
    assert set(checkpoint.report.ignored) == {LM_HEAD, EXPERT_LM_HEAD}
    assert checkpoint.image_keys == {
        name: f"observation.images.{name}" for name in ("base", "wrist", "spare")
    }
    same(checkpoint.params)


def test_the_embedding_wins_over_the_head(variant):
    def edit(tensors):
        tensors[LM_HEAD] = tensors[LM_HEAD] + 1

    checkpoint = read_pi05(variant(edit))
    checkpoint.report.require()
    same(checkpoint.params)


def test_a_tied_embedding_comes_from_the_head(variant):
    checkpoint = read_pi05(variant(lambda tensors: tensors.pop(EMBEDDING)))
    checkpoint.report.require()
    same(checkpoint.params)


def test_heads_may_be_missing(variant):
    def edit(tensors):
        del tensors[LM_HEAD], tensors[EXPERT_LM_HEAD]

    read_pi05(variant(edit)).report.require()


def test_neither_embedding_nor_head_is_an_error(variant):
    def edit(tensors):
        del tensors[LM_HEAD], tensors[EMBEDDING]

    with pytest.raises(CheckpointError, match=r"embed_tokens\.weight"):
        read_pi05(variant(edit)).report.require()


def test_names_without_prefix_and_of_pi0_are_understood(variant):
    def edit(tensors):
        for name in list(tensors):
            tensors[name.removeprefix("model.")] = tensors.pop(name)
        for part in ("in.weight", "in.bias", "out.weight", "out.bias"):
            tensors[f"action_time_mlp_{part}"] = tensors.pop(f"time_mlp_{part}")
        tensors["state_proj.weight"] = np.ones((4, 4), np.float32)

    checkpoint = read_pi05(variant(edit))
    checkpoint.report.require()
    assert "model.state_proj.weight" in checkpoint.report.ignored
    same(checkpoint.params)


def test_prefixed_names_of_pi0_too(variant):
    def edit(tensors):
        tensors["model.action_time_mlp_in.bias"] = tensors.pop("model.time_mlp_in.bias")
        tensors["model.state_proj.bias"] = np.ones(4, np.float32)

    read_pi05(variant(edit)).report.require()


def test_plain_expert_norms_beside_conditioned_ones_are_ignored(variant):
    def edit(tensors):
        tensors[f"{NORM}.weight"] = np.ones(16, np.float32)

    checkpoint = read_pi05(variant(edit))
    checkpoint.report.require()
    assert "plain norm" in checkpoint.report.ignored[f"{NORM}.weight"]


def test_one_warning_names_what_is_not_used(variant, caplog):
    def edit(tensors):
        tensors["state_proj.bias"] = np.ones(4, np.float32)
        tensors[f"{NORM}.weight"] = np.ones(16, np.float32)

    open_checkpoint(variant(edit)).params()
    (record,) = caplog.records
    message = record.getMessage()
    assert record.levelname == "WARNING" and "lm_head" not in message
    assert "model.state_proj.bias (belongs to pi0" in message
    assert f"{NORM}.weight (plain norm" in message


def test_the_heads_alone_are_no_reason_to_warn(variant, caplog):
    read_pi05(variant())
    assert not caplog.records


def test_plain_expert_norms_alone_mean_pi0(variant):
    def edit(tensors):
        del tensors[f"{NORM}.dense.weight"], tensors[f"{NORM}.dense.bias"]
        tensors[f"{NORM}.weight"] = np.ones(16, np.float32)

    with pytest.raises(CheckpointError, match="is a pi0 checkpoint"):
        read_pi05(variant(edit))


def test_missing_renamed_and_reshaped_tensors_are_named(variant):
    def edit(tensors):
        del tensors["model.action_in_proj.bias"]
        tensors["model.time_mlp_in.offset"] = tensors.pop("model.time_mlp_in.bias")
        tensors["model.action_out_proj.weight"] = np.ones((8, 15), np.float32)

    report = read_pi05(variant(edit)).report
    with pytest.raises(CheckpointError) as caught:
        report.require("folder")
    assert report.unexpected == ("model.time_mlp_in.offset",)
    assert [item.source for item in report.mis_shaped] == ["model.action_out_proj.weight"]
    assert len(report.missing) == 2
    for name in ("model.action_in_proj.bias", "time_in/bias", "(15, 8)"):
        assert name in str(caught.value)


def test_two_names_for_one_tensor_are_refused(variant):
    def edit(tensors):
        tensors["time_mlp_in.bias"] = tensors["model.time_mlp_in.bias"]

    with pytest.raises(CheckpointError, match="mean the same"):
        read_pi05(variant(edit))


def test_the_dtype_of_the_settings_decides(variant):
    def edit(tensors):
        for name, tensor in tensors.items():
            tensors[name] = tensor.astype(ml_dtypes.bfloat16)

    checkpoint = read_pi05(variant(edit))
    checkpoint.report.require()
    found = flat(checkpoint.params)
    rounded = small.flat_params()["embedding"].astype(ml_dtypes.bfloat16)
    assert found["embedding"].dtype == np.float32
    np.testing.assert_array_equal(found["embedding"], rounded.astype(np.float32))


def test_float32_tensors_are_cast_for_bfloat16(variant):
    checkpoint = read_pi05(variant(dtype="bfloat16"))
    checkpoint.report.require()
    assert checkpoint.config.precision == "bfloat16_lerobot"
    found = flat(checkpoint.params)
    assert found["expert/layer_0/up/kernel"].dtype == ml_dtypes.bfloat16
    assert found["expert/layer_0/mlp_norm/dense/kernel"].dtype == np.float32
    exact = read_pi05(variant(dtype="bfloat16"), precision="float32")
    same(exact.params)


def test_parameters_do_not_depend_on_the_file(variant):
    folder = variant()
    checkpoint = read_pi05(folder)
    (folder / "model.safetensors").write_bytes(b"")
    same(checkpoint.params)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_an_error(variant, name):
    folder = variant()
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name}: no such file"):
        read_pi05(folder)


def test_another_policy_is_refused(variant):
    with pytest.raises(CheckpointError, match="'act', not 'pi05'"):
        read_pi05(variant(type="act"))


def test_without_sizes_the_variant_names_decide():
    features = {
        "observation.images.top": {"type": "VISUAL"},
        "observation.state": {"type": "STATE"},
        "observation.image": {"type": "VISUAL"},
    }
    settings = {"empty_cameras": 1, "input_features": features, "max_action_dim": 16}
    config = config_from_settings(settings, None, where="config.json")
    assert config.architecture == Architecture()
    assert config.cameras == ("top", "image", "empty_camera_0")
    assert config.action_dim == 16 and config.precision == "float32"
    assert camera_name("observation.images.left.wrist") == "left.wrist"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_resolution": [224, 200]}, "not square"),
        ({"dtype": "float16"}, "unknown dtype"),
        ({"paligemma_variant": "gemma_7b"}, "unknown paligemma_variant"),
        ({"n_action_steps": 60}, "n_action_steps"),
        ({"rtc_config": {"execution_horizon": 10}}, "rtc_config asks for real-time chunking"),
        ({"rtc_config": {"enabled": True}}, r"not supported.*\"rtc_config\" to null"),
        ({"rtc_config": {}}, "rtc_config"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        config_from_settings(settings, None, where="config.json")


def test_real_time_chunking_that_is_switched_off():
    for off in (None, {"enabled": False, "execution_horizon": 10}):
        assert config_from_settings({"rtc_config": off}, None, where="config.json").chunk_size == 50


def test_sizes_that_contradict_the_settings_are_refused(saved, variant):
    with pytest.raises(ConfigError, match="image_resolution is 56"):
        read_pi05(variant(image_resolution=[56, 56]))
    folder = variant()
    (folder / "architecture.json").write_text('{"layers": 3}')
    with pytest.raises(ConfigError, match=r"architecture.json.*unknown field 'layers'"):
        read_pi05(folder)
    wider = dataclasses.replace(small.SIZES, mlp=50)
    assert not read_pi05(saved[0], architecture=wider).report.complete


if __name__ == "__main__":
    testing.main()
