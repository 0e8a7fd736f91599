"""Same weights, same canvas, same mask: our canvas model against plain torch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attn_jax.core.canvas import CanvasGeometry, patchify
from attn_jax.models.canvas.losses import LossConfig, canvas_loss
from attn_jax.models.canvas.model import CanvasModel
from tests import testing

testing.require_module("torch")
pytestmark = pytest.mark.bridge

SMALL = {"dim": 32, "depth": 2, "decoder_dim": 48, "decoder_depth": 3, "head_dim": 16}


def run_both(geometry: CanvasGeometry, seed: int, tmp_path, batch: int = 2, **sizes):
    """(ours, theirs) predictions of all patches, and (ours, theirs) hybrid losses."""
    import torch

    from attn_jax.bridge.canvas_pth import read_canvas_pth
    from benchmarks import torch_canvas
    from tests.bridge.fake_checkpoints import save_canvas_pth

    path = tmp_path / "model.pth"
    model = save_canvas_pth(path, geometry, seed, **sizes)
    checkpoint = read_canvas_pth(path, head_dim=sizes.get("head_dim", 64))
    checkpoint.report.require()
    canvas = np.random.default_rng(seed).random((batch, *geometry.canvas_size, 3), np.float32)
    module = CanvasModel(checkpoint.config)
    apply = jax.jit(lambda p, x: module.apply({"params": p}, x, all_patches=True))
    ours = apply(checkpoint.params, canvas)
    theirs_in = torch.from_numpy(canvas).permute(0, 3, 1, 2)
    with torch.inference_mode():
        theirs = model(theirs_in, all_patches=True)
        target = torch_canvas.patchify(theirs_in, geometry.patch)[:, model.masked]
        their_loss = torch_canvas.hybrid_loss(theirs[:, model.masked], target, 0.1, 5.0)
    masked = geometry.target_patches()
    target = jnp.asarray(patchify(canvas, geometry.patch)[:, masked])
    loss = LossConfig(alpha=0.1, beta=5.0)
    our_loss, _, _ = canvas_loss(ours[:, masked], target, target, loss)
    return (np.asarray(ours), theirs.numpy()), (float(our_loss), float(their_loss))


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("separator", [8, 16, 32])
def test_predictions_and_loss_agree_on_small_canvases(seed, separator, tmp_path):
    geometry = CanvasGeometry((64, 64), separator=separator)
    (ours, theirs), losses = run_both(geometry, seed, tmp_path, **SMALL)
    assert np.std(theirs) > 0.1
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_predictions_and_loss_agree_at_the_original_size(seed, tmp_path):
    (ours, theirs), losses = run_both(CanvasGeometry((224, 224)), seed, tmp_path, batch=1)
    assert np.std(theirs) > 0.1
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_gradients_agree(tmp_path):
    import torch

    from attn_jax.bridge import keymap
    from attn_jax.bridge.canvas_pth import read_canvas_pth, rules
    from tests.bridge.fake_checkpoints import save_canvas_pth

    geometry = CanvasGeometry((64, 64))
    path = tmp_path / "model.pth"
    model = save_canvas_pth(path, geometry, seed=3, **SMALL)
    checkpoint = read_canvas_pth(path, head_dim=16)
    canvas = np.random.default_rng(3).random((2, *geometry.canvas_size, 3), np.float32)
    module = CanvasModel(checkpoint.config)
    loss = jax.jit(
        jax.grad(lambda p: jnp.mean(module.apply({"params": p}, jnp.asarray(canvas)) ** 2))
    )
    ours = loss(jax.tree.map(jnp.asarray, checkpoint.params))
    (model(torch.from_numpy(canvas).permute(0, 3, 1, 2)) ** 2).mean().backward()
    grads = {n: p.grad.numpy() for n, p in model.named_parameters() if p.requires_grad}
    theirs, report = keymap.convert(rules(16), grads, checkpoint.params)
    report.require()
    scale = max(float(np.max(np.abs(leaf))) for leaf in jax.tree.leaves(theirs))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * scale), ours, theirs
    )


if __name__ == "__main__":
    testing.main()
