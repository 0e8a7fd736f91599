"""The output layers inside a Pi0.5 checkpoint, which actions do not need: kept, moved, read.

A LeRobot file has two, `lm_head.weight` of the language model, which answers questions, and one of
the action expert, which nothing uses. Both are kept as they are, because a fine-tuned embedding
need not be the head: a run has them in `text_heads.safetensors` beside its checkpoints. Where a
checkpoint has none, the token embedding can stand in for the first, to which it is tied in
PaliGemma, but only when that is asked for.

    head = read_text_head(open_checkpoint("checkpoint"), params)          # (vocab, width)
    keep_heads(open_checkpoint("checkpoint"), "runs/fine_tuned")
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from attn_jax.bridge.checkpoint_folder import OpenCheckpoint
from attn_jax.bridge.pi05 import WEIGHTS
from attn_jax.bridge.pi05_table import EXPERT_LM_HEAD, LM_HEAD
from attn_jax.bridge.safetensors_reader import Entry, open_safetensors, write_safetensors
from attn_jax.core.errors import CheckpointError
from attn_jax.core.typing import AnyArray, PathLike

HEADS = "text_heads.safetensors"
FIX = "Ask for the tied head (--tied), which is the token embedding, or give a checkpoint with one"


def stored_heads(checkpoint: OpenCheckpoint) -> dict[str, Entry]:
    """The heads that a checkpoint has, LeRobot's name -> tensor in the file's own dtype.

    Raises:
      CheckpointError: a damaged file, or a head of another size than the model's.
    """
    path = checkpoint.folder / (WEIGHTS if checkpoint.kind == "lerobot" else HEADS)
    if checkpoint.kind != "lerobot" and not path.exists():
        return {}
    tensors = open_safetensors(path)
    sizes = checkpoint.config.architecture
    found: dict[str, Entry] = {}
    for canonical, width in ((LM_HEAD, sizes.width), (EXPERT_LM_HEAD, sizes.expert_width)):
        names = (canonical, canonical.removeprefix("model."))
        name = next((name for name in names if name in tensors), None)
        if name is None:
            continue
        shape = (sizes.vocab, width)
        if tensors.shape(name) != shape:
            raise CheckpointError(
                f"{name!r} has shape {tensors.shape(name)}, the model needs {shape}", where=path
            )
        dtype = np.dtype(tensors.dtype(name))
        found[canonical] = Entry(shape, dtype, functools.partial(tensors.__getitem__, name))
    return found


def keep_heads(checkpoint: OpenCheckpoint, folder: PathLike) -> None:
    """Writes the heads of a checkpoint beside those of a run, where they are found again.

    Args:
      checkpoint: where they come from; one without heads writes nothing.
      folder: of the run; made when it does not exist.

    Raises:
      CheckpointError: see `stored_heads`.
    """
    heads = stored_heads(checkpoint)
    if heads:
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_safetensors(folder / HEADS, heads)


def read_text_head(
    checkpoint: OpenCheckpoint, params: Mapping[str, Any], *, tied: bool = False
) -> AnyArray:
    """Rows of the output layer, (vocab, width), in the dtype of the model's matrices.

    Args:
      checkpoint: the folder.
      params: its parameters.
      tied: take the token embedding instead of the checkpoint's own head.

    Raises:
      CheckpointError: the checkpoint has no head, or one of another size.
    """
    if tied:
        return params["embedding"]
    heads = stored_heads(checkpoint)
    if LM_HEAD not in heads:
        raise CheckpointError(
            "has no text head: a run has one only when it started from a checkpoint with one"
            if checkpoint.kind != "lerobot"
            else f"has no text head: no tensor {LM_HEAD!r}",
            where=checkpoint.folder,
            fix=FIX,
        )
    # A copy, so that nothing hangs on the file.
    return np.array(heads[LM_HEAD].make(), np.dtype(checkpoint.config.dtype))
