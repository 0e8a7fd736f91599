"""A tiny Pi0.5 checkpoint folder with processors and tokenizer, written without torch.

folder = write_checkpoint(tmp_path / "checkpoint", cameras=("front", "wrist"))
policy = load_policy(folder)
"""

from __future__ import annotations

import json
import pathlib

import numpy as np
import safetensors.numpy

from attn_jax.bridge.pi05_write import write_pi05
from attn_jax.bridge.processors import POSTPROCESSOR, PREPROCESSOR
from attn_jax.models.pi05 import Pi05Config
from tests.bridge.lerobot_processors import save_tokenizer
from tests.models.pi05 import small

STATE, ACTION = 3, 4
PROMPT = 40


def write_checkpoint(
    folder: pathlib.Path,
    *,
    cameras: tuple[str, ...] = ("front", "wrist", "spare"),
    state: int = STATE,
    action: int = ACTION,
    chunk: int = 4,
    n_action_steps: int = 2,
    prompt: int = PROMPT,
    seed: int = 0,
    action_scale: float = 1.0,
) -> pathlib.Path:
    """Writes a checkpoint with random weights; `config.json` and processors as LeRobot has them."""
    config = Pi05Config(
        small.SIZES,
        cameras,
        action,
        8,
        chunk_size=chunk,
        n_action_steps=n_action_steps,
        num_inference_steps=3,
        prompt_length=prompt,
    )
    write_pi05(folder, config, small.params(config, seed), state_dim=state)
    tokenizer = save_tokenizer(folder / "tokenizer")
    statistics = {}
    for key, size, scale in (
        ("observation.state", state, 1.0),
        ("action", action, action_scale),
    ):
        statistics[f"{key}.q01"] = np.full(size, -scale, np.float32)
        statistics[f"{key}.q99"] = np.full(size, scale, np.float32)
    features = {
        "observation.state": {"type": "STATE", "shape": [state]},
        "action": {"type": "ACTION", "shape": [action]},
    }
    norm = {
        "eps": 1e-8,
        "features": features,
        "norm_map": {"VISUAL": "IDENTITY", "STATE": "QUANTILES", "ACTION": "QUANTILES"},
    }
    pre = [
        {"registry_name": "rename_observations_processor", "config": {"rename_map": {}}},
        {"registry_name": "to_batch_processor", "config": {}},
        {
            "registry_name": "normalizer_processor",
            "config": norm,
            "state_file": "policy_preprocessor_step_2_normalizer_processor.safetensors",
        },
        {"registry_name": "pi05_prepare_state_tokenizer_processor_step", "config": {}},
        {
            "registry_name": "tokenizer_processor",
            "config": {
                "max_length": prompt,
                "task_key": "task",
                "padding_side": "right",
                "padding": "max_length",
                "truncation": True,
                "tokenizer_name": str(tokenizer),
            },
        },
        {"registry_name": "device_processor", "config": {"device": "cpu", "float_dtype": None}},
    ]
    post = [
        {
            "registry_name": "unnormalizer_processor",
            "config": norm,
            "state_file": "policy_postprocessor_step_0_unnormalizer_processor.safetensors",
        },
        {"registry_name": "device_processor", "config": {"device": "cpu", "float_dtype": None}},
    ]
    for name, steps in ((PREPROCESSOR, pre), (POSTPROCESSOR, post)):
        data = {"name": name.removesuffix(".json"), "steps": steps}
        (folder / name).write_text(json.dumps(data))
        for step in steps:
            if "state_file" in step:
                safetensors.numpy.save_file(statistics, folder / step["state_file"])
    return folder


def observation(
    batch: int = 2,
    *,
    cameras: tuple[str, ...] = ("front", "wrist"),
    tasks: tuple[str, ...] = ("pick up the red cube", "place it on the plate"),
    state: int = STATE,
    seed: int = 0,
) -> dict:
    """Random pictures of 40x60 pixels, states whose digits differ in number, texts."""
    rng = np.random.default_rng(seed)
    values = {
        f"observation.images.{name}": rng.integers(0, 256, (batch, 40, 60, 3), np.uint8)
        for name in cameras
    }
    values["observation.state"] = rng.uniform(-1, 1, (batch, state)).astype(np.float32)
    values["task"] = [tasks[i % len(tasks)] for i in range(batch)]
    return values
