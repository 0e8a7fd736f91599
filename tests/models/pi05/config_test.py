from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest

from attn_jax.core.errors import ConfigError
from attn_jax.models import build
from attn_jax.models.pi05 import Architecture, Pi05, Pi05Config
from attn_jax.models.pi05.model import param_shapes
from tests import testing


def test_the_defaults_are_the_published_sizes():
    leaves = jax.tree.leaves(param_shapes(Pi05Config()))
    assert len(leaves) == 811
    assert sum(leaf.size for leaf in leaves) == 3_353_433_872
    assert Architecture().grid == (16, 16)


def test_bfloat16_keeps_norms_vision_and_action_projections_in_float32():
    config = Pi05Config(precision="bfloat16_lerobot")
    shapes = param_shapes(config)
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
    assert 7.7e9 < size < 7.8e9
    assert shapes["expert"]["layer_0"]["down"]["kernel"].dtype == jnp.bfloat16
    assert shapes["expert"]["layer_0"]["mlp_norm"]["dense"]["kernel"].dtype == jnp.float32
    assert shapes["action_in"]["kernel"].dtype == jnp.float32
    vision = jax.tree.leaves((shapes["vision"], shapes["projector"]))
    assert {leaf.dtype for leaf in vision} == {jnp.dtype(jnp.float32)}


def test_json_round_trip_and_build():
    config = Pi05Config(Architecture(depth=2), ("a", "b"), 7, precision="bfloat16_openpi")
    data = json.loads(json.dumps(config.to_json()))
    assert Pi05Config.from_json(data) == config
    model = build("pi05", data)
    assert isinstance(model, Pi05) and model.config == config


def test_rope_follows_the_precision_unless_told():
    assert Pi05Config(precision="bfloat16_lerobot").rounded_rope
    assert not Pi05Config(precision="bfloat16_openpi").rounded_rope
    assert not Pi05Config(precision="bfloat16_lerobot", rope_table="float32").rounded_rope


def test_present_cameras_come_first():
    config = Pi05Config(cameras=("a", "b", "c"))
    assert config.camera_order(["c", "a"]) == ("a", "c", "b")
    with pytest.raises(ConfigError, match="'d' is not configured"):
        config.camera_order(["a", "d"])
    with pytest.raises(ConfigError, match="no camera"):
        config.camera_order([])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cameras": ()}, "distinct camera names"),
        ({"action_dim": 33}, "outside 1..max_action_dim"),
        ({"n_action_steps": 51}, "outside 1..chunk_size"),
        ({"num_inference_steps": 0}, "at least 1"),
        ({"precision": "float16"}, "unknown value 'float16'"),
        ({"rope_table": "other"}, "unknown value 'other'"),
        ({"min_period": 5.0}, "min_period"),
        ({"max_period": float("inf")}, "min_period: .* both finite"),
        ({"time_alpha": 0.0}, "time_alpha: must be positive"),
        ({"time_beta": float("nan")}, "time_beta: must be positive"),
        ({"time_scale": float("inf")}, "time_scale: must be positive and finite"),
        ({"time_offset": float("nan")}, "time_offset: must be at least 0"),
    ],
)
def test_what_cannot_be_is_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(Pi05Config(), **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 0}, "architecture.depth: must be a positive integer"),
        ({"heads": 6, "kv_heads": 4}, "no multiple of kv_heads"),
        ({"vision_heads": 5}, "no multiple of vision_heads"),
        ({"head_dim": 7}, "even"),
        ({"image_size": 13}, "less than a patch"),
        ({"layers": 2}, "unknown field 'layers'"),
    ],
)
def test_sizes_that_cannot_be_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        Architecture.from_json(change)


if __name__ == "__main__":
    testing.main()
