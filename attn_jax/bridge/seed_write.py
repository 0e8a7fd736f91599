"""Records as attention files of earlier Pi0.5 tools; `seed_formats` says what these hold.

Records have the axes (call, denoise, layer, head, query, key), with one call each.

    write_episode("again_attention.pt", records, env_step=[0, 10], times=[1.0, 0.9, ...])
    write_layers("attn_all_layers.npz", record)
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np

from attn_jax.bridge.torch_weights import write_torch_file
from attn_jax.core import files
from attn_jax.core.errors import RecordError
from attn_jax.core.record import AttentionRecord
from attn_jax.core.typing import PathLike


def write_episode(
    path: PathLike,
    records: Sequence[AttentionRecord],
    env_step: Sequence[int],
    *,
    number: int = 0,
    times: Sequence[float | None] | None = None,
) -> None:
    """Writes `episode_*_attention.pt` in the spelling of the tool that wrote such files.

    Args:
      path: file.
      records: one `full` record of the suffix per call, with all actions and keys.
      env_step: environment step of every call.
      number: of the episode.
      times: flow time of every denoising step of the model, also of those that the records left
        out: their number is written, and step k has times[k]. None stands for 1, 1 - 1/n, ... of
        records that hold all n steps.

    Raises:
      RecordError: records that left something out which the format needs, or a step without a time.
      ConfigError: torch is not installed.
    """
    if not records or len(records) != len(env_step):
        raise RecordError(f"{len(records)} calls with {len(env_step)} steps", where=path)
    if times is None and records[0].denoise != tuple(range(len(records[0].denoise))):
        raise RecordError(
            f"denoising steps {records[0].denoise} do not say how many there were", where=path
        )
    total = len(records[0].denoise if times is None else times)
    clock = [1.0 - k / total for k in range(total)] if times is None else times
    known = {k: float(time) for k, time in enumerate(clock) if time is not None}
    steps = []
    for record, step in zip(records, env_step, strict=True):
        _require_complete(record, "suffix", path)
        untimed = [k for k in record.denoise if k not in known]
        if untimed:
            raise RecordError(
                f"denoising step {untimed[0]} has no time; known are {known}", where=path
            )
        actions = len(record.layout.group("action").indices)
        values = np.asarray(record.values, np.float32)[0]
        maps = {
            int(k): {
                "time": known[int(k)],
                "attention_weights": {
                    int(layer): values[place, position][None]
                    for position, layer in enumerate(record.layers)
                },
                "prefix_len": record.layout.length - actions,
                "suffix_len": actions,
            }
            for place, k in enumerate(record.denoise)
        }
        steps.append({"rollout_step": int(step), "attention_maps": maps})
    metadata = {
        "num_rollout_steps": len(steps),
        "num_denoising_steps_per_action": total,
    }
    data = {"rollout_steps": steps, "episode_index": number, "batch_index": 0, "metadata": metadata}
    write_torch_file(path, data)


def write_layers(path: PathLike, record: AttentionRecord) -> None:
    """Writes the prefix of one call: `attn_all_layers.npz`, or a folder of `attn_map_layer_*.npy`.

    Args:
      path: ends in `.npz`, or is a folder, which is made.
      record: one `full` record of the prefix with all tokens.

    Raises:
      RecordError: a record that left something out which the format needs.
    """
    path = pathlib.Path(path)
    _require_complete(record, "prefix", path)
    values = np.asarray(record.values, np.float32)[0]
    layers = {n: values[0, place][None] for place, n in enumerate(record.layers)}
    if path.suffix == ".npz":
        named = {f"layer_{number}": array for number, array in layers.items()}
        files.write_file(path, lambda file: np.savez_compressed(file, **named), what="attention")
        return
    path.mkdir(parents=True, exist_ok=True)
    for number, array in layers.items():
        files.write_file(
            path / f"attn_map_layer_{number}.npy",
            lambda file, array=array: np.save(file, array, allow_pickle=False),
            what="attention",
        )


def _require_complete(record: AttentionRecord, stream: str, where: PathLike) -> None:
    layout = record.layout
    every = np.arange(layout.length)
    queries = layout.axis_tokens("query")
    if stream == "suffix":
        has_actions = "action" in layout.names
        whole = has_actions and np.array_equal(queries, layout.group("action").indices)
    else:
        whole = np.array_equal(queries, every)
    complete = {
        f"the stream {stream}": record.stream == stream,
        "full maps": record.reduction == "full",
        "one call": record.shape[0] == 1,
        "every key": np.array_equal(layout.axis_tokens("key"), every),
        "every query": whole,
    }
    for what, found in complete.items():
        if not found:
            raise RecordError(
                f"the format needs {what}; the record is {record.reduction} of {record.stream} "
                f"with shape {record.shape}",
                where=where,
                fix=f"Record with --capture='streams={stream};layers=all;reduce=full'",
            )
