from __future__ import annotations

import functools

import numpy as np
import pytest

from attn_jax.bridge.checkpoint_folder import open_checkpoint
from attn_jax.bridge.pi05_table import LM_HEAD
from attn_jax.bridge.pi05_write import write_pi05
from attn_jax.bridge.safetensors_reader import Entry, open_safetensors, write_safetensors
from attn_jax.bridge.text_head import read_text_head
from attn_jax.core.errors import CheckpointError
from attn_jax.models.pi05 import Pi05Config
from tests import testing
from tests.models.pi05 import small

CONFIG = Pi05Config(small.SIZES, ("base",), 4, 8, chunk_size=4, n_action_steps=2)
SHAPE = (small.SIZES.vocab, small.SIZES.width)


def checkpoint(folder, head):
    """A folder whose output layer is `head`: an array, or None for a file without one."""
    write_pi05(folder, CONFIG, small.params(CONFIG))
    whole = (folder / "model.safetensors").rename(folder / "whole.safetensors")
    tensors = open_safetensors(whole)
    entries = {
        name: Entry(tensors.shape(name), tensors.dtype(name), functools.partial(tensors.get, name))
        for name in tensors
        if name != LM_HEAD
    }
    if head is not None:
        entries[LM_HEAD] = Entry(head.shape, head.dtype, lambda: head)
    write_safetensors(folder / "model.safetensors", entries)
    return open_checkpoint(folder)


def test_the_heads_own_rows_are_read_and_not_the_embedding(tmp_path):
    rows = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    opened = checkpoint(tmp_path, rows)
    params = opened.params()
    np.testing.assert_array_equal(read_text_head(opened, params), rows)
    assert read_text_head(opened, params, tied=True) is params["embedding"]


def test_a_checkpoint_without_a_head_is_refused_unless_tied(tmp_path):
    opened = checkpoint(tmp_path, None)
    params = small.params(CONFIG)
    with pytest.raises(CheckpointError, match=r"no text head.*--tied"):
        read_text_head(opened, params)
    assert read_text_head(opened, params, tied=True) is params["embedding"]


def test_a_head_of_another_size_is_refused(tmp_path):
    opened = checkpoint(tmp_path, np.zeros((SHAPE[0] - 1, SHAPE[1]), np.float32))
    with pytest.raises(CheckpointError, match="has shape"):
        read_text_head(opened, small.params(CONFIG))


if __name__ == "__main__":
    testing.main()
