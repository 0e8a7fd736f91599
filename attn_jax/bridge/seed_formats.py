"""Attention files of earlier Pi0.5 tools, read as labelled records; `seed_write` writes them.

- `episode_00000_attention.pt`: suffix maps of every call, denoising step and layer.
- `attn_map_layer_{L}.npy`, or a folder of them: prefix map of one layer, (1, head, token, token).
- `attn_all_layers.npz`: the same for every layer, under the keys `layer_{L}`.
- another `.npy`: suffix maps (layer, 1, head, action, key) of one denoising step.

None of them says which tokens are which, so cameras are named by the caller, or counted where the
prompt has its usual 200 tokens. A camera or prompt token whose key never gets any weight is a dummy
or padding.

    episode = read_seed("episode_00000_attention.pt", cameras=("agentview", "wrist", "empty"))
    record = episode.record(call=0)                     # (1, denoise, layer, head, query, key)
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from attn_jax.bridge.seed_uncertainty import UNCERTAINTY_FILE, refused
from attn_jax.bridge.torch_weights import as_arrays, read_torch_file
from attn_jax.core.errors import RecordError
from attn_jax.core.layout import TokenGroup, TokenLayout
from attn_jax.core.record import AttentionRecord
from attn_jax.core.typing import AnyArray, NumpyArray, PathLike

GRID = (16, 16)
_PROMPT = 200  # prompt tokens of the published checkpoints
_LAYER_FILE = re.compile(r"attn_map_layer_(\d+)\.npy")
_LAYER_KEY = re.compile(r"layer_(\d+)")
# Number of denoising steps in the metadata, in both spellings.
_PASSES = ("num_denoising_steps_per_action", "num_denoising_steps")
EPISODE_FILE = re.compile(r"episode_(\d+)_attention\.pt")


@dataclasses.dataclass(frozen=True, eq=False)
class SeedEpisode:
    """What a file holds; the values of a call are read when they are asked for.

    Attributes:
      stream: `suffix` or `prefix`.
      layout: names of the tokens.
      layers, heads, denoise: numbers on these axes.
      env_step: environment step of every call.
      times: flow time of every step in `denoise`; empty for the prefix.
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
    if UNCERTAINTY_FILE.fullmatch(path.name):
        raise refused(path)
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
        passes = next((int(metadata[key]) for key in _PASSES if key in metadata), len(denoise))
        batch_index = data.get("batch_index")
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
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
    # A file that counts fewer passes than its steps say leaves open how many there were.
    total = passes if passes > denoise[-1] else None
    # The flow never reaches 0: a last time of 0.0 was computed with the wrong grid.
    if total is not None and times[-1] == 0.0:
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
        info={
            "imported_from": path.name,
            "batch_index": batch_index,
            "times": _by_step(denoise, times, total),
            "denoising_steps": total,
        },
        read=read,
    )


def _by_step(
    denoise: Sequence[int], times: Sequence[float], total: int | None
) -> list[float | None]:
    """Time of every denoising step from 0 on; None where the file has none."""
    known = dict(zip(denoise, times, strict=True))
    return [known.get(step) for step in range(total or denoise[-1] + 1)]


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
