from __future__ import annotations

import os
import pathlib

import ml_dtypes
import numpy as np
import pytest

from attn_jax.bridge.torch_weights import as_arrays, read_torch_file, write_torch_file
from attn_jax.core.errors import CheckpointError
from tests import testing

testing.require_module("torch")
pytestmark = pytest.mark.bridge


@pytest.fixture
def torch():
    import torch

    return torch


def test_arrays_have_the_values_and_types_of_the_tensors(torch, tmp_path):
    tensors = {
        "a": torch.randn(3, 4),
        "half": torch.randn(5).to(torch.bfloat16),
        "scalar": torch.tensor(3),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    torch.save(tensors, tmp_path / "x.pt")
    arrays = as_arrays(read_torch_file(tmp_path / "x.pt"), where="x.pt")
    assert list(arrays) == list(tensors)
    np.testing.assert_array_equal(arrays["a"], tensors["a"].numpy())
    assert arrays["half"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(
        arrays["half"].astype(np.float32), tensors["half"].float().numpy()
    )
    assert arrays["scalar"] == 3 and arrays["scalar"].shape == ()
    np.testing.assert_array_equal(arrays["parameter"], np.ones(2))


def test_written_files_are_read_weights_only(torch, tmp_path):
    whole = np.arange(10000, dtype=np.float32).reshape(100, 100)
    value = {"steps": [{3: {"map": whole[:1], "time": 0.5}}], "name": "x", "none": None}
    write_torch_file(tmp_path / "x.pt", value)
    again = torch.load(tmp_path / "x.pt", weights_only=True)
    np.testing.assert_array_equal(again["steps"][0][3]["map"].numpy(), whole[:1])
    assert again["steps"][0][3]["time"] == 0.5 and again["name"] == "x" and again["none"] is None
    # The slice alone, not the array that it was taken from.
    assert (tmp_path / "x.pt").stat().st_size < 3000
    assert not list(tmp_path.glob("*.partial"))


class Malicious:
    def __init__(self, path: pathlib.Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_code_in_a_file_is_refused_and_not_run(torch, tmp_path):
    torch.save({"w": Malicious(tmp_path / "made")}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="objects other than weights"):
        read_torch_file(tmp_path / "x.pt")
    assert not (tmp_path / "made").exists()


def test_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        read_torch_file(tmp_path / "x.pt")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut off"])
def test_a_file_that_torch_did_not_write(content, tmp_path):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x\.pt"):
        read_torch_file(tmp_path / "x.pt")


def test_a_truncated_file(torch, tmp_path):
    torch.save({"w": torch.randn(1000)}, tmp_path / "x.pt")
    whole = (tmp_path / "x.pt").read_bytes()
    (tmp_path / "x.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"x\.pt"):
        read_torch_file(tmp_path / "x.pt")


def test_entries_that_are_no_tensors_are_named(torch):
    with pytest.raises(CheckpointError, match=r"'epoch'.*int"):
        as_arrays({"w": torch.ones(1), "epoch": 3}, where="x.pt")
    with pytest.raises(CheckpointError, match="list"):
        as_arrays([1], where="x.pt")


if __name__ == "__main__":
    testing.main()
