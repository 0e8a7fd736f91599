from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from attn_jax.bridge.safetensors_reader import (
    Entry,
    fingerprint,
    open_safetensors,
    write_safetensors,
)
from attn_jax.core.errors import CheckpointError
from tests import testing


def arrays():
    rng = np.random.default_rng(0)
    return {
        "matrix": rng.standard_normal((5, 3)).astype(np.float32),
        "half": rng.standard_normal(7).astype(np.float16),
        "brain": rng.standard_normal((2, 2)).astype(ml_dtypes.bfloat16),
        "ids": np.arange(4),
        "flag": np.asarray([True, False]),
        "scalar": np.asarray(2.5, np.float32),
        "nothing": np.zeros((0, 4), np.float32),
    }


def entries(tensors):
    return {k: Entry(v.shape, v.dtype, lambda v=v: v) for k, v in tensors.items()}


def test_reads_what_the_library_writes(tmp_path):
    path, tensors = tmp_path / "a.safetensors", arrays()
    save_file(tensors, path, metadata={"format": "pt"})
    found = open_safetensors(path)
    assert sorted(found) == sorted(tensors) and found.metadata == {"format": "pt"}
    for name, tensor in tensors.items():
        assert found.shape(name) == tensor.shape and found.dtype(name) == tensor.dtype
        np.testing.assert_array_equal(found[name], tensor)


def test_the_library_reads_what_is_written(tmp_path):
    path, tensors = tmp_path / "a.safetensors", arrays()
    write_safetensors(path, entries(tensors), {"format": "pt"})
    found = load_file(path)
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        np.testing.assert_array_equal(found[name], tensor)
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_tensors_are_made_one_after_the_other_and_transposed_ones_are_written_in_order(tmp_path):
    made = []
    base = np.arange(6, dtype=np.float32).reshape(2, 3)

    def make(name):
        made.append(name)
        return base.T

    write_safetensors(
        tmp_path / "a", {n: Entry((3, 2), np.float32, lambda n=n: make(n)) for n in ("x", "y")}
    )
    assert made == ["x", "y"]
    np.testing.assert_array_equal(open_safetensors(tmp_path / "a")["y"], base.T)


def test_an_array_that_was_announced_differently_is_refused(tmp_path):
    bad = {"x": Entry((2,), np.float32, lambda: np.zeros(3, np.float32))}
    with pytest.raises(ValueError, match="announced"):
        write_safetensors(tmp_path / "a", bad)
    assert not (tmp_path / "a").exists()
    with pytest.raises(ValueError, match="no dtype complex64"):
        write_safetensors(tmp_path / "a", {"x": Entry((2,), np.complex64, lambda: bad)})


def _header(tensor) -> bytes:
    text = json.dumps({"x": tensor}).encode()
    return len(text).to_bytes(8, "little") + text


GOOD = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "header"),
        (b"\xff" * 20, "header"),
        ((4).to_bytes(8, "little") + b"{{{{", "no JSON"),
        ((2).to_bytes(8, "little") + b"[]", "no JSON object"),
        (_header({**GOOD, "dtype": "F99"}) + bytes(8), "describes 'x'"),
        (_header({**GOOD, "shape": None}) + bytes(8), "describes 'x'"),
        (_header(GOOD) + bytes(7), "outside the file"),
        (_header({**GOOD, "shape": [3]}) + bytes(8), "8 bytes for shape"),
        (_header({**GOOD, "shape": [-2]}) + bytes(8), "outside the file"),
    ],
)
def test_damaged_files_are_refused(tmp_path, data, message):
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(CheckpointError, match=message):
        open_safetensors(tmp_path / "a")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        open_safetensors(tmp_path / "a")


def test_fingerprints(tmp_path):
    """Equal for equal files; another for other weights under the same header, or other metadata."""
    tensors = arrays()
    paths = [tmp_path / f"{i}.safetensors" for i in range(4)]
    write_safetensors(paths[0], entries(tensors))
    write_safetensors(paths[1], entries(tensors))
    write_safetensors(paths[2], entries(tensors | {"scalar": np.asarray(3.5, np.float32)}))
    write_safetensors(paths[3], entries(tensors), {"format": "pt"})
    first, *others = (fingerprint(path) for path in paths)
    assert first == others[0] and len({first, *others}) == 3
    assert first.startswith("sha256:") and len(first) == 7 + 64
    with pytest.raises(CheckpointError, match="no such file"):
        fingerprint(tmp_path / "nothing")


if __name__ == "__main__":
    testing.main()
