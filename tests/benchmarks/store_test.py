"""The store benchmark measures what it says, on arrays small enough for a test."""

import numpy as np
import pytest

from attn_jax.probe.codecs import BOUNDS
from benchmarks import store
from tests import testing

SIZE = store.Size(2, (2, 1, 2, 16, 128), 90, 0)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return store.measure(SIZE, 1, tmp_path_factory.mktemp("bench"))


def test_every_format_returns_the_maps(table):
    assert {*store.OURS, store.HDF5} <= set(table)
    for name, row in table.items():
        codec = name.split(",")[0].removeprefix("ours ")
        limit = BOUNDS[codec].max_abs if name in store.OURS else 0
        assert row["max_abs_error"] <= limit, name


def test_smaller_codecs_take_less_room(table):
    sizes = [table[f"ours {codec}"]["bytes"] for codec in ("float32", "float16", "u8row")]
    assert sizes == sorted(sizes, reverse=True)


def test_bytes_before_compression_follow_from_the_shapes(table):
    maps = SIZE.calls * int(np.prod(SIZE.shape[:-1]))
    raw = {name: row["raw_bytes"] for name, row in table.items()}
    assert raw["ours float32"] == raw[store.HDF5] == 4 * maps * SIZE.shape[-1]
    assert raw["ours float32, valid keys"] == 4 * maps * SIZE.valid_keys
    assert raw["ours float16, valid keys"] == 2 * maps * SIZE.valid_keys
    assert raw["ours u8row"] == maps * (SIZE.shape[-1] + 4)  # a float32 scale per row


def test_maps_are_attention():
    maps = store.make_maps(SIZE, 0)
    assert maps.shape == (1, *SIZE.shape) and (maps[..., SIZE.valid_keys :] == 0).all()
    np.testing.assert_allclose(maps.sum(-1), 1, atol=1e-5)


def test_table_has_a_line_per_format_and_ratios(table):
    lines = store.render(table, store.HDF5, SIZE).splitlines()
    assert len(lines) == 3 + len(table)
    reference = next(line for line in lines if line.startswith(store.HDF5))
    assert reference.count("(1.0x)") == 3 and "not measured" in reference


if __name__ == "__main__":
    testing.main()
