"""Arrays on disk: chunks as promised, lazy slices like NumPy, full disks."""

import errno
import json

import hypothesis
import numpy as np
import pytest
import tensorstore as ts
import zarr
from hypothesis import strategies as st

from attn_jax.core.errors import DiskFullError, RecordError
from attn_jax.probe import arrays
from attn_jax.probe.codecs import encode_array
from tests import testing

CALL = (2, 3, 4, 5, 6)


def rows(calls=3, keys=6):
    p = np.random.default_rng(0).random((calls, *CALL[:-1], keys)).astype(np.float32)
    return p / p.sum(-1, keepdims=True)


def lazy(folder, codec, key_index=None):
    p = rows()
    if key_index is not None:
        p[..., np.setdiff1d(np.arange(6), key_index)] = 0
    coded = encode_array(p, codec, key_index=key_index)
    values = arrays.create(folder / "values", str(coded.data.dtype), coded.data.shape[1:])
    scale = None
    if coded.scale is not None:
        scale = arrays.create(folder / "scale", "float32", coded.scale.shape[1:])
    for call in range(3):
        arrays.write_call(folder / "values", values, call, coded.data[call])
        if scale is not None:
            arrays.write_call(folder / "scale", scale, call, coded.scale[call])
    index = None if key_index is None else np.asarray(key_index)
    opened = arrays.LazyValues(values, scale, codec=codec, key_index=index, num_keys=6, num_calls=3)
    return opened, np.asarray(coded)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stored")
    return {
        (codec, index): lazy(folder / f"{codec}{index is None}", codec, index)
        for codec in ("float16", "u8row")
        for index in (None, (0, 2, 5))
    }


def axis_index(size):
    bound = st.none() | st.integers(-size - 1, size + 1)
    step = st.sampled_from([None, 1, 2, -1, -2])
    return st.one_of(st.integers(-size, size - 1), st.builds(slice, bound, bound, step))


@st.composite
def indices(draw):
    """An index into (3, *CALL): some axes from the front, then perhaps `...` and the last."""
    shape = (3, *CALL)
    index = tuple(draw(axis_index(size)) for size in shape[: draw(st.integers(0, 6))])
    if len(index) < 6 and draw(st.booleans()):
        index = (*index, ..., draw(axis_index(6)))
    return index


@hypothesis.given(
    index=indices(),
    codec=st.sampled_from(["float16", "u8row"]),
    kept=st.sampled_from([None, (0, 2, 5)]),
)
def test_slices_like_numpy(stored, index, codec, kept):
    values, expected = stored[codec, kept]
    np.testing.assert_array_equal(values[index], expected[index])


def test_lazy_values_look_like_an_array(stored):
    values, expected = stored["u8row", (0, 2, 5)]
    assert values.shape == expected.shape == (3, *CALL) and len(values) == 3
    np.testing.assert_array_equal(np.asarray(values), expected)
    assert np.asarray(values, np.float64).dtype == np.float64
    assert values[1].dtype == np.float32
    with pytest.raises(IndexError, match=r"numpy.asarray"):
        values[[0, 1]]
    with pytest.raises(IndexError, match="length 3"):
        values[3]
    with pytest.raises(IndexError, match="too many"):
        values[0, 0, 0, 0, 0, 0, 0]


def test_metadata_is_what_the_format_promises(tmp_path):
    arrays.create(tmp_path / "a", "float16", CALL, {"unit": "none"})
    data = json.loads((tmp_path / "a" / "zarr.json").read_text())
    assert data["dimension_names"] == ["call", "denoise", "layer", "head", "query", "key"]
    assert data["chunk_grid"]["configuration"]["chunk_shape"] == [1, *CALL]
    (sharding,) = data["codecs"]
    assert sharding["configuration"]["chunk_shape"] == [1, 1, 1, 4, 5, 6]
    blosc = sharding["configuration"]["codecs"][1]["configuration"]
    assert (blosc["cname"], blosc["clevel"], blosc["shuffle"]) == ("zstd", 3, "bitshuffle")
    assert [codec["name"] for codec in sharding["configuration"]["index_codecs"]] == [
        "bytes",
        "crc32c",
    ]
    assert data["attributes"] == {"unit": "none"}


def test_a_path_may_go_up(tmp_path):
    (tmp_path / "beside").mkdir()
    folder = tmp_path / "beside" / ".." / "values"
    array = arrays.create(folder, "float16", CALL)
    arrays.write_call(folder, array, 0, rows()[0].astype(np.float16)[..., :6])
    np.testing.assert_array_equal(
        arrays.read_vector(folder), arrays.read_vector(tmp_path / "values")
    )


def test_a_call_is_one_file_and_the_array_grows(tmp_path):
    array = arrays.create(tmp_path / "a", "float32", (1, 1, 1, 2, 2))
    map_ = np.zeros((1, 1, 1, 2, 2), np.float32)
    crc = ""
    for call in range(arrays.INITIAL_CALLS + 1):
        array, crc = arrays.write_call(tmp_path / "a", array, call, map_ + call)
    assert array.shape[0] == 2 * arrays.INITIAL_CALLS
    file = arrays.shard_path(tmp_path / "a", arrays.INITIAL_CALLS, 6)
    assert arrays.checksum(file) == crc and len(crc) == 8
    arrays.resize(tmp_path / "a", array, arrays.INITIAL_CALLS + 1)
    read = zarr.open_array(tmp_path / "a", mode="r")
    assert read.shape[0] == arrays.INITIAL_CALLS + 1
    np.testing.assert_array_equal(read[:, 0, 0, 0, 0, 0], np.arange(arrays.INITIAL_CALLS + 1))


@pytest.mark.parametrize("dtype", ["float16", "float32", "uint8"])
def test_all_zero_maps_are_written(tmp_path, dtype):
    array = arrays.create(tmp_path / "a", dtype, CALL)
    arrays.write_call(tmp_path / "a", array, 0, np.zeros(CALL, dtype))
    assert arrays.shard_path(tmp_path / "a", 0, 6).stat().st_size > 0
    assert (arrays.open_array(tmp_path / "a")[0].read().result() == 0).all()


def test_unwritten_calls_cannot_pass_for_data(tmp_path):
    array = arrays.create(tmp_path / "a", "float16", CALL)
    assert np.isnan(array[5].read().result()).all()


@pytest.mark.parametrize(("codec", "part"), [("float16", "values"), ("u8row", "scale")])
def test_a_lost_or_cut_call_is_an_error_and_no_data(tmp_path, codec, part):
    values, _ = lazy(tmp_path, codec)
    file = arrays.shard_path(tmp_path / part, 1, 6 if part == "values" else 5)
    whole = file.read_bytes()
    file.unlink()
    for read in (lambda: values[1], lambda: values[:], lambda: values.codes(1)):
        with pytest.raises(RecordError, match=rf"{part}: file of call 1 is missing\. launch"):
            read()
    assert np.isfinite(values[0]).all() and np.isfinite(values[2]).all()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RecordError, match="calls 1 to 1 cannot be read"):
        values[1]
    file.write_bytes(whole)
    assert np.isfinite(values[:]).all()


def test_one_map_reads_one_inner_chunk(tmp_path):
    shape = (6, 5, 4, 50, 200)
    array = arrays.create(tmp_path / "a", "float16", shape)
    data = np.random.default_rng(0).random(shape).astype(np.float16)
    arrays.write_call(tmp_path / "a", array, 0, data)
    values = arrays.LazyValues(
        arrays.open_array(tmp_path / "a"),
        None,
        codec="float16",
        key_index=None,
        num_keys=200,
        num_calls=1,
    )

    def bytes_read():
        found = ts.experimental_collect_matching_metrics("/tensorstore/kvstore/file/bytes_read")
        return found[0]["values"][0]["value"] if found else 0

    before = bytes_read()
    np.testing.assert_array_equal(values[0, 3, 2], data[3, 2])
    one_map = data[0, 0].nbytes
    assert 0.3 * one_map < bytes_read() - before < 1.5 * one_map < 0.1 * data.nbytes


def test_discards_uncommitted_and_half_written_files(tmp_path):
    for name in ("c.0.0.0", "c.1.0.0", "c.12.0.0", "c.1.0.0.__lock", "zarr.json"):
        (tmp_path / name).write_text("x")
    arrays.discard_from(tmp_path, 1)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["c.0.0.0", "zarr.json"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_full_disk_has_its_own_error(code, tmp_path):
    with pytest.raises(DiskFullError, match="stays readable"), arrays.disk_errors(tmp_path):
        raise OSError(code, "told so")
    with pytest.raises(DiskFullError), arrays.disk_errors(tmp_path):
        raise ValueError(f"OUT_OF_RANGE: Failed to write [os_error_code='{code}']")


def test_other_errors_pass(tmp_path):
    for error in (OSError(errno.EACCES, "no"), ValueError("no"), RecordError("no")):
        with pytest.raises(type(error)) as caught, arrays.disk_errors(tmp_path):
            raise error
        assert caught.value is error


def test_file_size_limit_is_found_in_the_error_of_tensorstore():
    testing.run_script(
        """
        import pathlib, resource, tempfile
        import numpy as np, pytest
        from attn_jax.core.errors import DiskFullError
        from attn_jax.probe import arrays
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name) / "a"
            array = arrays.create(folder, "float32", (1, 1, 1, 100, 100))
            data = np.random.default_rng(0).random((1, 1, 1, 100, 100)).astype(np.float32)
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
            with pytest.raises(DiskFullError, match="file too large"), arrays.disk_errors(folder):
                arrays.write_call(folder, array, 0, data)
        """
    )


def test_damaged_files_are_named(tmp_path):
    with pytest.raises(RecordError, match="cannot be opened"):
        arrays.open_array(tmp_path / "none")
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(RecordError, match=r"x\.json: file is no JSON"):
        arrays.read_json(tmp_path / "x.json")
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(RecordError, match="no JSON object"):
        arrays.read_json(tmp_path / "x.json")
    with pytest.raises(RecordError, match="missing"):
        arrays.read_json(tmp_path / "y.json")


def test_json_is_replaced_whole(tmp_path):
    arrays.write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(TypeError):
        arrays.write_json(tmp_path / "x.json", {"a": object()})
    assert arrays.read_json(tmp_path / "x.json") == {"a": 1}


if __name__ == "__main__":
    testing.main()
