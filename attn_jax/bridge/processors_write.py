"""Processor files of a policy trained here, as LeRobot 0.6.1 writes and reads them.

files = processor_files(statistics, image_shapes={"observation.images.front": (3, 64, 64)},
                        prompt_length=48, tokenizer="tokenizer")
files |= {f"tokenizer/{name}": data for name, data in word_tokenizer(tasks).items()}
write_files("run/processors", files)
Processors.load("run/processors")
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import safetensors.numpy

from attn_jax.bridge.processor_steps import ACTION, STATE
from attn_jax.bridge.processors import POSTPROCESSOR, PREPROCESSOR
from attn_jax.core.files import disk_errors, replace_file
from attn_jax.core.typing import NumpyArray, PathLike

NORMALISER = "policy_preprocessor_step_3_normalizer_processor.safetensors"
UNNORMALISER = "policy_postprocessor_step_0_unnormalizer_processor.safetensors"
_MODES = {"VISUAL": "IDENTITY", "STATE": "QUANTILES", "ACTION": "QUANTILES"}
# A range below this is rounding of a dimension that never moves.
_STILL = 1e-6


def usable(statistics: Mapping[str, NumpyArray]) -> dict[str, NumpyArray]:
    """Statistics of a feature whose quantile range is never empty, so that nothing explodes.

    A dimension whose 1 % and 99 % quantiles coincide gets its minimum and maximum for them, and one
    that never moves the range +-1 around its value.
    """
    out = {name: np.array(value, np.float32) for name, value in statistics.items()}
    tight = out["q99"] - out["q01"] < _STILL
    for quantile, bound in (("q01", "min"), ("q99", "max")):
        out[quantile] = np.where(tight, out[bound], out[quantile])
    still = out["q99"] - out["q01"] < _STILL
    for quantile, step in (("q01", -1), ("q99", 1)):
        out[quantile] = np.where(still, out["mean"] + np.float32(step), out[quantile])
    return out


def processor_files(
    statistics: Mapping[str, Mapping[str, NumpyArray]],
    *,
    image_shapes: Mapping[str, Sequence[int]],
    prompt_length: int,
    tokenizer: str,
) -> dict[str, bytes]:
    """Both pipelines and their state files, name -> content.

    Args:
      statistics: of `observation.state` and `action`, statistic -> (d,), see `usable`.
      image_shapes: LeRobot's key of every camera -> (3, h, w).
      prompt_length: tokens of a prompt, padding included.
      tokenizer: what the tokenizer step names; a folder relative to the files, or a path.
    """
    kinds = {STATE: "STATE", ACTION: "ACTION"}
    features: dict[str, Any] = {
        key: {"type": "VISUAL", "shape": [*shape]} for key, shape in image_shapes.items()
    }
    for key, kind in kinds.items():
        features[key] = {"type": kind, "shape": [len(statistics[key]["mean"])]}
    device = {
        "registry_name": "device_processor",
        "config": {"device": "cpu", "float_dtype": None},
    }

    def normaliser(name: str, chosen: Mapping[str, Any], state_file: str) -> dict[str, Any]:
        config = {"eps": 1e-8, "features": dict(chosen), "norm_map": _MODES}
        return {"registry_name": name, "config": config, "state_file": state_file}

    pre = [
        {"registry_name": "rename_observations_processor", "config": {"rename_map": {}}},
        {"registry_name": "to_batch_processor", "config": {}},
        {
            "registry_name": "relative_actions_processor",
            "config": {"enabled": False, "exclude_joints": ["gripper"], "action_names": None},
        },
        normaliser("normalizer_processor", features, NORMALISER),
        {"registry_name": "pi05_prepare_state_tokenizer_processor_step", "config": {}},
        {
            "registry_name": "tokenizer_processor",
            "config": {
                "max_length": prompt_length,
                "task_key": "task",
                "padding_side": "right",
                "padding": "max_length",
                "truncation": True,
                "tokenizer_name": tokenizer,
            },
        },
        device,
    ]
    post = [
        normaliser("unnormalizer_processor", {ACTION: features[ACTION]}, UNNORMALISER),
        {"registry_name": "absolute_actions_processor", "config": {"enabled": False}},
        device,
    ]
    tensors = {
        f"{key}.{name}": np.ascontiguousarray(value, np.float32)
        for key in sorted(kinds)
        for name, value in sorted(statistics[key].items())
    }
    state = safetensors.numpy.save(tensors)
    return {
        PREPROCESSOR: _json({"name": "policy_preprocessor", "steps": pre}),
        POSTPROCESSOR: _json({"name": "policy_postprocessor", "steps": post}),
        NORMALISER: state,
        UNNORMALISER: state,
    }


def write_files(folder: PathLike, files: Mapping[str, bytes]) -> None:
    """Writes files below a folder, each complete or not at all; raises DiskFullError."""
    for name, data in files.items():
        path = pathlib.Path(folder) / name
        with disk_errors(path, what="processors"):
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, lambda file, data=data: file.write(data))


def read_files(folder: PathLike) -> dict[str, bytes]:
    """Every file below a folder of processors, name -> content."""
    root = pathlib.Path(folder)
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def _json(data: Any) -> bytes:
    return (json.dumps(data, indent=2) + "\n").encode()
