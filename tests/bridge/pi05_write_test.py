from __future__ import annotations

import json

import numpy as np
import pytest

from attn_jax.bridge.pi05 import read_pi05
from attn_jax.bridge.pi05_table import EMBEDDING, EXPERT_LM_HEAD, LM_HEAD
from attn_jax.bridge.pi05_write import write_pi05
from attn_jax.bridge.safetensors_reader import open_safetensors
from attn_jax.core.errors import CheckpointError
from tests import testing
from tests.models.pi05 import small


def test_the_heads_that_lerobot_wants_are_there(tmp_path):
    write_pi05(tmp_path, small.CONFIG, small.params())
    tensors = open_safetensors(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(tensors[LM_HEAD], tensors[EMBEDDING])
    assert tensors.shape(EXPERT_LM_HEAD) == (small.SIZES.vocab, small.SIZES.expert_width)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "architecture.json",
        "config.json",
        "model.safetensors",
    ]


def test_settings_of_the_original_are_kept_and_ours_win(tmp_path):
    settings = {
        "type": "pi05",
        "chunk_size": 50,
        "optimizer_lr": 1e-3,
        "input_features": {"observation.images.base": {"type": "VISUAL", "shape": [3, 4, 5]}},
    }
    write_pi05(tmp_path, small.CONFIG, small.params(), settings=settings, state_dim=6)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["optimizer_lr"] == 1e-3 and written["chunk_size"] == 4
    features = written["input_features"]
    assert features["observation.images.base"]["shape"] == [3, 4, 5]
    assert features["observation.images.wrist"]["shape"] == [3, 28, 28]
    assert features["observation.state"]["shape"] == [6]
    assert read_pi05(tmp_path).config == small.CONFIG


def test_parameters_of_another_model_are_refused_before_anything_is_written(tmp_path):
    params = small.flat_params()
    params["extra"] = np.zeros(2)
    del params["action_in/bias"]
    params["time_in/bias"] = np.zeros(3)
    with pytest.raises(CheckpointError, match="action_in/bias, extra, time_in/bias"):
        write_pi05(tmp_path / "out", small.CONFIG, small.nested(params))
    assert not (tmp_path / "out").exists()


if __name__ == "__main__":
    testing.main()
