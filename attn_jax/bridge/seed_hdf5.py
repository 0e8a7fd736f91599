"""Attention files of a later Pi0.5 tool: one HDF5 file per frame and prompt, `00008_base.h5`.

    /meta        attributes prefix_len, seq_len, n_real_tokens, instruction; datasets token_texts,
                 token_ids (scalars may be datasets, texts may be attributes: both are read)
    /images/{exterior,wrist}                        (224, 224, 3) uint8
    /prefix/layer_{i}/full                          (head, token, token)
    /prefix/layer_{i}/text_to_img                   (head, text, 512)
    /suffix/layer_{i}/action_to_img                 (head, action, 512), the last denoising step
    /suffix_denoising/n_steps, action_traj          (step, H, a)
    /suffix_denoising/layer_{i}/action_to_img_steps (step, head, 512), mean over actions
    /suffix_denoising/layer_{i}/group_masses        (step, 4): exterior, wrist, text, action
    /gt_action, /pred_action                        (H, a)

Image keys are 256 patches of the exterior, then of the wrist camera. As records these are `prefix`,
`suffix`, `suffix.patch_map` and `suffix.group_mass`, each of one call; what a file lacks is left
out.

    frame = read_frame("00008_base.h5")
    frame.records["suffix"].select(query="action", key="image/wrist")
    write_frame("again.h5", frame)
"""

from __future__ import annotations

import dataclasses
import io
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np

from attn_jax.core import files
from attn_jax.core.errors import RecordError
from attn_jax.core.layout import TokenGroup, TokenLayout
from attn_jax.core.record import AttentionRecord
from attn_jax.core.typing import NumpyArray, PathLike

CAMERAS = ("exterior", "wrist")
GRID, PATCHES = (16, 16), 256
INPUT_PX = 224
#: Order of `group_masses`.
GROUPS = ("image/exterior", "image/wrist", "text", "action")
NAME = re.compile(r"(\d+)_(.+)\.h5")
_LAYER = re.compile(r"layer_(\d+)")


@dataclasses.dataclass(frozen=True, eq=False)
class SeedFrame:
    """What a file holds.

    Attributes:
      instruction: the prompt.
      records: record name -> record of one call; at least one.
      images: camera -> (224, 224, 3) uint8, letterboxed; may be empty.
      token_texts: text of every real prompt token.
      token_ids: their ids; may be empty.
      prefix_len: tokens of cameras, dummies included.
      pred_action: (H, a) or None.
      gt_action: (H, a) or None.
      action_traj: (step, H, a) noisy actions or None.
    """

    instruction: str
    records: Mapping[str, AttentionRecord]
    images: Mapping[str, NumpyArray]
    token_texts: tuple[str, ...] = ()
    token_ids: tuple[int, ...] = ()
    prefix_len: int = 3 * PATCHES
    pred_action: NumpyArray | None = None
    gt_action: NumpyArray | None = None
    action_traj: NumpyArray | None = None


def is_seed_hdf5(path: PathLike) -> bool:
    """Whether a path is such a file by its name, or a folder with some."""
    path = pathlib.Path(path)
    if path.is_dir():
        return any(NAME.fullmatch(child.name) for child in path.iterdir())
    return NAME.fullmatch(path.name) is not None


def read_frame(path: PathLike) -> SeedFrame:
    """Reads a file.

    Raises:
      RecordError: missing, damaged, without any attention, or maps that do not fit each other.
    """
    path = pathlib.Path(path)
    try:
        with h5py.File(path, "r") as file:
            return _read(file, path)
    except OSError as error:
        raise RecordError(f"is no readable HDF5 file: {error}", where=path) from error
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, RecordError):
            raise
        raise RecordError(f"is malformed: {error}", where=path) from error


def _read(file: h5py.File, path: pathlib.Path) -> SeedFrame:
    meta = file["meta"]
    prefix_len = int(_value(meta, "prefix_len", 3 * PATCHES))
    texts = tuple(_text(item) for item in np.asarray(_value(meta, "token_texts", ())).tolist())
    ids = tuple(int(item) for item in np.asarray(_value(meta, "token_ids", ())).tolist())
    real = int(_value(meta, "n_real_tokens", len(texts)))
    texts = texts[:real] if len(texts) >= real else ()
    ids = ids[:real] if len(ids) >= real else ()
    words = _Words(real, texts, ids)
    records = _prefix(file, path, prefix_len, words)
    records |= _suffix(file, path, prefix_len, words)
    if not records:
        raise RecordError("holds no attention", where=path)
    images: Any = file.get("images", {})
    optional = {
        name: np.asarray(file[place]) if place in file else None
        for name, place in {
            "pred_action": "pred_action",
            "gt_action": "gt_action",
            "action_traj": "suffix_denoising/action_traj",
        }.items()
    }
    return SeedFrame(
        instruction=_text(_value(meta, "instruction", "")),
        records=records,
        images={name: np.asarray(images[name]) for name in CAMERAS if name in images},
        token_texts=texts,
        token_ids=ids,
        prefix_len=prefix_len,
        **optional,
    )


def _value(group: Any, name: str, default: Any) -> Any:
    """An attribute or a dataset."""
    if name in group.attrs:
        return group.attrs[name]
    return group[name][()] if name in group else default


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _layers(group: Any, name: str, path: pathlib.Path) -> tuple[tuple[int, ...], NumpyArray | None]:
    """Layers that have a dataset, and the datasets stacked."""
    found = {
        int(match[1]): group[child][name]
        for child in (group or ())
        if (match := _LAYER.fullmatch(child)) and name in group[child]
    }
    if len({data.shape for data in found.values()}) > 1:
        raise RecordError(f"{name} differs in shape between layers", where=path)
    layers = tuple(sorted(found))
    stacked = [np.asarray(found[n], np.float32) for n in layers]
    return layers, np.stack(stacked) if stacked else None


@dataclasses.dataclass(frozen=True)
class _Words:
    """Texts and ids of the real prompt tokens, and how many there are."""

    count: int
    texts: tuple[str, ...]
    ids: tuple[int, ...]

    def of(self, count: int) -> _Words:
        """The words of a map with `count` text tokens: without texts where these are others."""
        return self if count == self.count else _Words(count, (), ())


def _layout(prefix_len: int, words: _Words, length: int, actions: int) -> TokenLayout:
    """Cameras (those beyond the two are dummies), real text, padding, actions."""
    names = [*CAMERAS, *(f"dummy{i}" for i in range(prefix_len // PATCHES - len(CAMERAS)))]
    groups = [
        TokenGroup(
            f"image/{name}",
            tuple(range(i * PATCHES, (i + 1) * PATCHES)),
            GRID,
            (0, 0, INPUT_PX, INPUT_PX),
            name in CAMERAS,
        )
        for i, name in enumerate(names)
    ]
    text = tuple(range(prefix_len, prefix_len + words.count))
    if text:
        groups.append(TokenGroup("text", text, labels=words.texts, ids=words.ids))
    pad = tuple(range(prefix_len + words.count, length))
    if pad:
        groups.append(TokenGroup("pad", pad, valid=False))
    if not actions:
        return TokenLayout(length, tuple(groups))
    tokens = tuple(range(length, length + actions))
    groups.append(TokenGroup("action", tokens, labels=tuple(str(i) for i in range(actions))))
    return TokenLayout(length + actions, tuple(groups), queries=tokens)


_IMAGE_KEYS = tuple(range(len(CAMERAS) * PATCHES))


def _prefix(
    file: h5py.File, path: pathlib.Path, prefix_len: int, words: _Words
) -> dict[str, AttentionRecord]:
    layers, full = _layers(file.get("prefix"), "full", path)
    if full is not None:
        layout = _layout(prefix_len, words, full.shape[-1], 0)
        heads = tuple(range(full.shape[1]))
        return {"prefix": AttentionRecord("prefix", full[None, None], layout, layers, heads)}
    layers, maps = _layers(file.get("prefix"), "text_to_img", path)
    if maps is None:
        return {}
    rows = maps.shape[2]
    layout = _layout(prefix_len, words.of(rows), prefix_len + rows, 0)
    layout = dataclasses.replace(layout, queries=layout.group("text").indices, keys=_IMAGE_KEYS)
    heads = tuple(range(maps.shape[1]))
    record = AttentionRecord("prefix", maps[None, None], layout, layers, heads, complete_rows=False)
    return {"prefix": record}


def _suffix(
    file: h5py.File, path: pathlib.Path, prefix_len: int, words: _Words
) -> dict[str, AttentionRecord]:
    out: dict[str, AttentionRecord] = {}
    denoising = file.get("suffix_denoising")
    layers, maps = _layers(file.get("suffix"), "action_to_img", path)
    actions = 1 if maps is None else maps.shape[2]
    layout = _layout(prefix_len, words, prefix_len + words.count, actions)
    some = dataclasses.replace(layout, keys=_IMAGE_KEYS)
    steps = int(_value(denoising, "n_steps", 1)) if denoising is not None else 1
    if maps is not None:
        out["suffix"] = AttentionRecord(
            "suffix",
            maps[None, None],
            some,
            layers,
            tuple(range(maps.shape[1])),
            (steps - 1,),
            complete_rows=False,
        )
    layers, maps = _layers(denoising, "action_to_img_steps", path)
    if maps is not None:
        out["suffix.patch_map"] = AttentionRecord(
            "suffix",
            np.moveaxis(maps, 1, 0)[None, :, :, :, None],
            some,
            layers,
            tuple(range(maps.shape[2])),
            tuple(range(maps.shape[1])),
            reduction="patch_map",
            query_names=("action",),
            complete_rows=False,
        )
    layers, masses = _layers(denoising, "group_masses", path)
    if masses is not None:
        out["suffix.group_mass"] = AttentionRecord(
            "suffix",
            np.moveaxis(masses, 1, 0)[None, :, :, None, None],
            layout,
            layers,
            (),
            tuple(range(masses.shape[1])),
            reduction="group_mass",
            query_names=("action",),
            key_names=GROUPS,
            complete_rows=False,
        )
    return out


def write_frame(path: PathLike, frame: SeedFrame) -> None:
    """Writes a file.

    Raises:
      RecordError: a record that does not hold what the format needs, or nothing to write.
      DiskFullError: no space left.
    """
    path = pathlib.Path(path)
    if not frame.records:
        raise RecordError("there is no attention to write", where=path)
    layout = next(iter(frame.records.values())).layout
    files.write_file(path, lambda stream: _write(stream, frame, layout, path), what="attention")


def _write(stream: io.BytesIO, frame: SeedFrame, layout: TokenLayout, path: pathlib.Path) -> None:
    with h5py.File(stream, "w") as file:
        meta = file.create_group("meta")
        meta.attrs["prefix_len"] = frame.prefix_len
        meta.attrs["seq_len"] = layout.length
        meta.attrs["n_real_tokens"] = len(frame.token_texts)
        meta.attrs["instruction"] = frame.instruction
        meta.create_dataset("token_texts", data=list(frame.token_texts), dtype=h5py.string_dtype())
        meta.create_dataset("token_ids", data=np.asarray(frame.token_ids, np.int64))
        for name, picture in frame.images.items():
            _save(file, f"images/{name}", picture)
        steps = [r.denoise[-1] + 1 for n, r in frame.records.items() if n.startswith("suffix")]
        if steps:
            file.create_dataset("suffix_denoising/n_steps", data=max(steps))
        for name, record in frame.records.items():
            for place, data in _datasets(name, record, path).items():
                _save(file, place, data)
        for place, data in {
            "pred_action": frame.pred_action,
            "gt_action": frame.gt_action,
            "suffix_denoising/action_traj": frame.action_traj,
        }.items():
            if data is not None:
                _save(file, place, data)


def _save(file: h5py.File, place: str, data: NumpyArray) -> None:
    file.create_dataset(place, data=data, compression="gzip", compression_opts=4)


def _datasets(name: str, record: AttentionRecord, path: pathlib.Path) -> dict[str, NumpyArray]:
    """Place in the file -> array, of one record of one call."""
    if record.shape[0] != 1:
        raise RecordError(f"{record.shape[0]} calls instead of one", where=name)
    out: dict[str, Any] = {}
    if name == "suffix.patch_map":
        maps = _images(record, "action")  # (1, step, layer, head, 1, 512)
        parts = {"action_to_img_steps": np.moveaxis(maps[0, ..., 0, :], 1, 0)}
        folder = "suffix_denoising"
    elif name == "suffix.group_mass":
        parts = {"group_masses": np.moveaxis(_masses(record), 1, 0)}
        folder = "suffix_denoising"
    elif name == "suffix":
        parts = {"action_to_img": _images(record, "action")[0, -1]}
        folder = "suffix"
    elif name == "prefix":
        whole = record.shape[-2:] == (record.layout.length, record.layout.length)
        parts, folder = {}, "prefix"
        if whole:
            parts["full"] = np.asarray(record.values, np.float32)[0, 0]
        # Every real token of the prompt, where the layout tells start and state from the text.
        named = any(alias.name == "prompt" for alias in record.layout.aliases)
        parts["text_to_img"] = _images(record, "prompt" if named else "text")[0, 0]
    else:
        raise RecordError(f"the format has no place for {name!r}", where=path)
    for key, stacked in parts.items():
        for place, layer in enumerate(record.layers):
            out[f"{folder}/layer_{layer}/{key}"] = stacked[place]
    return out


def _images(record: AttentionRecord, query: str) -> NumpyArray:
    """(1, denoise, layer, head, query, 512) of the two cameras."""
    parts = []
    for camera in CAMERAS:
        found = record.select(query=query, key=f"image/{camera}")
        parts.append(found.reshape(*found.shape[:5], -1))
    return np.concatenate(parts, axis=-1).astype(np.float32)


def _masses(record: AttentionRecord) -> NumpyArray:
    """(denoise, layer, 4), mean over heads and actions."""
    parts = []
    for group in GROUPS:
        names = [n for n in record.key_names if n == group or (group == "text" and n in _WORDS)]
        if not names:
            raise RecordError(f"has no mass of {group}", where=f"{record.stream}.group_mass")
        parts.append(sum(record.select(query="action", key=n) for n in names))
    masses = np.stack(parts, axis=-1)  # (1, denoise, layer, head, query, 1, 4)
    return masses.reshape(*masses.shape[:5], 4)[0].mean(axis=(2, 3), dtype=np.float64)


#: Groups that the format counts as text.
_WORDS = ("text", "bos", "state")
