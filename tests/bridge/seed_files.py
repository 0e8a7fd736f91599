"""Small attention files in the formats of earlier tools.

Two cameras of 2 x 2 tokens, the second a dummy; three prompt tokens, the last of them padding;
three actions.
"""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np

PREFIX, ACTIONS = 11, 3
UNUSED = (4, 5, 6, 7, 10)  # keys that nothing attends to
LAYERS, HEADS = (16, 17), 2


def rows(seed: int, *shape: int) -> np.ndarray:
    """Float32 probabilities (..., key) without weight on the unused keys."""
    p = np.random.default_rng(seed).random(shape).astype(np.float32) + 0.01
    p[..., list(UNUSED)] = 0
    return p / p.sum(axis=-1, keepdims=True)


def episode_data(
    values: np.ndarray, *, number: int = 0, spelling: str = "code", dtype: Any = None
) -> dict[str, Any]:
    """Content of an episode file from (call, denoise, layer, head, query, key)."""
    import torch

    total = values.shape[1]
    calls = [
        {
            "rollout_step": 10 * call,
            "attention_maps": {
                step: {
                    # The tool's own grid ends at 0 instead of 1 / total.
                    "time": 1.0 - step / (total - 1),
                    "attention_weights": {
                        layer: torch.from_numpy(maps[step, place][None].copy()).to(dtype)
                        for place, layer in enumerate(LAYERS)
                    },
                    "prefix_len": PREFIX,
                    "suffix_len": ACTIONS,
                }
                for step in range(total)
            },
        }
        for call, maps in enumerate(values)
    ]
    if spelling == "text":
        metadata = {
            "episode_index": number,
            "num_rollout_steps": len(calls),
            "num_denoising_steps": total,
        }
        return {"rollout_steps": calls, "metadata": metadata}
    metadata = {"num_rollout_steps": len(calls), "num_denoising_steps_per_action": total}
    return {
        "rollout_steps": calls,
        "episode_index": number,
        "batch_index": 0,
        "metadata": metadata,
    }


def save_episode(path: pathlib.Path, *, seed: int = 0, **options: Any) -> np.ndarray:
    """Writes an episode of three calls and two steps; returns its values."""
    import torch

    values = rows(seed, 3, 2, len(LAYERS), HEADS, ACTIONS, PREFIX + ACTIONS)
    torch.save(episode_data(values, **options), path)
    return values


def prefix_maps(seed: int = 0) -> np.ndarray:
    """(1, head, token, token); rows of masked queries are uniform."""
    p = rows(seed, 1, HEADS, PREFIX, PREFIX)
    p[:, :, list(UNUSED)] = np.float32(1 / PREFIX)
    return p


def save_layers(folder: pathlib.Path) -> None:
    """Writes layers 3 and 11 as a folder of .npy."""
    folder.mkdir()
    for layer in (3, 11):
        np.save(folder / f"attn_map_layer_{layer}.npy", prefix_maps(layer))
