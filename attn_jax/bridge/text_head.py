"""The output layer of the language model inside a Pi0.5 checkpoint, which actions do not need.

A LeRobot file has it as `lm_head.weight`. Where the file has none, the token embedding can stand in
for it, to which it is tied in PaliGemma, but only when that is asked for: a fine-tuned embedding
need not be the head.

    head = read_text_head(open_checkpoint("checkpoint"), params)          # (vocab, width)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from attn_jax.bridge.checkpoint_folder import OpenCheckpoint
from attn_jax.bridge.pi05 import WEIGHTS
from attn_jax.bridge.pi05_table import LM_HEAD
from attn_jax.bridge.safetensors_reader import open_safetensors
from attn_jax.core.errors import CheckpointError
from attn_jax.core.typing import AnyArray

FIX = "Ask for the tied head (--tied), which is the token embedding, or give a checkpoint with one"


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
    embedding: Any = params["embedding"]
    if tied:
        return embedding
    where = checkpoint.folder
    if checkpoint.kind != "lerobot":
        raise CheckpointError("trained runs keep no text head", where=where, fix=FIX)
    tensors = open_safetensors(where / WEIGHTS)
    name = next((n for n in (LM_HEAD, LM_HEAD.removeprefix("model.")) if n in tensors), None)
    if name is None:
        raise CheckpointError(
            f"has no text head: no tensor {LM_HEAD!r}", where=where / WEIGHTS, fix=FIX
        )
    if tensors.shape(name) != embedding.shape:
        raise CheckpointError(
            f"{name!r} has shape {tensors.shape(name)}, the token embedding {embedding.shape}",
            where=where / WEIGHTS,
        )
    return np.array(tensors[name], embedding.dtype)
