"""Checkpoints of the original canvas world model (`best_model_auto_*.pth`).

The file gives frame size, separator and history; the other sizes follow from tensor shapes, except
the head size, which no shape tells. Its two fixed position tables are compared with ours and not
loaded.

    checkpoint = read_canvas_pth("best_model_auto_x.pth")
    checkpoint.report.require()
    CanvasModel(checkpoint.config).apply({"params": checkpoint.params}, canvas)
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attn_jax.bridge import keymap
from attn_jax.bridge.keymap import Ignored, Report, Rule
from attn_jax.bridge.torch_weights import as_arrays, read_torch_file
from attn_jax.core.canvas import CanvasGeometry
from attn_jax.core.errors import CheckpointError
from attn_jax.core.typing import NumpyArray, PathLike
from attn_jax.models.canvas.model import CanvasConfig, CanvasModel
from attn_jax.nn.positions import sincos_grid

TABLES = {"pos_embed": "encoder", "decoder_pos_embed": "decoder"}
# Entries of the file beside the weights that are worth keeping.
_FACTS = ("samples_seen", "loss", "timestamp", "scheduler_type", "original_peak_lr")
_TABLE_TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class CanvasCheckpoint:
    """An imported checkpoint.

    Attributes:
      config: the model; positions `compat`, decode `full`, as the original computes.
      params: parameters of `CanvasModel`, NumPy float32; usable once `report.complete`.
      report: what became of every tensor.
      facts: what else the file says: `samples_seen`, `loss`, `timestamp`, ...
    """

    config: CanvasConfig
    params: dict[str, Any]
    report: Report
    facts: Mapping[str, Any]


def rules(head_dim: int) -> list[Rule | Ignored]:
    """The table of names; `head_dim` features per attention head."""
    table: list[Rule | Ignored] = [
        Rule("cls_token", "cls_token", keymap.flatten),
        Rule("mask_token", "mask_token", keymap.flatten),
        Rule("patch_embed.proj.weight", "patch_embed/kernel", keymap.patch_projection),
        Rule("patch_embed.proj.bias", "patch_embed/bias"),
        *(Ignored(name, "fixed position table, equal to ours") for name in TABLES),
    ]
    for theirs, ours in (
        ("norm", "encoder_norm"),
        ("decoder_norm", "decoder_norm"),
    ):
        table += _norm(theirs, ours)
    for theirs, ours in (("decoder_embed", "decoder_embed"), ("decoder_pred", "head")):
        table += _linear(theirs, ours)
    for theirs, ours in (("blocks", "encoder"), ("decoder_blocks", "decoder")):
        block, ours = f"{theirs}.{{i}}", f"{ours}/block_{{i}}"
        qkv = tuple(f"{ours}/attention/{name}" for name in ("query", "key", "value"))
        split = keymap.split_heads(3, head_dim)
        merge = keymap.merge_heads(head_dim)
        table += [
            *_norm(f"{block}.norm1", f"{ours}/norm1"),
            *_norm(f"{block}.norm2", f"{ours}/norm2"),
            Rule(f"{block}.attn.qkv.weight", tuple(f"{p}/kernel" for p in qkv), split),
            Rule(f"{block}.attn.qkv.bias", tuple(f"{p}/bias" for p in qkv), split),
            Rule(f"{block}.attn.proj.weight", f"{ours}/attention/out/kernel", merge),
            Rule(f"{block}.attn.proj.bias", f"{ours}/attention/out/bias"),
            *_linear(f"{block}.mlp.fc1", f"{ours}/mlp/fc1"),
            *_linear(f"{block}.mlp.fc2", f"{ours}/mlp/fc2"),
        ]
    return table


def _linear(theirs: str, ours: str) -> list[Rule]:
    return [
        Rule(f"{theirs}.weight", f"{ours}/kernel", keymap.transpose),
        Rule(f"{theirs}.bias", f"{ours}/bias"),
    ]


def _norm(theirs: str, ours: str) -> list[Rule]:
    return [Rule(f"{theirs}.weight", f"{ours}/scale"), Rule(f"{theirs}.bias", f"{ours}/bias")]


def read_canvas_pth(path: PathLike, *, head_dim: int = 64) -> CanvasCheckpoint:
    """Reads a checkpoint of the original.

    Args:
      path: the file.
      head_dim: features per attention head (dim 256 and 4 heads in the original).

    Raises:
      CheckpointError: unreadable, not of this kind, or its position tables are not those that the
        sizes imply. A tensor that is missing or does not fit is only reported.
    """
    saved = read_torch_file(path)
    if not isinstance(saved, Mapping) or "model_state_dict" not in saved:
        raise CheckpointError(
            "has no entry 'model_state_dict'",
            where=path,
            fix="Give a checkpoint saved by the original's training, not a bare state dict",
        )
    tensors = as_arrays(saved["model_state_dict"], where=path)
    config = infer_config(saved.get("config"), tensors, where=path, head_dim=head_dim)
    check_tables(config, tensors, where=path)
    blank = jax.ShapeDtypeStruct((1, *config.geometry.canvas_size, 3), jnp.float32)
    template = jax.eval_shape(CanvasModel(config).init, jax.random.key(0), blank)["params"]
    params, report = keymap.convert(rules(head_dim), tensors, template)
    facts = {name: saved[name] for name in _FACTS if name in saved}
    return CanvasCheckpoint(config, params, report, facts)


def infer_config(
    stored: Any, tensors: Mapping[str, NumpyArray], *, where: PathLike, head_dim: int = 64
) -> CanvasConfig:
    """The model configuration of a checkpoint.

    Args:
      stored: the file's `config`: frame_size, separator_width, canvas_history_size.
      tensors: its state dict.
      where: the file, for messages.
      head_dim: features per head.

    Raises:
      CheckpointError: an entry or a tensor that decides a size is missing or of an odd type or
        shape.
    """
    fields = ("frame_size", "separator_width", "canvas_history_size")
    missing = [f for f in fields if not isinstance(stored, Mapping) or f not in stored]
    if missing:
        raise CheckpointError(f"its config lacks {', '.join(missing)}", where=where)
    frame, separator, history = (stored[field] for field in fields)
    frame = (frame, frame) if isinstance(frame, int) else frame
    pair = isinstance(frame, (tuple, list)) and len(frame) == 2
    if not pair or any(type(size) is not int for size in (*frame, separator, history)):
        found = {field: stored[field] for field in fields}
        raise CheckpointError(
            f"its config must hold whole pixels and frames, got {found}", where=where
        )

    def shape(name: str, axes: int) -> tuple[int, ...]:
        if name not in tensors:
            raise CheckpointError(f"has no tensor {name!r}, needed to infer sizes", where=where)
        if len(tensors[name].shape) != axes:
            raise CheckpointError(
                f"tensor {name!r} has shape {tuple(tensors[name].shape)}, expected {axes} axes",
                where=where,
            )
        return tuple(tensors[name].shape)

    dim, _, patch, _ = shape("patch_embed.proj.weight", 4)
    decoder_dim, _ = shape("decoder_embed.weight", 2)
    hidden, _ = shape("blocks.0.mlp.fc1.weight", 2)
    geometry = CanvasGeometry((frame[0], frame[1]), history, separator, patch)
    return CanvasConfig(
        geometry,
        dim=dim,
        encoder_depth=_depth(tensors, "blocks"),
        decoder_dim=decoder_dim,
        decoder_depth=_depth(tensors, "decoder_blocks"),
        head_dim=head_dim,
        mlp_ratio=hidden / dim,
        positions="compat",
        decode="full",
    )


def _depth(tensors: Mapping[str, NumpyArray], stack: str) -> int:
    found = (re.match(rf"{stack}\.(\d+)\.", name) for name in tensors)
    return 1 + max((int(match.group(1)) for match in found if match), default=-1)


def check_tables(
    config: CanvasConfig, tensors: Mapping[str, NumpyArray], *, where: PathLike
) -> None:
    """Compares the stored position tables with those that `config` computes.

    Raises:
      CheckpointError: one is missing, of another size, or differs by more than 1e-4.
    """
    geometry = config.geometry
    for name, stack in TABLES.items():
        dim = config.dim if stack == "encoder" else config.decoder_dim
        if name not in tensors:
            raise CheckpointError(f"has no tensor {name!r}", where=where)
        stored = np.asarray(tensors[name])
        expected = (1, 1 + geometry.num_patches, dim)
        if stored.shape != expected:
            raise CheckpointError(
                f"position table {name!r} has shape {stored.shape}, a canvas of"
                f" {geometry.canvas_size} with patches of {geometry.patch} needs {expected}",
                where=where,
            )
        ours = sincos_grid(geometry.grid, dim, normalised=True)
        ours = np.concatenate([np.zeros((1, dim), np.float32), ours])
        error = float(np.max(np.abs(stored[0] - ours)))
        if not error <= _TABLE_TOLERANCE:
            raise CheckpointError(
                f"position table {name!r} differs from ours by {error:.2g}",
                where=where,
                fix="It was trained with other positions; such a model cannot be imported",
            )
