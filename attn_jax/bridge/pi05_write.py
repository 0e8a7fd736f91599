"""Writes `Pi05` parameters as a checkpoint folder that LeRobot 0.6.1 loads.

write_pi05("out/pretrained_model", checkpoint.config, params, settings=checkpoint.settings)
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import numpy as np

from attn_jax.bridge.keymap import Rule
from attn_jax.bridge.pi05 import SETTINGS, SIZES, WEIGHTS
from attn_jax.bridge.pi05_table import EMBEDDING, EXPERT_LM_HEAD, LM_HEAD, Row, table
from attn_jax.bridge.safetensors_reader import Entry, write_safetensors
from attn_jax.core import files
from attn_jax.core.errors import CheckpointError
from attn_jax.core.typing import NumpyArray, PathLike
from attn_jax.models.pi05.config import Architecture, Pi05Config
from attn_jax.models.pi05.model import param_shapes


def write_pi05(
    folder: PathLike,
    config: Pi05Config,
    params: Mapping[str, Any],
    *,
    settings: Mapping[str, Any] | None = None,
    image_keys: Mapping[str, str] | None = None,
    state_dim: int = 32,
    heads: Mapping[str, Entry] | None = None,
) -> None:
    """Writes `config.json` and `model.safetensors`, one tensor at a time.

    Where the sizes are not the published ones, `architecture.json` is written too. LeRobot wants
    two tensors that Pi0.5 does not use. Those that are not in `heads` are made up: the language
    model's output head gets the token embedding, to which it is tied in PaliGemma, and the expert's
    gets zeros.

    Args:
      folder: made when it does not exist.
      config: the model.
      params: its parameters, NumPy or JAX arrays.
      settings: a `config.json` to start from, such as that of the checkpoint that was fine-tuned.
      image_keys: camera name -> LeRobot's key; None is `observation.images.<name>`.
      state_dim: of the state feature, where `settings` does not say.
      heads: output heads, see `attn_jax.bridge.text_head.stored_heads`.

    Raises:
      CheckpointError: parameters that are not those of `config`.
    """
    folder = pathlib.Path(folder)
    found: dict[str, Any] = flax.traverse_util.flatten_dict(dict(params), sep="/")
    wanted: dict[str, Any] = flax.traverse_util.flatten_dict(param_shapes(config), sep="/")
    wrong = sorted(
        path
        for path in {*found, *wanted}
        if path not in found or path not in wanted or found[path].shape != wanted[path].shape
    )
    if wrong:
        raise CheckpointError(
            f"parameters do not fit the configuration: {', '.join(wrong[:5])}"
            + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""),
            where=folder,
        )
    folder.mkdir(parents=True, exist_ok=True)
    entries: dict[str, Entry] = {}
    for row in table(config.architecture):
        for name, path in row.names():
            entries[name] = _entry(row, found[path])
    head, sizes = entries[EMBEDDING], config.architecture
    entries[LM_HEAD] = head
    blank = (sizes.vocab, sizes.expert_width)
    entries[EXPERT_LM_HEAD] = Entry(blank, head.dtype, lambda: np.zeros(blank, head.dtype))
    entries |= heads or {}
    write_safetensors(folder / WEIGHTS, dict(sorted(entries.items())), {"format": "pt"})
    text = lerobot_settings(config, settings, image_keys, state_dim)
    _write_json(folder / SETTINGS, text)
    if sizes != Architecture(image_size=sizes.image_size):
        _write_json(folder / SIZES, sizes.to_json())


def _write_json(path: pathlib.Path, value: Mapping[str, Any]) -> None:
    text = json.dumps(value, indent=4) + "\n"  # not sorted: cameras have an order
    with files.disk_errors(path, what="a checkpoint"):
        files.replace_file(path, lambda file: file.write(text.encode()))


def _entry(row: Row, array: Any) -> Entry:
    assert isinstance(row.rule, Rule)
    # The shape of a view of nothing, so that no array is copied before its turn.
    blank = np.broadcast_to(np.zeros((), np.bool_), array.shape)
    return Entry(row.store(blank).shape, array.dtype, lambda: _stored(row, array))


def _stored(row: Row, array: Any) -> NumpyArray:
    return row.store(np.asarray(array))


def lerobot_settings(
    config: Pi05Config,
    settings: Mapping[str, Any] | None,
    image_keys: Mapping[str, str] | None,
    state_dim: int,
) -> dict[str, Any]:
    """LeRobot's `config.json` of a model; arguments as for `write_pi05`."""
    side = config.architecture.image_size
    keys = image_keys or {name: f"observation.images.{name}" for name in config.cameras}
    given = dict(settings or {})
    inputs = dict(given.get("input_features") or {})
    for name in config.cameras:
        inputs.setdefault(keys[name], {"type": "VISUAL", "shape": [3, side, side]})
    inputs.setdefault("observation.state", {"type": "STATE", "shape": [state_dim]})
    return {
        **given,
        "type": "pi05",
        "dtype": "float32" if config.precision == "float32" else "bfloat16",
        "input_features": inputs,
        "output_features": {"action": {"type": "ACTION", "shape": [config.action_dim]}},
        "chunk_size": config.chunk_size,
        "n_action_steps": config.n_action_steps,
        "max_action_dim": config.max_action_dim,
        "num_inference_steps": config.num_inference_steps,
        "tokenizer_max_length": config.prompt_length,
        "image_resolution": [side, side],
        "min_period": config.min_period,
        "max_period": config.max_period,
        "time_sampling_beta_alpha": config.time_alpha,
        "time_sampling_beta_beta": config.time_beta,
        "time_sampling_scale": config.time_scale,
        "time_sampling_offset": config.time_offset,
    }
