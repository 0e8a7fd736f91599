"""Tests of attn_jax.viz.canvas_run."""

import dataclasses

import numpy as np
import pytest

from attn_jax.core.errors import RecordError
from attn_jax.core.record import AttentionRecord
from attn_jax.probe.store import RecordWriter
from attn_jax.viz.canvas_run import load_canvas_run
from attn_jax.viz.report import ReportError
from tests import testing
from tests.viz import canvas_runs


@pytest.fixture
def folders(tmp_path):
    evaluation, train = tmp_path / "evaluation", tmp_path / "train"
    canvas_runs.write(canvas_runs.run(), evaluation, train)
    return evaluation, train


def test_a_run_comes_back_from_its_folders(folders):
    source, read = canvas_runs.run(), load_canvas_run(*folders)
    assert read.evaluation == source.evaluation
    assert read.metrics == source.metrics
    assert read.geometry == canvas_runs.GEOMETRY
    assert read.action_names == canvas_runs.ACTIONS
    assert read.action_colours.tolist() == [list(c) for c in canvas_runs.STRIPES]
    assert read.records == {}
    assert set(read.pictures) == set(source.pictures)
    for name, array in source.pictures.items():
        np.testing.assert_array_equal(read.pictures[name], array)


def test_curves_take_only_lines_that_hold_the_series(folders):
    x, y = load_canvas_run(*folders).curve("validation/plain_mse")
    assert len(x) == len(y) == 20 and x[0] == 520.0
    assert load_canvas_run(*folders).curve("nothing") == ([], [])


def test_attention_is_read_from_a_record_store(folders):
    source = canvas_runs.run().records
    with RecordWriter(folders[0] / "attention", codec="float32") as writer:
        for call in range(3):
            one = {
                name: dataclasses.replace(r, values=r.values[call : call + 1])
                for name, r in source.items()
            }
            writer.append(one, env_step=call)
    read = load_canvas_run(*folders)
    assert set(read.records) == {"decoder", "encoder"}
    for name, record in read.records.items():
        np.testing.assert_array_equal(np.asarray(record.values[2]), source[name].values[2])
        assert record.layout == source[name].layout
    chunk = next((folders[0] / "attention").glob("**/decoder/values/c.1.*"))
    damaged = bytearray(chunk.read_bytes())
    damaged[len(damaged) // 2] ^= 0x40
    chunk.write_bytes(damaged)
    with pytest.raises(RecordError, match=r"decoder: checksum of values is wrong \(call 1\)"):
        load_canvas_run(*folders)


def test_maps_without_some_keys_are_no_whole_maps(folders):
    whole = canvas_runs.run().records["decoder"]
    keys = whole.layout.axis_tokens("key")[:5]
    cut = dataclasses.replace(
        whole,
        values=whole.values[:1, ..., :5],
        layout=dataclasses.replace(whole.layout, keys=tuple(keys.tolist())),
        complete_rows=False,
    )
    with RecordWriter(folders[0] / "attention", codec="float32") as writer:
        writer.append({"decoder": cut}, env_step=0)
    assert load_canvas_run(*folders).records == {}


def test_a_named_store_must_exist(folders, tmp_path):
    with pytest.raises(RecordError, match="no attention record"):
        load_canvas_run(*folders, attention=tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["evaluation.json", "pictures.npz"])
def test_a_missing_evaluation_file_is_named(folders, name):
    (folders[0] / name).unlink()
    with pytest.raises(ReportError, match=f"{name}: file is missing.*launch"):
        load_canvas_run(*folders)


@pytest.mark.parametrize("name", ["metrics.jsonl", "config.json", "run.json"])
def test_a_missing_training_file_is_named(folders, name):
    (folders[1] / name).unlink()
    with pytest.raises(ReportError, match=f"{name}: file is missing"):
        load_canvas_run(*folders)


def test_damaged_files_are_named(folders):
    (folders[0] / "pictures.npz").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(ReportError, match=r"pictures\.npz: cannot be read"):
        load_canvas_run(*folders)
    (folders[0] / "evaluation.json").write_text("{")
    with pytest.raises(ReportError, match=r"evaluation\.json: not valid JSON"):
        load_canvas_run(*folders)
    (folders[0] / "evaluation.json").write_text("[1]")
    with pytest.raises(ReportError, match="JSON object"):
        load_canvas_run(*folders)


def test_a_torn_last_line_is_left_out_but_not_a_torn_middle(folders):
    path = folders[1] / "metrics.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, '{"step": 12, "sam']))
    assert len(load_canvas_run(*folders).metrics) == len(lines)
    path.write_text("\n".join([lines[0], "{", *lines[1:]]))
    with pytest.raises(ReportError, match="line 2 is not valid JSON"):
        load_canvas_run(*folders)


def test_missing_numbers_and_pictures_are_named():
    run = canvas_runs.run()
    skill = {k: v for k, v in run.evaluation["skill"].items() if k != "copy_last_mse"}
    with pytest.raises(ReportError, match="copy_last_mse"):
        dataclasses.replace(run, evaluation={**run.evaluation, "skill": skill})
    with pytest.raises(ReportError, match="'geometry'"):
        dataclasses.replace(run, evaluation={"skill": skill})
    pictures = {k: v for k, v in run.pictures.items() if k != "target"}
    with pytest.raises(ReportError, match="target"):
        dataclasses.replace(run, pictures=pictures)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("prediction", lambda a: a[:, :32]),
        ("prediction", lambda a: a.astype(np.float32)),
        ("target", lambda a: a[:1]),
        ("counterfactual/truth", lambda a: a[:, :1]),
        ("rollout/truth", lambda a: a[0]),
    ],
)
def test_pictures_that_do_not_fit_are_named(name, change):
    run = canvas_runs.run()
    with pytest.raises(ReportError, match=f"{name} has shape"):
        dataclasses.replace(run, pictures={**run.pictures, name: change(run.pictures[name])})


def test_attention_needs_the_canvas_of_every_call():
    run = canvas_runs.run()
    record = run.records["decoder"]
    short = AttentionRecord(
        "decoder", record.values[:2], record.layout, record.layers, record.heads
    )
    with pytest.raises(ReportError, match="2 calls, attention_canvas holds 3"):
        dataclasses.replace(run, records={"decoder": short})


if __name__ == "__main__":
    testing.main()
