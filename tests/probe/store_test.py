"""The store: reads back what it wrote, as others do; episodes, back-pressure, refusals."""

import dataclasses
import json
import pathlib
import threading

import jax.numpy as jnp
import numpy as np
import pytest
import xarray
import zarr

from attn_jax.core.errors import LayoutError, RecordError
from attn_jax.core.record import AttentionRecord
from attn_jax.probe import arrays, codecs
from attn_jax.probe.schema import episode_folder, start_run
from attn_jax.probe.select import Selection
from attn_jax.probe.store import RecordReader, RecordWriter
from attn_jax.probe.verify import verify
from tests import testing
from tests.probe.fake_records import LAYOUT, call, expected, maps, write


@pytest.mark.parametrize("codec", codecs.CODECS)
@pytest.mark.parametrize("valid_keys_only", [False, True])
def test_what_is_written_is_read(tmp_path, codec, valid_keys_only):
    write(tmp_path, codec=codec, valid_keys_only=valid_keys_only, info={"prompt": "pick it up"})
    reader = RecordReader(tmp_path)
    assert reader.complete and reader.num_calls == 3 and reader.env_step == (0, 10, 20)
    assert reader.info == {"prompt": "pick it up"}
    assert reader.names == ("suffix", "suffix.entropy", "suffix.group_mass")
    record = reader.record("suffix")
    wrote = call(0)["suffix"]
    for field in ("stream", "layers", "heads", "denoise", "reduction", "layout", "complete_rows"):
        assert getattr(record, field) == getattr(wrote, field)
    bound = codecs.BOUNDS[codec].max_abs
    np.testing.assert_allclose(np.asarray(record.values), expected(3), atol=bound)
    error = np.abs(np.asarray(record.values) - expected(3)).max()
    attributes = zarr.open(reader.folder / "suffix" / "values", mode="r").attrs["codec"]
    said = attributes["measured_max_abs_error"]
    assert said == error
    assert attributes["bound_max_abs_error"] == bound >= said
    assert zarr.open_group(reader.folder / "suffix", mode="r").attrs["codec"] == attributes
    assert (np.asarray(record.values)[..., 4] == 0).all()
    assert record.select(query="action", key="image").shape == (3, 2, 2, 3, 2, 2, 2)


def test_reductions_keep_their_names_and_are_lossless(tmp_path):
    write(tmp_path, codec="u8row")
    mass = RecordReader(tmp_path).record("suffix.group_mass")
    np.testing.assert_array_equal(mass.values[1], call(1)["suffix.group_mass"].values[0])
    assert mass.select(query="action", key="pad").shape == (3, 2, 2, 3, 2, 1)
    assert np.isnan(RecordReader(tmp_path).record("suffix.entropy").values[..., 1]).all()


def test_encoded_and_device_arrays_are_written_like_host_arrays(tmp_path):
    def encoded(array):
        return codecs.encode_array(array, "float16", key_index=(0, 1, 2, 3, 5, 6))

    write(tmp_path / "host", valid_keys_only=True)
    for name, as_array in (("device", jnp.asarray), ("coded", encoded)):
        with RecordWriter(tmp_path / name, valid_keys_only=True) as writer:
            for number in range(3):
                writer.append(call(number, as_array), env_step=10 * number)
        for ours, theirs in zip(
            sorted((tmp_path / name).rglob("c.*")),
            sorted((tmp_path / "host").rglob("c.*")),
            strict=True,
        ):
            assert ours.read_bytes() == theirs.read_bytes()


def test_plain_zarr_reads_it(tmp_path):
    folder = write(tmp_path)
    group = zarr.open_group(folder / "suffix", mode="r")
    values = group["values"]
    assert values.shape == (3, 2, 2, 3, 7, 7) and values.dtype == np.float16
    assert values.metadata.dimension_names == (
        "call",
        "denoise",
        "layer",
        "head",
        "query",
        "key",
    )
    np.testing.assert_allclose(values[1], maps(1)[0], atol=1e-3)
    assert group.attrs["layers"] == [1, 3] and group.attrs["denoise"] == [0, 9]


def test_xarray_reads_it(tmp_path):
    folder = write(tmp_path, codec="u8row", valid_keys_only=True)
    with xarray.open_zarr(folder / "suffix", consolidated=False, chunks=None) as data:
        assert dict(data.sizes) == {
            "call": 3,
            "denoise": 2,
            "layer": 2,
            "head": 3,
            "query": 7,
            "key": 6,
        }
        probs = data["scale"] * (data["values"].astype("float32") / 255) ** 2
        probs = probs.assign_coords(layer=data.attrs["layers"], key=data["key_index"])
        ours = RecordReader(tmp_path).record("suffix").values[2, :, 1, ..., 6]
        np.testing.assert_allclose(probs.sel(call=2, layer=3, key=6), ours, rtol=1e-6)


def test_run_json_says_what_was_selected(tmp_path):
    selection = Selection.parse("layers=0;reduce=full")
    start_run(tmp_path, selection=selection, provenance={"seed": 3})
    write(tmp_path)
    data = json.loads((tmp_path / "run.json").read_text())
    assert data["selection"]["layers"] == [0] and data["provenance"] == {"seed": 3}


def test_episodes_and_how_they_are_chosen(tmp_path):
    for episode in (0, 12):
        with RecordWriter(tmp_path, episode) as writer:
            writer.append(call(episode), env_step=0)
    with pytest.raises(RecordError, match="2 episodes to choose from"):
        RecordReader(tmp_path)
    np.testing.assert_allclose(
        RecordReader(tmp_path, 12).record("suffix").values[0], maps(12)[0], atol=1e-3
    )
    assert RecordReader(episode_folder(tmp_path, 12)).meta["episode"] == 12
    with pytest.raises(RecordError, match="0 episodes"):
        RecordReader(tmp_path, 5)
    with pytest.raises(RecordError, match="no attention record here"):
        RecordReader(tmp_path / "nothing")
    with pytest.raises(RecordError, match="Known: suffix"):
        RecordReader(tmp_path, 0).record("prefix")


def test_caller_may_reuse_its_buffer(tmp_path):
    buffer = maps(0)
    with RecordWriter(tmp_path, codec="float32") as writer:
        for number in range(3):
            buffer[:] = maps(number)
            writer.append(
                [AttentionRecord("s", buffer, LAYOUT, (0, 1), (0, 1, 2), (0, 1))], env_step=0
            )
        buffer[:] = 0
    np.testing.assert_array_equal(
        np.asarray(RecordReader(tmp_path).record("s").values), expected(3)
    )


def test_queue_is_bounded_and_time_blocked_is_reported(tmp_path, monkeypatch):
    gate, entered = threading.Event(), threading.Event()
    real = arrays.write_call

    def slow(*arguments):
        entered.set()
        assert gate.wait(60)
        return real(*arguments)

    monkeypatch.setattr(arrays, "write_call", slow)
    writer = RecordWriter(tmp_path, queue_calls=2)
    writer.append(call(0), env_step=0)
    writer.append(call(1), env_step=1)
    assert entered.wait(60) and writer.num_committed == 0
    blocked_before = writer.time_blocked_s
    accepted = threading.Event()

    def third():
        writer.append(call(2), env_step=2)
        accepted.set()

    thread = threading.Thread(target=third)
    thread.start()
    assert not accepted.wait(0.2), "a third call must wait while two are in memory"
    gate.set()
    thread.join()
    writer.close()
    assert writer.time_blocked_s - blocked_before > 0.1
    assert RecordReader(tmp_path).num_calls == 3
    assert RecordReader(tmp_path).meta["time_blocked_s"] > 0.1


def test_refuses_to_write_over_a_complete_episode(tmp_path):
    write(tmp_path)
    with pytest.raises(RecordError, match="already complete"):
        RecordWriter(tmp_path)


def test_refuses_two_writers(tmp_path):
    writer = RecordWriter(tmp_path)
    with pytest.raises(RecordError, match="another process"):
        RecordWriter(tmp_path)
    writer.close()
    assert RecordReader(tmp_path).num_calls == 0


def refused_second(run, records, said):
    writer = RecordWriter(run)
    writer.append(call(0), env_step=10)
    with pytest.raises(RecordError, match=said):
        writer.append(records, env_step=10)
        writer.flush()
    writer.abort()
    assert RecordReader(run).num_calls == 1


def test_refuses_calls_that_differ(tmp_path):
    other = call(1)
    other["suffix"] = dataclasses.replace(other["suffix"], layers=(0, 1))
    refused_second(tmp_path / "labels", other, "differs .* in layers")
    missing = call(1)
    del missing["suffix.entropy"]
    refused_second(tmp_path / "missing", missing, "'suffix.entropy' is missing in this call")
    layout = dataclasses.replace(LAYOUT, keys=(0, 1, 2, 3, 4, 6, 5))
    moved = {name: dataclasses.replace(r, layout=layout) for name, r in call(1).items()}
    refused_second(tmp_path / "layout", moved, "tokens of record 'suffix' differ")


@pytest.mark.parametrize("resumed", [False, True])
def test_every_call_keeps_its_own_layout(tmp_path, resumed):
    groups = (*LAYOUT.groups[:2], dataclasses.replace(LAYOUT.groups[2], name="state"))
    other = dataclasses.replace(LAYOUT, groups=groups)
    writer = RecordWriter(tmp_path)
    for number, layout in enumerate((LAYOUT, other, LAYOUT)):
        if resumed and number == 2:
            writer.abort()
            writer = RecordWriter(tmp_path)
        records = {name: dataclasses.replace(r, layout=layout) for name, r in call(number).items()}
        writer.append(records, env_step=number)
    writer.close()
    record = RecordReader(tmp_path).record("suffix")
    assert record.call_layouts == (LAYOUT, other, LAYOUT)
    assert record.layout.names == ("image", "pad", "varying")
    np.testing.assert_allclose(
        record.select(key="image"), expected(3)[..., :4].reshape(3, 2, 2, 3, 7, 2, 2), atol=1e-3
    )
    with pytest.raises(LayoutError, match="unknown token group 'action'"):
        record.select(key="action")
    assert record.call(1).select(key="state").shape[-1] == 2
    assert verify(tmp_path).ok


def test_refuses_bad_calls_at_once(tmp_path):
    with RecordWriter(tmp_path) as writer:
        writer.append(call(0), env_step=10)
        with pytest.raises(RecordError, match="follows 10"):
            writer.append(call(1), env_step=9)
        with pytest.raises(RecordError, match="different names"):
            writer.append([call(1)["suffix"], call(2)["suffix"]], env_step=10)
        twice = AttentionRecord("s", expected(2), LAYOUT, (0, 1), (0, 1, 2), (0, 1))
        with pytest.raises(RecordError, match="2 calls at once"):
            writer.append([twice], env_step=10)
    with pytest.raises(RecordError, match="float16"):
        RecordWriter(tmp_path / "x", codec="bfloat16")
    with pytest.raises(RecordError, match="at least 1"):
        RecordWriter(tmp_path / "x", queue_calls=0)


def test_reader_names_damaged_metadata(tmp_path):
    folder = write(tmp_path)
    meta = json.loads((folder / "meta.json").read_text())

    def reading(change):
        (folder / "meta.json").write_text(json.dumps({**meta, **change}))
        reader = RecordReader(tmp_path)
        return reader.record("suffix")

    with pytest.raises(RecordError, match="schema version 99"):
        reading({"schema_version": 99})
    with pytest.raises(LayoutError, match="malformed token layout"):
        reading({"layouts": [{"length": 3}]})
    entry = {k: v for k, v in meta["arrays"]["suffix"].items() if k != "heads"}
    with pytest.raises(RecordError, match="'heads'"):
        reading({"arrays": {"suffix": entry}})
    entry = {**meta["arrays"]["suffix"], "layers": [0]}
    with pytest.raises(RecordError, match="its labels say"):
        reading({"arrays": {"suffix": entry}})


def test_no_file_holds_a_machine_path(tmp_path):
    write(tmp_path)
    for file in tmp_path.rglob("*.json*"):
        assert str(tmp_path) not in pathlib.Path(file).read_text()


if __name__ == "__main__":
    testing.main()
