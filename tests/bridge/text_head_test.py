from __future__ import annotations

import functools

import ml_dtypes
import numpy as np
import pytest

from attn_jax.bridge.checkpoint_folder import open_checkpoint
from attn_jax.bridge.pi05_table import EXPERT_LM_HEAD, LM_HEAD
from attn_jax.bridge.pi05_write import write_pi05
from attn_jax.bridge.safetensors_reader import Entry, open_safetensors, write_safetensors
from attn_jax.bridge.text_head import keep_heads, read_text_head, stored_heads
from attn_jax.core.errors import CheckpointError
from attn_jax.models.pi05 import Pi05Config
from tests import testing
from tests.bridge.checkpoint_folder_test import save_run
from tests.models.pi05 import small

CONFIG = Pi05Config(small.SIZES, ("base",), 4, 8, chunk_size=4, n_action_steps=2)
SHAPE = (small.SIZES.vocab, small.SIZES.width)


def checkpoint(folder, head):
    """A folder whose output layer is `head`: an array, or None for a file without one."""
    folder.mkdir(exist_ok=True)
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


def test_heads_go_with_a_run_and_come_back_bit_for_bit(tmp_path):
    rows = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    expert = np.random.default_rng(1).standard_normal((SHAPE[0], small.SIZES.expert_width))
    opened = checkpoint(tmp_path / "lerobot", rows)
    heads = {**stored_heads(opened)}
    heads[EXPERT_LM_HEAD] = Entry(expert.shape, np.float32, lambda: expert.astype(np.float32))
    write_pi05(tmp_path / "lerobot", CONFIG, small.params(CONFIG), heads=_read_now(heads))
    opened = open_checkpoint(tmp_path / "lerobot")
    save_run(tmp_path / "run", small.params(CONFIG), settings={}, model=CONFIG.to_json())
    keep_heads(opened, tmp_path / "run")
    run = open_checkpoint(tmp_path / "run")
    params = run.params()
    np.testing.assert_array_equal(read_text_head(run, params), rows)
    write_pi05(tmp_path / "again", CONFIG, params, heads=stored_heads(run))
    again = open_safetensors(tmp_path / "again" / "model.safetensors")
    np.testing.assert_array_equal(again[LM_HEAD], rows)
    np.testing.assert_array_equal(again[EXPERT_LM_HEAD], expert.astype(np.float32))


def _read_now(heads):
    """The file that they come from is about to be written."""
    arrays = {name: np.array(entry.make()) for name, entry in heads.items()}
    return {name: Entry(x.shape, x.dtype, lambda x=x: x) for name, x in arrays.items()}


def test_heads_take_the_dtype_of_the_matrices(tmp_path):
    rows = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    checkpoint(tmp_path, rows)
    opened = open_checkpoint(tmp_path, precision="bfloat16_lerobot")
    found = read_text_head(opened, opened.params())
    np.testing.assert_array_equal(found, rows.astype(ml_dtypes.bfloat16))
    assert found.dtype == ml_dtypes.bfloat16


def test_a_run_without_a_head_is_refused_unless_tied(tmp_path):
    save_run(tmp_path, small.params(CONFIG), settings={}, model=CONFIG.to_json())
    run = open_checkpoint(tmp_path)
    keep_heads(run, tmp_path / "other")
    assert not (tmp_path / "other").exists()
    with pytest.raises(CheckpointError, match=r"no text head: a run.*--tied"):
        read_text_head(run, small.params(CONFIG))


def test_a_head_of_another_size_is_refused(tmp_path):
    opened = checkpoint(tmp_path, np.zeros((SHAPE[0] - 1, SHAPE[1]), np.float32))
    with pytest.raises(CheckpointError, match="has shape"):
        read_text_head(opened, small.params(CONFIG))


if __name__ == "__main__":
    testing.main()
