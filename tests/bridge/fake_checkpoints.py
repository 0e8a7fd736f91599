"""Foreign checkpoint files with random weights."""

from __future__ import annotations

import pathlib
from typing import Any

import torch

from attn_jax.core.canvas import CanvasGeometry
from benchmarks.torch_canvas import TorchCanvas, decay_groups, randomise


def save_canvas_pth(
    path: pathlib.Path, geometry: CanvasGeometry, seed: int, **sizes: int
) -> TorchCanvas:
    """Writes a checkpoint as the original's training does and returns the model in it."""
    model = TorchCanvas(geometry, **sizes).eval()
    randomise(model, seed)
    torch.save(canvas_checkpoint(model, geometry), path)
    return model


def canvas_checkpoint(model: TorchCanvas, geometry: CanvasGeometry) -> dict[str, Any]:
    """The entries of an original checkpoint."""
    optimizer = torch.optim.AdamW(decay_groups(model, 0.01), lr=1e-4)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
    return {
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "scheduler_state_dict": schedule.state_dict(),
        "scheduler_type": "constant",
        "scheduler_params": {"factor": 1.0},
        "timestamp": "2026-02-01T10:00:00",
        "samples_seen": 1234,
        "loss": 0.0539,
        "original_peak_lr": 1e-4,
        "config": {
            "frame_size": geometry.frame_size,
            "separator_width": geometry.separator,
            "canvas_history_size": geometry.history,
        },
    }
