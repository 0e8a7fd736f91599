"""One observation file through a Pi0.5 checkpoint, everything out.

    python -m launch.predict --checkpoint=DIR --inputs=in.npz --outputs=out.npz
        [--capture=all|SELECTION] [--dtype=float32|bfloat16|bfloat16_openpi] [--tokenizer=DIR]

DIR is a LeRobot folder, the --workdir of a training run or a folder of launch.bridge. Input
arrays, b samples (only the first two lines are always needed):

    image{i}      (b, 3, h, w) float32 in [0, 1], raw size; i counts the configured cameras from 0;
                  a configured camera without an array is a dummy
    tokens        (b, k) ids and token_mask (b, k), or: task (b,) texts, with a tokenizer; words and
                  numbers (`text/word/cube`) are named of ids, too, where there is a tokenizer
    state         (b, s) in units of the robot; needed with `task`, or for relative actions
    noise         (b, horizon, max_action_dim) float32; else drawn by --seed

Output arrays:

    action_chunk  (b, horizon, action_dim), normalised: what LeRobot's predict_action_chunk gives
    actions       the same in units of the robot, where the checkpoint has processors
    x_t, v_t      (denoise, b, horizon, max_action_dim); time (denoise,)
    attn_suffix   (denoise, layer, b, head, query, key); attn_prefix (layer, b, head, query, key);
                  other reductions as attn_suffix.group_mass and so on
    attn_labels   JSON text: layers, heads, steps, names and, per sample, token layouts of every
                  attn_ array; of the suffix also the number of all denoising steps and their times
    prefix_pad_mask   (b, prefix) False for dummies and padding
    provenance    JSON text: model, name and fingerprint of the checkpoint, package versions, seed,
                  selection
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
import time
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags, logging

from attn_jax.bridge import processor_steps as names
from attn_jax.core import files
from attn_jax.core.errors import ConfigError, InputError
from attn_jax.core.record import AttentionRecord
from attn_jax.models.pi05.config import Pi05Config
from attn_jax.policies.observations import Description, describe, prepare
from attn_jax.policies.policy import Prediction, denoising_facts, with_weights
from attn_jax.probe.select import Selection
from launch import app, compile_cache

CHECKPOINT = app.define_checkpoint()
INPUTS = flags.DEFINE_string("inputs", None, "Observation, an .npz file.")
OUTPUTS = flags.DEFINE_string("outputs", None, "Result, an .npz file.")
CAPTURE = app.define_capture()
DTYPE = flags.DEFINE_enum(
    "dtype",
    None,
    ["float32", "bfloat16", "bfloat16_lerobot", "bfloat16_openpi"],
    "Arithmetic; bfloat16 is LeRobot's. Without, what the checkpoint says.",
)
TOKENIZER = app.define_tokenizer()
SEED = app.define_seed()

_PLAIN = ("state", "tokens", "token_mask", "task", "noise")
_LABELS = ("stream", "reduction", "layers", "heads", "denoise", "query_names", "key_names")


def main() -> dict[str, Any]:
    """Predicts; returns what --json prints."""
    for flag in (CHECKPOINT, INPUTS, OUTPUTS):
        if not flag.value:
            raise ConfigError(f"--{flag.name} is required")
    selection = Selection.parse(CAPTURE.value) if CAPTURE.value else None
    if selection is not None and "dtype" not in CAPTURE.value:
        # What leaves here is compared with other programs, not kept for long.
        selection = dataclasses.replace(selection, dtype="float32")
    outputs = pathlib.Path(OUTPUTS.value)
    if not outputs.absolute().parent.is_dir():
        raise ConfigError("its folder does not exist", where=outputs)
    arrays = read_inputs(INPUTS.value)
    precision = "bfloat16_lerobot" if DTYPE.value == "bfloat16" else DTYPE.value
    compile_cache.enable()
    # The inputs are checked before the weights are read, which may take a minute.
    description = describe(CHECKPOINT.value, tokenizer=TOKENIZER.value, precision=precision)
    prepared = prepare(description, features(description, arrays))
    noise = given_noise(description.config, arrays, len(prepared.inputs.tokens))
    policy = with_weights(description, capture=selection, bucket=1)
    started = time.monotonic()
    prediction = policy.run(prepared, noise=noise)
    logging.info("predicted in %.1f s, compilation included", time.monotonic() - started)
    results = results_of(prediction)
    if description.processors is not None:
        results["actions"] = prediction.actions
    facts = {
        **app.provenance(SEED.value),
        **description.provenance(),
        "selection": None if selection is None else selection.to_json(),
    }
    results["provenance"] = np.asarray(json.dumps(app.jsonable(facts)))
    write_outputs(outputs, results)
    return {"outputs": {name: [*array.shape] for name, array in sorted(results.items())}}


def read_inputs(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays of an .npz file.

    Raises:
      InputError: no such file, no archive, objects in it, or a name that means nothing.
    """
    if not pathlib.Path(path).is_file():
        raise InputError("no such file", where=path)
    try:
        loaded = np.load(path, allow_pickle=False)
        found = isinstance(loaded, np.lib.npyio.NpzFile)
        arrays = {name: loaded[name] for name in loaded.files} if found else {}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"is no readable .npz file: {error}", where=path) from error
    if not found:
        raise InputError("holds one array without a name, expected an .npz file", where=path)
    loaded.close()
    for name in arrays:
        if name not in _PLAIN and not re.fullmatch(r"image\d+", name):
            raise InputError(
                f"unknown array {name!r}",
                where=path,
                fix=f"Known: image0, image1, ..., {', '.join(_PLAIN)}",
            )
    return arrays


def features(description: Description, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The arrays under LeRobot's names.

    Raises:
      InputError: arrays that are missing, or do not fit the checkpoint or each other.
    """
    keys = tuple(description.image_keys.values())
    values: dict[str, Any] = {}
    for name, array in arrays.items():
        if not name.startswith("image"):
            continue
        number = int(name.removeprefix("image"))
        if number >= len(keys):
            raise InputError(
                f"the checkpoint has {len(keys)} cameras: {', '.join(keys)}", where=name
            )
        if array.size and not (array.min() >= 0 and array.max() <= 1):
            raise InputError("pixels are outside [0, 1] or not finite", where=name)
        values[keys[number]] = array
    if "state" in arrays:
        if arrays["state"].ndim != 2:
            raise InputError(f"has shape {arrays['state'].shape}, expected (b, s)", where="state")
        values[names.STATE] = arrays["state"].astype(np.float32)
    if ("tokens" in arrays) != ("token_mask" in arrays):
        raise InputError("tokens and token_mask come together")
    if "tokens" in arrays:
        shapes = arrays["tokens"].shape, arrays["token_mask"].shape
        if shapes[0] != shapes[1] or len(shapes[0]) != 2:
            raise InputError(f"have shapes {shapes}, expected (b, k)", where="tokens, token_mask")
        values[names.TOKENS], values[names.TOKEN_MASK] = arrays["tokens"], arrays["token_mask"]
    elif "task" in arrays:
        if arrays["task"].dtype.kind != "U":
            raise InputError(f"is {arrays['task'].dtype}, expected texts", where="task")
        values[names.TASK] = [str(text) for text in np.atleast_1d(arrays["task"])]
    else:
        raise InputError("the inputs have neither tokens nor task")
    return values


def given_noise(config: Pi05Config, arrays: Mapping[str, np.ndarray], batch: int) -> np.ndarray:
    """The noise of the inputs, or fresh noise, (b, horizon, max_action_dim) float32."""
    shape = (batch, config.chunk_size, config.max_action_dim)
    if "noise" not in arrays:
        return np.random.default_rng(SEED.value).standard_normal(shape, np.float32)
    if arrays["noise"].shape != shape:
        raise InputError(f"has shape {arrays['noise'].shape}, expected {shape}", where="noise")
    return arrays["noise"].astype(np.float32)


def results_of(prediction: Prediction) -> dict[str, np.ndarray]:
    """The arrays of the output file, without `actions`."""
    return {
        "action_chunk": prediction.chunk,
        "x_t": prediction.x_t,
        "v_t": prediction.v_t,
        "time": prediction.time,
        "prefix_pad_mask": prediction.prefix_valid,
        **attention_arrays(prediction.records, denoising_facts(prediction.time)),
    }


def attention_arrays(
    all_records: Sequence[Mapping[str, AttentionRecord]] | None,
    denoising: Mapping[str, Any] | None = None,
) -> dict[str, np.ndarray]:
    """Records of every sample under the names of the output file, with their labels.

    Args:
      all_records: of every sample, by name.
      denoising: what the labels of the suffix say about the denoising passes.
    """
    if all_records is None:
        return {}
    arrays, labels = {}, {}
    for record_name, first in all_records[0].items():
        samples = [records[record_name] for records in all_records]
        # Each (1, denoise, layer, head, query, key); as (denoise, layer, b, head, query, key).
        ordered = np.moveaxis(np.concatenate([np.asarray(r.values) for r in samples]), 0, 2)
        name = f"attn_{record_name}"
        arrays[name] = ordered if first.stream == "suffix" else ordered[0]
        labels[name] = {
            **{label: getattr(first, label) for label in _LABELS},
            **((denoising or {}) if first.stream == "suffix" else {}),
            "layouts": [record.layout.to_json() for record in samples],
        }
    arrays["attn_labels"] = np.asarray(json.dumps(app.jsonable(labels)))
    return arrays


def write_outputs(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes an .npz file, whole or not at all; raises DiskFullError."""
    with files.disk_errors(path, what="predictions"):
        files.replace_file(path, lambda file: np.savez(file, **arrays))


if __name__ == "__main__":
    app.run(main)
