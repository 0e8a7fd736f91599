from __future__ import annotations

import numpy as np
import pytest

from attn_jax.bridge.vgg_pth import convert_vgg
from attn_jax.core.errors import CheckpointError
from attn_jax.models.canvas.perceptual import load_vgg, tensor_shapes
from tests import testing

testing.require_module("torch")
pytestmark = pytest.mark.bridge


def save(path, **changes):
    import torch

    weights = {name: torch.randn(shape) for name, shape in tensor_shapes().items()}
    weights |= {"features.17.weight": torch.ones(1), "classifier.0.bias": torch.ones(1), **changes}
    torch.save(weights, path)
    return weights


def test_a_state_dict_becomes_the_file_that_the_loss_reads(tmp_path):
    weights = save(tmp_path / "vgg.pth")
    report = convert_vgg(tmp_path / "vgg.pth", tmp_path / "vgg.safetensors")
    assert len(report.loaded) == 14
    assert set(report.ignored) == {"features.17.weight", "classifier.0.bias"}
    vgg = load_vgg(tmp_path / "vgg.safetensors")
    theirs = weights["features.10.weight"].numpy()
    np.testing.assert_array_equal(vgg["features.10.weight"], theirs.transpose(2, 3, 1, 0))


def test_another_network_is_refused_and_nothing_written(tmp_path):
    import torch

    save(tmp_path / "vgg.pth", **{"features.1.running_mean": torch.ones(64)})
    with pytest.raises(CheckpointError, match="running_mean"):
        convert_vgg(tmp_path / "vgg.pth", tmp_path / "vgg.safetensors")
    assert not (tmp_path / "vgg.safetensors").exists()


if __name__ == "__main__":
    testing.main()
