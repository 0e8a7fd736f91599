"""Finding and checking the files of checkpoints; see also checkpoints_test."""

import logging as logging_std

import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging

from attn_jax.core.errors import CheckpointError
from attn_jax.train.checkpoint_files import (
    checksum,
    find_checkpoint,
    load_part,
    read_metadata,
    step_folder,
    verify,
)
from tests import testing


def test_finds_by_number_not_by_name(tmp_path):
    for name in ("9", "10", "11.orbax-checkpoint-tmp", "notes"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert find_checkpoint(tmp_path).name == "10"
    assert find_checkpoint(tmp_path / "checkpoints", 9).name == "9"
    with pytest.raises(CheckpointError, match="no step 11"):
        find_checkpoint(tmp_path, 11)
    with pytest.raises(CheckpointError, match="no checkpoint here"):
        find_checkpoint(tmp_path / "checkpoints" / "9")
    with pytest.raises(CheckpointError):
        step_folder(tmp_path, 3)


def test_unreadable_parts_are_checkpoint_errors(tmp_path):
    (tmp_path / "1").mkdir()
    for call in (
        lambda: read_metadata(tmp_path / "1"),
        lambda: load_part(tmp_path / "1", "host", None),
        lambda: find_checkpoint(tmp_path, "best"),
    ):
        with pytest.raises(CheckpointError, match=r"damaged|not a checkpoint"):
            call()


def test_checksums_see_every_bit(tmp_path):
    leaf = jnp.arange(6.0).reshape(2, 3)
    sums = {"params/w": checksum(leaf)}
    verify(tmp_path, "params", {"params/w": leaf, "params/unknown": leaf}, sums)
    changed = np.asarray(leaf).copy()
    changed.view(np.uint8).reshape(-1)[5] ^= 1
    with pytest.raises(CheckpointError, match="params/w is damaged"):
        verify(tmp_path, "params", {"params/w": jnp.asarray(changed)}, sums)


def test_scalars_and_bfloat16_have_checksums():
    assert checksum(jnp.asarray(3, jnp.int32)) != checksum(jnp.asarray(4, jnp.int32))
    assert checksum(jnp.ones(3, jnp.bfloat16)) != checksum(jnp.zeros(3, jnp.bfloat16))


def test_inner_steps_of_orbax_are_not_logged():
    def passes(path, level, raised=None):
        record = logging_std.LogRecord("absl", level, path, 1, "text", None, raised)
        return logging.get_absl_logger().filter(record)

    assert not passes("site-packages/orbax/checkpoint/x.py", logging_std.INFO)
    assert passes("site-packages/orbax/checkpoint/x.py", logging_std.WARNING)
    error = (ValueError, ValueError("x"), None)
    assert not passes("site-packages/orbax/checkpoint/x.py", logging_std.ERROR, error)
    assert passes("launch/app.py", logging_std.INFO)
    assert passes("launch/app.py", logging_std.ERROR, error)


if __name__ == "__main__":
    testing.main()
