"""The store when something fails: bad values, full disks, kills, and what a resume makes of it."""

import subprocess
import sys
import threading

import numpy as np
import pytest
import zarr

from attn_jax.core.errors import DiskFullError, RecordError
from attn_jax.probe import arrays
from attn_jax.probe.schema import episode_folder
from attn_jax.probe.store import RecordReader, RecordWriter
from attn_jax.probe.summary import summarise
from attn_jax.probe.verify import verify
from tests import testing
from tests.probe.fake_records import call, expected, maps, write


def test_bad_values_surface_and_nothing_after_them_is_committed(tmp_path):
    writer = RecordWriter(tmp_path)
    writer.append(call(0), env_step=0)
    bad = call(1)
    bad["suffix"].values[0, 0, 0, 0, 0, 0] = np.nan
    writer.append(bad, env_step=10)
    with pytest.raises(RecordError, match="suffix, call 1: attention has NaN"):
        writer.flush()
    with pytest.raises(RecordError, match="NaN"):
        writer.append(call(2), env_step=20)
    with pytest.raises(RecordError, match="NaN"):
        writer.close()
    reader = RecordReader(tmp_path)
    assert reader.num_calls == 1 and not reader.complete
    np.testing.assert_allclose(np.asarray(reader.record("suffix").values), maps(0), atol=1e-3)


def test_a_queued_call_after_a_failed_one_leaves_no_gap(tmp_path, monkeypatch):
    gate = threading.Event()
    real = arrays.write_call

    def held(*arguments):
        assert gate.wait(60)
        return real(*arguments)

    monkeypatch.setattr(arrays, "write_call", held)
    writer = RecordWriter(tmp_path)
    bad = call(1)
    bad["suffix"].values[0, 0, 0, 0, 0, 0] = 2
    for number, records in enumerate((call(0), bad, call(2))):
        writer.append(records, env_step=number)
    gate.set()
    with pytest.raises(RecordError, match="suffix, call 1: values from 0 to 2"):
        writer.close()
    assert RecordReader(tmp_path).num_calls == 1


def test_resume_goes_on_after_the_last_committed_call(tmp_path):
    with pytest.raises(KeyboardInterrupt), RecordWriter(tmp_path) as writer:
        writer.append(call(0), env_step=0)
        writer.append(call(1), env_step=10)
        raise KeyboardInterrupt
    folder = episode_folder(tmp_path, 0)
    # a call whose files are there but whose commit is not, and a torn commit
    half = arrays.shard_path(folder / "suffix" / "values", 2, 6)
    half.write_bytes(b"half")
    arrays.shard_path(folder / "suffix" / "values", 3, 6).write_bytes(b"later")
    half.with_name(half.name + ".__lock").write_bytes(b"")
    with (folder / "commits.jsonl").open("a") as log:
        log.write('{"call": 2, "env_')
    reader = RecordReader(tmp_path)
    assert reader.num_calls == 2 and reader.torn and not reader.complete
    np.testing.assert_allclose(np.asarray(reader.record("suffix").values), expected(2), atol=1e-3)
    with RecordWriter(tmp_path) as writer:
        assert writer.num_calls == 2
        writer.append(call(2), env_step=20)
    write(tmp_path / "whole")
    whole = episode_folder(tmp_path / "whole", 0)
    names = [sorted(f.relative_to(top) for f in top.rglob("*")) for top in (whole, folder)]
    assert names[0] == names[1]
    for file in sorted(whole.rglob("*")):
        if file.is_file() and file.name != "meta.json":
            assert (folder / file.relative_to(whole)).read_bytes() == file.read_bytes(), file


# Just below the middle between two neighbouring halves above 1/2: the largest error there is.
HARD_ROW = np.array([0.500244, 0.499756, 0, 0, 0, 0, 0], np.float32)


def stated(run):
    """What the attributes of the group and of its values say."""
    folder = episode_folder(run, 0)
    said = [
        zarr.open(path, mode="r").attrs["codec"].get("measured_max_abs_error")
        for path in (folder / "suffix", folder / "suffix" / "values")
    ]
    assert said[0] == said[1]
    return said[0]


def test_attributes_state_the_error_before_the_episode_is_closed(tmp_path):
    # More calls than the array has room for at first: growing it must keep the attributes.
    numbers = range(arrays.INITIAL_CALLS + 3)
    sharp = call(numbers[-1])
    sharp["suffix"].values[0, 0, 0, 0, 5] = HARD_ROW
    writer = RecordWriter(tmp_path)
    largest = []
    for number in numbers:
        writer.append(sharp if number == numbers[-1] else call(number), env_step=number)
        writer.flush()
        decoded = np.asarray(RecordReader(tmp_path).record("suffix").values[number])
        given = sharp["suffix"].values if number == numbers[-1] else maps(number)
        largest.append(np.abs(decoded - given[0]).max())
        assert stated(tmp_path) == max(largest)
    assert largest[-1] > max(largest[:-1]) and len(set(largest)) > 5
    writer.abort()  # as a crash leaves it
    assert stated(tmp_path) == largest[-1] and verify(tmp_path).ok
    with RecordWriter(tmp_path) as again:
        again.append(call(0), env_step=number)
    assert stated(tmp_path) == largest[-1] and RecordReader(tmp_path).complete


def test_a_call_that_is_not_committed_may_only_make_the_stated_error_larger(tmp_path, monkeypatch):
    writer = RecordWriter(tmp_path)
    writer.append(call(0), env_step=0)
    writer.flush()
    before = stated(tmp_path)

    def fails(*_):
        raise OSError(28, "no space")

    sharp = call(1)
    sharp["suffix"].values[0, 0, 0, 0, 5] = HARD_ROW
    with monkeypatch.context() as patch:
        patch.setattr(arrays, "write_call", fails)
        writer.append(sharp, env_step=1)
        with pytest.raises(DiskFullError):
            writer.flush()
    writer.abort()
    assert stated(tmp_path) > before and verify(tmp_path).ok
    with RecordWriter(tmp_path):
        pass
    assert stated(tmp_path) == before


def test_an_attempt_without_commits_is_started_afresh(tmp_path):
    folder = episode_folder(tmp_path, 0)
    arrays.create(folder / "suffix" / "values", "float32", (1, 1, 1, 2, 2))
    (folder / "suffix" / "zarr.json").write_text("{}")
    write(tmp_path)
    assert RecordReader(tmp_path).num_calls == 3


@pytest.mark.parametrize("left", ["", "zarr.json.tmp", "values/zarr.json"])
def test_a_record_that_a_kill_left_half_made_is_made_anew(tmp_path, left):
    group = episode_folder(tmp_path, 0) / "suffix"
    group.mkdir(parents=True)
    if left:
        (group / left).parent.mkdir(exist_ok=True)
        (group / left).write_text("{")
    write(tmp_path)
    assert RecordReader(tmp_path).num_calls == 3


def test_a_program_that_was_killed_before_its_first_call_leaves_an_episode_without_calls(tmp_path):
    write(tmp_path)
    RecordWriter(tmp_path, episode=1).abort()
    reader = RecordReader(tmp_path, episode=1)
    assert reader.num_calls == 0 and reader.names == () and not reader.complete
    report = verify(tmp_path)
    assert report.ok and "episode_00001: was not closed; 0 calls" in report.notes[0]
    assert [episode["calls"] for episode in summarise(tmp_path)["episodes"]] == [3, 0]


def test_full_disk_keeps_what_was_committed(tmp_path):
    out = testing.run_script(
        """
        import pathlib, resource, sys
        import numpy as np
        from attn_jax.core.errors import DiskFullError
        from attn_jax.core.layout import TokenGroup, TokenLayout
        from attn_jax.core.record import AttentionRecord
        from attn_jax.probe.store import RecordReader, RecordWriter

        layout = TokenLayout(64, (TokenGroup("image", tuple(range(64)), grid=(8, 8)),))
        def call():
            p = np.random.default_rng(0).random((1, 1, 1, 2, 64, 64)).astype(np.float32)
            return [AttentionRecord("s", p / p.sum(-1, keepdims=True), layout, (0,), (0, 1))]

        writer = RecordWriter(sys.argv[1])
        writer.append(call(), env_step=0)
        writer.flush()
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, resource.RLIM_INFINITY))
        for step in range(3):
            try:
                writer.append(call(), env_step=1)
                writer.flush()
            except DiskFullError as error:
                print("full:", error)
        writer.abort()
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        assert RecordReader(sys.argv[1]).num_calls == 1
        with RecordWriter(sys.argv[1]) as again:
            again.append(call(), env_step=1)
        print("calls", RecordReader(sys.argv[1]).num_calls)
        """,
        str(tmp_path),
    )
    assert out.count("full:") == 3 and "every committed call stays readable" in out
    assert "calls 2" in out


KILLED = """
import sys
from tests import conftest
from tests.probe import fake_records
from attn_jax.probe.store import RecordWriter
writer = RecordWriter(sys.argv[1])
number = writer.num_calls
while True:
    writer.append(fake_records.call(number), env_step=10 * number)
    number += 1
    print(writer.num_committed, flush=True)
"""


@pytest.mark.slow
def test_kill_loses_only_what_was_queued(tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        stdout=subprocess.PIPE,
        env=testing.child_environment(),
        cwd=testing.ROOT,
        text=True,
    )
    with child:
        assert child.stdout is not None
        said = 0
        while said < 5:
            said = int(child.stdout.readline())
        child.kill()
    reader = RecordReader(tmp_path)
    assert reader.num_calls >= said and not reader.complete
    assert reader.env_step == tuple(10 * n for n in range(reader.num_calls))
    np.testing.assert_allclose(
        np.asarray(reader.record("suffix").values), expected(reader.num_calls), atol=1e-3
    )
    with RecordWriter(tmp_path) as writer:
        assert writer.num_calls == reader.num_calls
        writer.append(call(writer.num_calls), env_step=10 * writer.num_calls)
    assert RecordReader(tmp_path).complete


if __name__ == "__main__":
    testing.main()
