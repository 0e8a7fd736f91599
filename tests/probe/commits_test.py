"""The commit log: torn tails, damage, one writer."""

import json
import os

import pytest

from attn_jax.core.errors import RecordError
from attn_jax.probe.commits import Commit, CommitLog, read_commits
from tests import testing


def commit(call):
    return Commit(call, 10 * call, {"s/values": f"{call:08x}"}, {"s": 0.5 * call})


@pytest.fixture
def log(tmp_path):
    with CommitLog(tmp_path / "commits.jsonl") as log:
        for call in range(3):
            log.append(commit(call))
    return tmp_path / "commits.jsonl"


def test_reads_what_was_appended(log):
    found = read_commits(log)
    assert found.commits == tuple(commit(call) for call in range(3))
    assert not found.torn and found.num_bytes == log.stat().st_size
    assert json.loads(log.read_text().splitlines()[1])["env_step"] == 10


def test_missing_log_is_empty(tmp_path):
    assert read_commits(tmp_path / "none").commits == ()


@pytest.mark.parametrize("cut", range(1, 12))
def test_torn_last_line_is_ignored_and_cut_off_on_opening(log, cut):
    whole = log.stat().st_size
    os.truncate(log, whole - cut)
    found = read_commits(log)
    assert len(found.commits) == 2 and found.torn
    with CommitLog(log) as opened:
        assert opened.num_calls == 2
        opened.append(commit(2))
    assert read_commits(log).commits[2] == commit(2) and log.stat().st_size == whole


def test_garbage_after_the_last_line_is_torn(log):
    with log.open("ab") as file:
        file.write(b"\0" * 40 + b"\n")
    assert len(read_commits(log).commits) == 3 and read_commits(log).torn


@pytest.mark.parametrize("bad", ['{"call": 1}', "[]", '{"call": 7, "env_step": 1}', "nonsense"])
def test_damage_before_the_end_is_an_error_that_names_the_line(log, bad):
    lines = log.read_text().splitlines()
    lines[1] = bad
    log.write_text("\n".join(lines) + "\n")
    with pytest.raises(RecordError, match=r"line 2 of the commit log is damaged.*: 1 of its"):
        read_commits(log)


def test_missing_call_is_an_error(log):
    lines = log.read_text().splitlines(keepends=True)
    log.write_text(lines[0] + lines[2])
    with pytest.raises(RecordError, match="line 2"):
        read_commits(log)


def test_second_writer_is_refused(log):
    with CommitLog(log), pytest.raises(RecordError, match="another process"):
        CommitLog(log)
    CommitLog(log).close()


if __name__ == "__main__":
    testing.main()
