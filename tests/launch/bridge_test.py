from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from attn_jax.core.canvas import CanvasGeometry
from attn_jax.models.canvas.model import CanvasConfig, CanvasModel
from attn_jax.train.checkpoints import load_metadata, load_params
from tests import testing

testing.require_module("torch")
pytestmark = pytest.mark.bridge

GEOMETRY = CanvasGeometry((32, 32))
SIZES = {"dim": 32, "depth": 1, "decoder_dim": 32, "decoder_depth": 2, "head_dim": 16}


def bridge(*arguments):
    return testing.run_python("-m", "launch.bridge", *arguments)


@pytest.fixture
def checkpoint(tmp_path):
    from tests.bridge.fake_checkpoints import save_canvas_pth

    return tmp_path / "model.pth", save_canvas_pth(tmp_path / "model.pth", GEOMETRY, 0, **SIZES)


@pytest.mark.slow
def test_a_canvas_checkpoint_becomes_one_of_ours_with_the_same_predictions(checkpoint, tmp_path):
    import torch

    path, model = checkpoint
    run = tmp_path / "run"
    arguments = ("--source=canvas", f"--file={path}", "--head_dim=16", f"--workdir={run}")
    done = bridge(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["complete"] and len(result["loaded"]) == 12 + 12 * 3
    assert "blocks.0.attn.qkv.weight -> encoder/block_0/attention/query/kernel" in done.stdout
    assert json.loads((run / "bridge.json").read_text())["facts"]["samples_seen"] == 1234

    config = CanvasConfig.from_json(load_metadata(run)["model"])
    assert load_metadata(run)["family"] == "canvas"
    canvas = np.random.default_rng(0).random((1, *GEOMETRY.canvas_size, 3), np.float32)
    params = load_params(run)
    ours = jax.jit(CanvasModel(config).apply)({"params": params}, canvas)
    with torch.inference_mode():
        theirs = model(torch.from_numpy(canvas).permute(0, 3, 1, 2))
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-4)

    again = bridge(*arguments)
    assert again.returncode == 2 and "checkpoints already" in again.stderr


@pytest.mark.slow
def test_a_file_that_does_not_fit_is_refused_with_the_whole_account(checkpoint, tmp_path):
    import torch

    path, _ = checkpoint
    saved = torch.load(path, weights_only=True)
    saved["model_state_dict"].pop("norm.weight")
    saved["model_state_dict"]["extra"] = torch.ones(1)
    torch.save(saved, path)
    run = tmp_path / "run"
    done = bridge("--source=canvas", f"--file={path}", "--head_dim=16", f"--workdir={run}")
    assert done.returncode == 2
    assert "encoder_norm/scale" in done.stderr and "extra" in done.stderr
    assert not run.exists()


if __name__ == "__main__":
    testing.main()
