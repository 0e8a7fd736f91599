"""Attention files of earlier Pi0.5 tools, read as labelled records and written from them.

- `episode_00000_attention.pt`: suffix maps of every call, denoising step and layer.
- `attn_map_layer_{L}.npy`, or a folder of them: prefix map of one layer, (1, head, token, token).
- `attn_all_layers.npz`: the same for every layer, under the keys `layer_{L}`.
- another `.npy`: suffix maps (layer, 1, head, action, key) of one denoising step.

None of them says which tokens are which, so cameras are named by the caller, or counted where the
prompt has its usual 200 tokens. A camera or prompt token whose key never gets any weight is a dummy
or padding.

    episode = read_seed("episode_00000_attention.pt", cameras=("agentview", "wrist", "empty"))
    record = episode.record(call=0)                     # (1, denoise, layer, head, query, key)
    write_episode("again_attention.pt", [record], env_step=[0])
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from attn_jax.bridge.torch_weights import as_arrays, read_torch_file, write_torch_file
from attn_jax.core.errors import RecordError
from attn_jax.core.layout import TokenGroup, TokenLayout
from attn_jax.core.record import AttentionRecord
from attn_jax.core.typing import AnyArray, NumpyArray, PathLike

GRID = (16, 16)
_PROMPT = 200  # prompt tokens of the published checkpoints
_LAYER_FILE = re.compile(r"attn_map_layer_(\d+)\.npy")
_LAYER_KEY = re.compile(r"layer_(\d+)")
EPISODE_FILE = re.compile(r"episode_(\d+)_attention\.pt")


@dataclasses.dataclass(frozen=True, eq=False)
class SeedEpisode:
    """What a file holds; the values of a call are read when they are asked for.

    Attributes:
      stream: `suffix` or `prefix`.
      layout: names of the tokens.
      layers, heads, denoise: numbers on these axes.
      env_step: environment step of every call.
      times: flow time of every denoising step; empty for the prefix.
      number: of the episode.
      info: further facts, JSON-compatible.
      read: call -> (denoise, layer, head, query, key) float32.
    """

    stream: str
    layout: TokenLayout
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    denoise: tuple[int, ...]
    env_step: tuple[int, ...]
    times: tuple[float, ...]
    number: int
    info: Mapping[str, Any]
    read: Callable[[int], NumpyArray]

    def record(self, call: int) -> AttentionRecord:
        """One call as a record with a call axis of length 1."""
        return AttentionRecord(
            self.stream, self.read(call)[None], self.layout, self.layers, self.heads, self.denoise
        )


def read_seed(
    path: PathLike, *, cameras: Sequence[str] | None = None, grid: tuple[int, int] = GRID
) -> SeedEpisode:
    """Reads any of the formats, told apart by their names.

    Args:
      path: file, or folder of `attn_map_layer_*.npy`.
      cameras: names of all camera slots in token order, dummies included; None counts them.
      grid: (rows, columns) of a camera's tokens.

    Raises:
      RecordError: no such file, an unknown kind, a damaged one, or maps that do not fit each other
        or the cameras.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise RecordError("no such file or folder", where=path)
    if path.suffix == ".pt":
        return _read_episode(path, cameras, grid)
    return _read_layers(path, cameras, grid)


def is_seed(path: PathLike) -> bool:
    """Whether a path looks like one of the formats."""
    path = pathlib.Path(path)
    if path.is_dir():
        return any(_LAYER_FILE.fullmatch(child.name) for child in path.iterdir())
    return path.suffix in (".pt", ".npy", ".npz")


def _read_episode(
    path: pathlib.Path, cameras: Sequence[str] | None, grid: tuple[int, int]
) -> SeedEpisode:
    data = read_torch_file(path)
    try:
        calls = list(data["rollout_steps"])
        metadata = dict(data.get("metadata") or {})
        maps = [dict(call["attention_maps"]) for call in calls]
        env_step = tuple(int(call["rollout_step"]) for call in calls)
        denoise = tuple(sorted(int(step) for step in maps[0]))
        first = maps[0][denoise[0]]
        layers = tuple(sorted(int(layer) for layer in first["attention_weights"]))
        lengths = int(first["prefix_len"]), int(first["suffix_len"])
        times = tuple(float(maps[0][step]["time"]) for step in denoise)
        # One spelling has the number of the episode at the top, the other in the metadata.
        number = int(data.get("episode_index", metadata.get("episode_index", 0)))
        batch_index = data.get("batch_index")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise RecordError(f"is no attention episode: {error!r}", where=path) from error

    def read(call: int) -> NumpyArray:
        return np.stack(
            [
                np.stack([_tensor(path, maps[call], (call, step, layer)) for layer in layers])
                for step in denoise
            ]
        )

    shape = _tensor(path, maps[0], (0, denoise[0], layers[0])).shape
    if shape[1:] != (lengths[1], sum(lengths)):
        raise RecordError(
            f"maps are {shape[1:]} (query, key), prefix_len {lengths[0]} and suffix_len "
            f"{lengths[1]} say {(lengths[1], sum(lengths))}",
            where=path,
        )
    unused = np.ones(sum(lengths), np.bool_)
    for call in range(len(calls)):
        unused &= ~read(call).any(axis=(0, 1, 2, 3))
    # The flow never reaches 0: a last time of 0.0 was computed with the wrong grid.
    total = len(denoise)
    if denoise == tuple(range(total)) and times[-1] == 0.0:
        times = tuple(1.0 - step / total for step in denoise)
    return SeedEpisode(
        stream="suffix",
        layout=seed_layout(lengths[0], lengths[1], cameras, grid, unused[: lengths[0]], path),
        layers=layers,
        heads=tuple(range(shape[0])),
        denoise=denoise,
        env_step=env_step,
        times=times,
        number=number,
        info={"imported_from": path.name, "batch_index": batch_index, "time": [*times]},
        read=read,
    )


def _tensor(path: pathlib.Path, maps: Mapping[int, Any], place: tuple[int, int, int]) -> NumpyArray:
    """One map without its batch axis, (head, query, key) float32."""
    call, step, layer = place
    where = f"{path}, call {call}, step {step}, layer {layer}"
    try:
        tensor = maps[step]["attention_weights"][layer]
    except (KeyError, TypeError) as error:
        raise RecordError("is missing, but other calls have it", where=where) from error
    array = as_arrays({"map": tensor}, where)["map"]
    if array.ndim != 4 or array.shape[0] != 1:
        raise RecordError(f"has shape {array.shape}, expected (1, head, query, key)", where=where)
    return array[0].astype(np.float32)


def _read_layers(
    path: pathlib.Path, cameras: Sequence[str] | None, grid: tuple[int, int]
) -> SeedEpisode:
    found = _layer_arrays(path)
    layers = tuple(sorted(found))
    shapes = {array.shape for array in found.values()}
    if len(shapes) != 1 or len(shape := shapes.pop()) != 4 or shape[0] != 1:
        raise RecordError(
            f"maps have shapes {sorted({array.shape for array in found.values()})}, expected the "
            "same (1, head, query, key) for every layer",
            where=path,
        )
    queries, keys = shape[2:]
    stream = "prefix" if queries == keys else "suffix"
    if queries > keys:
        raise RecordError(f"{queries} queries attend to {keys} keys", where=path)
    unused = np.ones(keys, np.bool_)
    for array in found.values():
        # Rows of masked queries are uniform over everything; they say nothing.
        real = array.max(axis=-1) > array.min(axis=-1)
        unused &= ~np.where(real[..., None], array, 0).any(axis=(0, 1, 2))
    lengths = (keys, 0) if stream == "prefix" else (keys - queries, queries)
    return SeedEpisode(
        stream=stream,
        layout=seed_layout(*lengths, cameras, grid, unused[: lengths[0]], path),
        layers=layers,
        heads=tuple(range(shape[1])),
        denoise=(0,),
        env_step=(0,),
        times=(),
        number=0,
        info={"imported_from": path.name},
        read=lambda call: np.stack([found[n][0] for n in layers])[None].astype(np.float32),
    )


def _layer_arrays(path: pathlib.Path) -> dict[int, NumpyArray]:
    """Layer -> (1, head, query, key)."""
    if path.is_dir():
        files = {
            m[1]: child for child in path.iterdir() if (m := _LAYER_FILE.fullmatch(child.name))
        }
        if not files:
            raise RecordError("has no attn_map_layer_*.npy", where=path)
        return {int(number): _load(file) for number, file in files.items()}
    if path.suffix == ".npy":
        array = _load(path)
        if match := _LAYER_FILE.fullmatch(path.name):
            return {int(match[1]): array}
        if array.ndim != 5:
            raise RecordError(
                f"has shape {array.shape}, expected (layer, 1, head, action, key)", where=path
            )
        return dict(enumerate(array))
    if path.suffix == ".npz":
        arrays = _load(path)
        numbers = {name: _LAYER_KEY.fullmatch(name) for name in arrays}
        if not arrays or not all(numbers.values()):
            raise RecordError(f"has the keys {sorted(arrays)}, expected layer_0, ...", where=path)
        return {int(match[1]): arrays[name] for name, match in numbers.items() if match}
    raise RecordError(
        "is of an unknown kind", where=path, fix="Known: .pt, .npy, .npz, a folder of .npy"
    )


def _load(path: pathlib.Path) -> Any:
    """An array, or name -> array; never runs code."""
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        return np.load(path, allow_pickle=False, mmap_mode="r")
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise RecordError(f"is no readable array file: {error}", where=path) from error


def seed_layout(
    prefix: int,
    actions: int,
    cameras: Sequence[str] | None,
    grid: tuple[int, int],
    unused: NumpyArray,
    where: PathLike,
) -> TokenLayout:
    """Layout of cameras, prompt and actions.

    Args:
      prefix: tokens of cameras and prompt.
      actions: action tokens; 0 for the prefix stream.
      cameras: names, or None to count them.
      grid: (rows, columns) of a camera.
      unused: (prefix,) bool, keys without any weight.
      where: the file, for messages.

    Raises:
      RecordError: the cameras do not fit into the prefix, or cannot be counted.
    """
    size = grid[0] * grid[1]
    if cameras is None:
        count, rest = divmod(prefix - _PROMPT, size)
        if rest or count < 1:
            raise RecordError(
                f"cannot tell how many cameras of {grid[0]} x {grid[1]} tokens are among "
                f"{prefix} tokens",
                where=where,
                fix="Name them with --cameras=agentview,wrist, and their size with --grid=16,16",
            )
        cameras = [f"camera{i}" for i in range(count)]
    start = len(cameras) * size
    if start > prefix:
        raise RecordError(
            f"{len(cameras)} cameras of {size} tokens do not fit into {prefix} tokens", where=where
        )
    groups = [
        TokenGroup(
            f"image/{name}",
            tuple(range(i * size, (i + 1) * size)),
            grid=grid,
            valid=not unused[i * size : (i + 1) * size].all(),
        )
        for i, name in enumerate(cameras)
    ]
    for name, chosen in (("text", ~unused[start:]), ("pad", unused[start:])):
        if chosen.any():
            indices = tuple(int(i) for i in start + np.flatnonzero(chosen))
            groups.append(TokenGroup(name, indices, valid=name == "text"))
    if not actions:
        return TokenLayout(prefix, tuple(groups))
    tokens = tuple(range(prefix, prefix + actions))
    groups.append(TokenGroup("action", tokens, labels=tuple(str(i) for i in range(actions))))
    return TokenLayout(prefix + actions, tuple(groups), queries=tokens)


def write_episode(
    path: PathLike,
    records: Sequence[AttentionRecord],
    env_step: Sequence[int],
    *,
    number: int = 0,
    times: Sequence[float] | None = None,
) -> None:
    """Writes `episode_*_attention.pt` in the spelling of the tool that wrote such files.

    Args:
      path: file.
      records: one `full` record of the suffix per call, with all actions and keys.
      env_step: environment step of every call.
      number: of the episode.
      times: flow time of every denoising step; None is 1, 1 - 1/n, ... for all n steps.

    Raises:
      RecordError: records that left something out which the format needs.
      ConfigError: torch is not installed.
    """
    if not records or len(records) != len(env_step):
        raise RecordError(f"{len(records)} calls with {len(env_step)} steps", where=path)
    steps = []
    for record, step in zip(records, env_step, strict=True):
        _require_complete(record, "suffix", path)
        total = len(record.denoise)
        if times is None and record.denoise != tuple(range(total)):
            raise RecordError(
                f"denoising steps {record.denoise} do not say how many there were", where=path
            )
        actions = len(record.layout.group("action").indices)
        clock = [1.0 - k / total for k in range(total)] if times is None else list(times)
        values = np.asarray(record.values, np.float32)[0]
        maps = {
            int(k): {
                "time": float(clock[place]),
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
        "num_denoising_steps_per_action": len(records[0].denoise),
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
        np.savez_compressed(path, **{f"layer_{number}": x for number, x in layers.items()})
        return
    path.mkdir(parents=True, exist_ok=True)
    for number, array in layers.items():
        np.save(path / f"attn_map_layer_{number}.npy", array, allow_pickle=False)


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


def extract_action_to_visual_attention(
    weights: AnyArray,
    prefix_len: int,
    suffix_len: int,
    num_img_tokens: int = 256,
    camera: int | str = 0,
    cameras: Sequence[str] = (),
) -> AnyArray:
    """Attention of the actions to one camera, (b, head, action, num_img_tokens).

    Args:
      weights: (b, head, suffix_len, prefix_len + suffix_len).
      prefix_len: tokens of cameras and prompt.
      suffix_len: action tokens.
      num_img_tokens: tokens of a camera.
      camera: slot of the camera, from 0, or its name.
      cameras: names of all slots in token order, where a name is given.

    Raises:
      RecordError: sizes that do not fit, or an unknown name.
    """
    if isinstance(camera, str):
        if camera not in cameras:
            raise RecordError(f"no camera {camera!r}", fix=f"Known: {', '.join(cameras) or 'none'}")
        camera = list(cameras).index(camera)
    start, stop = camera * num_img_tokens, (camera + 1) * num_img_tokens
    if weights.shape[-2:] != (suffix_len, prefix_len + suffix_len) or not 0 <= start < stop:
        raise RecordError(
            f"weights are {weights.shape}, lengths say {(suffix_len, prefix_len + suffix_len)}"
        )
    if stop > prefix_len:
        raise RecordError(f"camera {camera} ends at token {stop} of {prefix_len}")
    return weights[..., start:stop]
