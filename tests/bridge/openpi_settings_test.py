"""Folders that openpi's converter to PyTorch writes, made from one of ours (no torch here)."""

from __future__ import annotations

import dataclasses
import json

import flax.traverse_util
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from attn_jax.bridge.checkpoint_folder import open_checkpoint
from attn_jax.bridge.pi05 import read_config, read_pi05
from attn_jax.bridge.pi05_table import EMBEDDING
from attn_jax.bridge.pi05_write import write_pi05
from attn_jax.bridge.text_head import read_text_head
from attn_jax.core.errors import ConfigError
from attn_jax.models.pi05 import Architecture
from tests import testing
from tests.models.pi05 import small

OPENPI = {
    "action_dim": 8,
    "action_horizon": 4,
    "paligemma_variant": "gemma_2b",
    "action_expert_variant": "gemma_300m",
    "precision": "float32",
}


def openpi(folder, **changes):
    """Puts openpi's config.json into a folder; None leaves a field out."""
    settings = {key: value for key, value in {**OPENPI, **changes}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def tensors(tmp_path_factory):
    """Un-prefixed, and without the embedding: safetensors keeps one of two tied tensors."""
    folder = tmp_path_factory.mktemp("ours")
    write_pi05(folder, small.CONFIG, small.params())
    found = load_file(folder / "model.safetensors")
    del found[EMBEDDING]
    return {name.removeprefix("model."): tensor for name, tensor in found.items()}


@pytest.fixture
def export(tensors, tmp_path):
    """A small export; `architecture.json` has the sizes that openpi's converter fixes."""
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "architecture.json").write_text(json.dumps(small.SIZES.to_json()))
    return openpi(tmp_path)


def test_an_export_of_openpi_is_read(export, caplog):
    opened = open_checkpoint(export)
    cameras = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
    expected = dataclasses.replace(
        small.CONFIG, cameras=cameras, action_dim=8, prompt_length=200, precision="float32"
    )
    assert opened.config == expected
    assert [*opened.image_keys.values()] == [f"observation.images.{name}" for name in cameras]
    params = opened.params()
    (record,) = caplog.records
    assert "all 8 action dimensions" in record.getMessage()
    assert opened.processors() is None
    found = flax.traverse_util.flatten_dict(params, sep="/")
    assert found.keys() == small.flat_params().keys()
    for path, array in small.flat_params().items():
        np.testing.assert_array_equal(found[path], array, err_msg=path)
    np.testing.assert_array_equal(read_text_head(opened, params), small.flat_params()["embedding"])
    # What LeRobot needs to load it is written from there.
    write_pi05(export / "out", opened.config, params, settings=opened.settings)
    again = read_pi05(export / "out")
    assert again.config == expected and again.settings["type"] == "pi05"


def test_openpis_bfloat16_is_openpis_arithmetic(export):
    opened = open_checkpoint(openpi(export, precision="bfloat16"))
    assert opened.config.precision == "bfloat16_openpi" and not opened.config.rounded_rope
    assert opened.settings["dtype"] == "bfloat16"


def test_openpis_variants_give_the_published_sizes(tmp_path):
    _, config = read_config(openpi(tmp_path, action_dim=32, action_horizon=15))
    assert config.architecture == Architecture()
    assert (config.chunk_size, config.n_action_steps, config.max_action_dim) == (15, 15, 32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"paligemma_variant": "gemma_2b_lora"}, "unknown paligemma_variant 'gemma_2b_lora'"),
        ({"action_expert_variant": None}, "has no 'action_expert_variant'"),
        ({"action_horizon": 0}, "action_horizon: must be a positive integer, got 0"),
        ({"precision": "float16"}, "unknown precision 'float16'"),
    ],
)
def test_openpis_settings_that_cannot_be_are_refused(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        read_config(openpi(tmp_path, **changes))


if __name__ == "__main__":
    testing.main()
