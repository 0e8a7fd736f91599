"""Verification: good records pass, and every kind of damage is found and named."""

import json

import numpy as np
import pytest
import tensorstore as ts

from attn_jax.core.errors import RecordError
from attn_jax.core.layout import TokenGroup, TokenLayout
from attn_jax.core.record import AttentionRecord
from attn_jax.probe import arrays, codecs
from attn_jax.probe.schema import episode_folder
from attn_jax.probe.store import RecordReader, RecordWriter
from attn_jax.probe.verify import verify
from tests import testing

LAYOUT = TokenLayout(
    7,
    (
        TokenGroup("image", (0, 1, 2, 3), grid=(2, 2)),
        TokenGroup("pad", (4,), valid=False),
        TokenGroup("action", (5, 6)),
    ),
)


def maps(seed):
    p = np.random.default_rng(seed).random((1, 1, 2, 3, 7, 7)).astype(np.float32)
    p[..., 4] = 0
    p /= p.sum(-1, keepdims=True)
    p[..., 4, :] = 1 / 7  # a padding row attends everywhere, also to padding
    return p


def records(seed, complete_rows=True):
    p = maps(seed)
    groups = ("image", "pad", "action")
    mass = np.stack([p[..., :4].sum(-1), p[..., 4], p[..., 5:].sum(-1)], axis=-1)
    entropy = np.full_like(mass, np.nan)
    return [
        AttentionRecord("s", p, LAYOUT, (0, 1), (0, 1, 2), complete_rows=complete_rows),
        AttentionRecord(
            "s", mass, LAYOUT, (0, 1), (0, 1, 2), reduction="group_mass", key_names=groups
        ),
        AttentionRecord(
            "s",
            entropy,
            LAYOUT,
            (0, 1),
            (0, 1, 2),
            reduction="entropy",
            key_names=groups,
            complete_rows=False,
        ),
    ]


def write(run, codec="float16", **options):
    with RecordWriter(run, codec=codec, **options) as writer:
        for number in range(4):
            writer.append(records(number), env_step=number)
    return episode_folder(run, 0)


@pytest.mark.parametrize("codec", codecs.CODECS)
@pytest.mark.parametrize("valid_keys_only", [False, True])
def test_good_records_pass(tmp_path, codec, valid_keys_only):
    write(tmp_path, codec, valid_keys_only=valid_keys_only)
    report = verify(tmp_path)
    assert report.ok and report.problems == () and report.notes == ()
    (episode,) = report.episodes
    assert episode.num_calls == 4 and episode.complete
    by_name = {record.name: record for record in episode.records}
    assert by_name["s"].codec == codec and by_name["s"].shape == (4, 1, 2, 3, 7, 7)
    limit = {"float32": 1e-6, "float16": 5e-4, "u8row": 0.02}[codec]
    assert by_name["s"].max_row_sum_error < limit
    assert (by_name["s"].max_abs_error == 0) == (codec == "float32")
    assert by_name["s.entropy"].max_row_sum_error is None
    json.dumps(report.to_json())


def test_one_episode_may_be_verified_alone(tmp_path):
    folder = write(tmp_path)
    (tmp_path / "run.json").unlink()
    assert verify(folder).ok
    assert verify(tmp_path).problems == ("run.json: file is missing",)


def test_interrupted_episode_is_good_with_a_note(tmp_path):
    writer = RecordWriter(tmp_path)
    writer.append(records(0), env_step=0)
    writer.abort()
    with (episode_folder(tmp_path, 0) / "commits.jsonl").open("a") as log:
        log.write('{"call"')
    report = verify(tmp_path)
    assert report.ok and len(report.notes) == 2
    assert "not closed; 1 calls" in report.notes[1] and "torn" in report.notes[0]


def problem(run):
    report = verify(run)
    assert not report.ok and not report.to_json()["ok"]
    (text,) = report.problems
    return text


def shard(folder, call, part="values", name="s"):
    return arrays.shard_path(folder / name / part, call, 5 if part == "scale" else 6)


@pytest.mark.parametrize("part", ["values", "scale"])
def test_flipped_bit(tmp_path, part):
    folder = write(tmp_path, "u8row")
    data = bytearray(shard(folder, 2, part).read_bytes())
    data[len(data) // 2] ^= 4
    shard(folder, 2, part).write_bytes(data)
    assert problem(tmp_path) == f"episode_00000/s: checksum of {part} is wrong (call 2)"


def test_missing_and_cut_files(tmp_path):
    folder = write(tmp_path)
    shard(folder, 0).unlink()
    assert problem(tmp_path) == "episode_00000/s: file of values is missing (call 0)"
    shard(folder, 0).write_bytes(b"")
    assert problem(tmp_path) == "episode_00000/s: checksum of values is wrong (call 0)"


def rewrite(folder, change, name="s"):
    """Writes other values with a commit that matches them, as a faulty writer would."""
    array = arrays.open_array(folder / name / "values", write=True)
    data = array[1].read().result()
    array[1].write(change(data)).result()
    lines = (folder / "commits.jsonl").read_text().splitlines()
    commit = json.loads(lines[1])
    commit["crc32"][f"{name}/values"] = arrays.checksum(shard(folder, 1, name=name))
    lines[1] = json.dumps(commit)
    (folder / "commits.jsonl").write_text("\n".join(lines) + "\n")


def test_rows_that_do_not_sum_to_one(tmp_path):
    rewrite(write(tmp_path), lambda data: data * np.float16(0.99))
    assert problem(tmp_path) == "episode_00000/s: rows do not sum to 1 (call 1)"


def test_group_masses_that_do_not_sum_to_one(tmp_path):
    rewrite(write(tmp_path), lambda data: data * 0.9999, name="s.group_mass")
    assert "s.group_mass: rows do not sum to 1 (call 1)" in problem(tmp_path)


def test_one_code_too_far_is_found_in_u8row(tmp_path):
    def change(data):
        out = data.copy()
        out[0, 0, 0, 0] = np.where(out[0, 0, 0, 0] > 0, np.maximum(out[0, 0, 0, 0], 3) - 2, 0)
        return out

    rewrite(write(tmp_path, "u8row"), change)
    assert "rows do not sum to 1" in problem(tmp_path)


def test_nan_and_range(tmp_path):
    def put(value):
        def change(data):
            out = data.copy()
            out[0, 0, 0, 0, 0] = value
            return out

        return change

    rewrite(write(tmp_path / "nan"), put(np.nan))
    assert problem(tmp_path / "nan") == "episode_00000/s: values are NaN or infinite (call 1)"
    rewrite(write(tmp_path / "big"), put(1.5))
    assert any("values from" in text for text in verify(tmp_path / "big").problems)
    rewrite(write(tmp_path / "h"), put(-1), name="s.entropy")
    assert "entropies are negative" in problem(tmp_path / "h")


def test_rows_that_are_not_whole_are_not_summed(tmp_path):
    with RecordWriter(tmp_path) as writer:
        partial = AttentionRecord(
            "s", 0.3 * maps(0), LAYOUT, (0, 1), (0, 1, 2), complete_rows=False
        )
        writer.append([partial], env_step=0)
    assert verify(tmp_path).ok


def test_labels_that_do_not_fit(tmp_path):
    folder = write(tmp_path)
    meta = json.loads((folder / "meta.json").read_text())
    meta["arrays"]["s"]["layers"] = [0]
    (folder / "meta.json").write_text(json.dumps(meta))
    assert "its labels say" in problem(tmp_path)


def test_calls_that_do_not_fit(tmp_path):
    folder = write(tmp_path)
    meta = json.loads((folder / "meta.json").read_text())
    meta["env_step"] = [0, 1, 2]
    (folder / "meta.json").write_text(json.dumps(meta))
    assert "disagree about the calls" in problem(tmp_path)


def test_damaged_commit_log(tmp_path):
    folder = write(tmp_path)
    lines = (folder / "commits.jsonl").read_text().splitlines(keepends=True)
    (folder / "commits.jsonl").write_text(lines[0] + "{}\n" + lines[2])
    assert problem(tmp_path).startswith("episode_00000/commits.jsonl: line 2")


@pytest.mark.parametrize("place", ["", "values"])
def test_attributes_that_state_too_small_an_error(tmp_path, place):
    folder = write(tmp_path)
    path = folder / "s" / place / "zarr.json"
    data = json.loads(path.read_text())
    codec = data["attributes"]["codec"]
    assert 0 < codec["measured_max_abs_error"] <= codec["bound_max_abs_error"]
    (said,) = [r.max_abs_error for r in verify(tmp_path).episodes[0].records if r.name == "s"]
    assert said == codec["measured_max_abs_error"]
    codec["measured_max_abs_error"] /= 2
    path.write_text(json.dumps(data))
    assert f"attributes {place or 'of the group'} state an error of" in problem(tmp_path)
    del codec["measured_max_abs_error"]
    path.write_text(json.dumps(data))
    assert "state an error of None, the commit log of" in problem(tmp_path)


def test_lost_metadata(tmp_path):
    folder = write(tmp_path)
    (folder / "s" / "values" / "zarr.json").unlink()
    assert "s/values: array cannot be opened" in problem(tmp_path)
    (folder / "meta.json").unlink()
    assert problem(tmp_path) == "episode_00000/meta.json: file is missing"


def test_key_index_that_does_not_fit(tmp_path):
    folder = write(tmp_path, valid_keys_only=True)
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{folder}/s/key_index/"}}
    ts.open(spec, open=True).result().write(np.array([0, 1, 2, 3, 5, 9])).result()
    assert any("key_index" in text for text in verify(tmp_path).problems)


@pytest.mark.parametrize("kept", [[0, 1, 2, 3, 4, 6], [0, 1, 2, 3, 5, 5]])
def test_key_index_that_names_other_tokens(tmp_path, kept):
    folder = write(tmp_path, valid_keys_only=True)
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{folder}/s/key_index/"}}
    ts.open(spec, open=True).result().write(np.array(kept)).result()
    assert problem(tmp_path) == "episode_00000/s: key_index does not name the valid keys"
    with pytest.raises(RecordError, match="valid keys"):
        RecordReader(tmp_path).record("s")
    file = folder / "s" / "key_index" / "c" / "0"
    file.write_bytes(file.read_bytes()[:8])
    assert "s/key_index: array cannot be read" in problem(tmp_path)


@pytest.mark.parametrize("place", ["meta.json", "s/zarr.json", "s/values/zarr.json"])
def test_labels_that_are_told_in_two_ways(tmp_path, place):
    folder = write(tmp_path)
    data = json.loads((folder / place).read_text())
    labels = data["arrays"]["s"] if place == "meta.json" else data["attributes"]
    if "layers" in labels:
        assert labels["layers"] == [0, 1]
        labels["layers"] = [0, 9]
    else:
        labels["codec"]["name"] = "float32"
    (folder / place).write_text(json.dumps(data))
    whose = "values" if "values" in place else "of the group"
    text = f"episode_00000/s: attributes {whose} and meta.json disagree about the labels"
    assert problem(tmp_path) == text
    del data["arrays" if place == "meta.json" else "attributes"]
    (folder / place).write_text(json.dumps(data))
    assert "field 'arrays'" in problem(tmp_path) or problem(tmp_path) == text


def test_no_record_is_an_error(tmp_path):
    with pytest.raises(RecordError, match="no attention record here"):
        verify(tmp_path)


if __name__ == "__main__":
    testing.main()
