import json
import random
import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from attn_jax.core.errors import ConfigError, DiskFullError, SessionError
from attn_jax.data import quota, sessions
from attn_jax.data.session_check import validate_session
from attn_jax.data.session_writer import SessionWriter, to_uint8
from tests import testing
from tests.data import fake_sessions

SPACE = fake_sessions.ACTION_SPACE


def writer(path, **options):
    options = {"image_format": "png", "sync": False} | options
    return SessionWriter(path, action_space=SPACE, robot_type="Fake", **options)


def test_layout_on_disk(tmp_path):
    session = fake_sessions.write_session(tmp_path / "s", 3, image_format="jpeg", shard_size=4)
    files = sorted(str(path.relative_to(session)) for path in session.rglob("*") if path.is_file())
    assert files == [
        "events_shard_000.jsonl",
        "events_shard_001.jsonl",
        "frames/frame_000000.jpg",
        "frames/frame_000002.jpg",
        "frames/frame_000004.jpg",
        "session_meta.json",
    ]
    first, second = map(json.loads, fake_sessions.shard_lines(session)[:2])
    assert list(first) == ["step", "type", "data", "timestamp"]
    assert first["data"] == {"frame_path": "frames/frame_000000.jpg"}
    assert second["type"] == "action" and second["data"] == {"action": 0}
    meta = sessions.read_meta(session)
    assert meta["session_name"] == "s"
    assert (meta["total_steps"], meta["total_shards"], meta["shard_size"]) == (5, 2, 4)
    assert meta["max_disk_gb"] == 10 and meta["robot_type"] == "Fake"
    assert meta["start_time"] <= meta["end_time"]


@given(
    frames=st.lists(
        hnp.arrays(np.uint8, st.tuples(st.just(4), st.just(5), st.just(3))), min_size=1, max_size=6
    ),
    codes=st.lists(st.integers(0, 1), min_size=5, max_size=5),
    shard_size=st.integers(1, 5),
    sync=st.booleans(),
)
def test_what_is_written_is_read(tmp_path_factory, frames, codes, shard_size, sync):
    path = tmp_path_factory.mktemp("round") / "s"
    with writer(path, shard_size=shard_size, sync=sync) as out:
        for number, frame in enumerate(frames):
            if number:
                out.action({"action": codes[number - 1]})
            out.observation(frame)
    reader = sessions.SessionReader(path)
    for number, frame in enumerate(frames):
        if number:
            assert reader.get_next_action() == {"action": codes[number - 1]}
        assert np.array_equal(reader.get_next_observation(), frame)
    assert reader.peek() is None


def test_every_event_is_on_disk_at_once(tmp_path):
    out = writer(tmp_path / "s")
    out.observation(fake_sessions.noise(0))
    assert [event.step for event in sessions.read_events(tmp_path / "s")] == [0]
    out.action({"action": 1})
    assert [event.step for event in sessions.read_events(tmp_path / "s")] == [0, 1]
    out.close()


_RECORDER = """
import sys
import numpy as np
from attn_jax.data.session_writer import SessionWriter
space = [{"action": 0}, {"action": 1}]
with SessionWriter(sys.argv[1], action_space=space, robot_type="Fake", shard_size=7) as writer:
    while True:
        print(writer.observation(np.zeros((32, 32, 3), np.uint8)), flush=True)
        print(writer.action(space[1]), flush=True)
"""


@pytest.mark.slow
def test_kill_loses_at_most_one_event(tmp_path):
    moments = random.Random(0)
    for attempt in range(3):
        session = tmp_path / f"s{attempt}"
        child = subprocess.Popen(
            [sys.executable, "-c", _RECORDER, str(session)],
            stdout=subprocess.PIPE,
            env=testing.child_environment(),
            cwd=testing.ROOT,
        )
        with child:
            known = [int(child.stdout.readline()) for _ in range(moments.randint(1, 60))]
            child.send_signal(signal.SIGKILL)
            known += [int(line) for line in child.stdout.read().splitlines() if line]
        assert child.returncode == -signal.SIGKILL
        steps = [event.step for event in sessions.read_events(session)]
        # What the recorder knew to be written is there; at most one event more was under way.
        assert steps == list(range(len(steps)))
        assert known[-1] in (steps[-1], steps[-1] - 1)
        kinds = {problem.kind for problem in validate_session(session).problems}
        assert kinds <= {"gap"}  # it may end with an action


def test_events_alternate(tmp_path):
    with writer(tmp_path / "s") as out:
        with pytest.raises(SessionError, match="step 0 cannot be an action"):
            out.action({"action": 0})
        out.observation(fake_sessions.noise(0))
        with pytest.raises(SessionError, match="step 1 cannot be an observation"):
            out.observation(fake_sessions.noise(0))
        with pytest.raises(SessionError, match=r"unknown action {'action': 2}"):
            out.action({"action": 2})
    with pytest.raises(SessionError, match="closed"):
        out.action({"action": 0})


def test_episode_leaves_the_action_step_unused(tmp_path):
    session = fake_sessions.write_session(tmp_path / "s", 3, episodes=2)
    steps = [event.step for event in sessions.read_events(session)]
    assert steps == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]
    assert sessions.read_meta(session)["episode_boundary"] == [0, 6]
    assert sessions.read_meta(session)["total_steps"] == 11


def test_existing_session_is_refused(tmp_path):
    session = fake_sessions.write_session(tmp_path / "s", 2)
    before = sorted(path.read_bytes() for path in session.rglob("*") if path.is_file())
    with pytest.raises(SessionError, match="already holds a session"):
        writer(session)
    (session / "session_meta.json").unlink()
    with pytest.raises(SessionError, match="already holds a session"):
        writer(session)
    assert len(before) == 4
    (tmp_path / "file").touch()
    with pytest.raises(SessionError, match="is a file"):
        writer(tmp_path / "file")


@pytest.mark.parametrize(
    "options",
    [
        {"image_format": "gif"},
        {"shard_size": 0},
        {"max_disk_gb": 0.0},
        {"max_disk_gb": float("nan")},
        {"max_disk_gb": float("inf")},
    ],
)
def test_bad_options(tmp_path, options):
    with pytest.raises(ConfigError):
        writer(tmp_path / "s", **options)
    assert not (tmp_path / "s").exists()


def record_until_full(path, **options) -> int:
    """Writes until the limit stops it; returns the events written before."""
    with writer(path, **options) as out:
        with pytest.raises(DiskFullError, match=r"max_disk_gb"):
            for number in range(1000):
                out.observation(fake_sessions.noise(number))
                out.action({"action": 0})
        return out.num_events


def test_limit_stops_with_everything_kept(tmp_path):
    written = record_until_full(tmp_path / "s", max_disk_gb=20e-6)
    assert written > 5
    assert quota.folder_bytes(tmp_path / "s") - 1000 <= 20_000  # metadata is not counted
    report = validate_session(tmp_path / "s")
    assert report.observations + report.actions == written
    assert {problem.kind for problem in report.problems} <= {"gap"}
    assert "end_time" in sessions.read_meta(tmp_path / "s")


def test_limit_counts_the_other_sessions_of_the_root(tmp_path):
    alone = record_until_full(tmp_path / "a" / "s", max_disk_gb=20e-6)
    fake_sessions.write_session(tmp_path / "b" / "other", 6)
    (tmp_path / "b" / "no_session.bin").write_bytes(bytes(10**6))
    beside = record_until_full(tmp_path / "b" / "s", max_disk_gb=20e-6)
    assert 0 < beside < alone


def test_reclaim_deletes_the_oldest_unprotected_session(tmp_path):
    clocks = {"oldest": 10.0, "kept": 20.0, "newer": 30.0}
    for name, start in clocks.items():
        fake_sessions.write_session(tmp_path / name, 8, clock=lambda start=start: start)
    limit_gb = (quota.root_bytes(tmp_path) + 2000) / 1e9
    policy = quota.Reclaim(enabled=True, dry_run=False, protect=("old*",))
    with writer(tmp_path / "new", max_disk_gb=limit_gb, reclaim=policy) as out:
        for number in range(4):
            out.observation(fake_sessions.noise(number))
            out.action({"action": 0})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "newer", "oldest"]
    assert validate_session(tmp_path / "oldest").ok


def test_reclaim_dry_run_only_names(tmp_path):
    fake_sessions.write_session(tmp_path / "old", 8)
    limit_gb = (quota.root_bytes(tmp_path) + 2000) / 1e9
    policy = quota.Reclaim(enabled=True, dry_run=True)
    with (
        writer(tmp_path / "new", max_disk_gb=limit_gb, reclaim=policy) as out,
        pytest.raises(DiskFullError, match="would delete: old"),
    ):
        for number in range(100):
            out.observation(fake_sessions.noise(number))
            out.action({"action": 0})
    assert validate_session(tmp_path / "old").ok


def test_full_disk_while_writing_a_frame(tmp_path):
    out = writer(tmp_path / "s")
    out.observation(fake_sessions.noise(0))
    out.action({"action": 0})
    (tmp_path / "s" / "frames" / "frame_000002.png.tmp").symlink_to("/dev/full")
    with pytest.raises(DiskFullError, match=r"disk is full.*2 events are recorded"):
        out.observation(fake_sessions.noise(1))
    out.close()
    assert [event.step for event in sessions.read_events(tmp_path / "s")] == [0, 1]
    assert not list((tmp_path / "s" / "frames").glob("*.tmp"))


def test_full_disk_while_writing_an_event(tmp_path):
    out = writer(tmp_path / "s", shard_size=2)
    out.observation(fake_sessions.noise(0))
    out.action({"action": 0})
    (tmp_path / "s" / "events_shard_001.jsonl").symlink_to("/dev/full")
    with pytest.raises(DiskFullError, match="could not write step 2"):
        out.observation(fake_sessions.noise(1))
    (tmp_path / "s" / "events_shard_001.jsonl").unlink()
    out.close()
    assert [event.step for event in sessions.read_events(tmp_path / "s")] == [0, 1]


def test_pictures_of_other_kinds():
    image = fake_sessions.noise(0, (4, 5))
    assert np.array_equal(to_uint8(image.transpose(2, 0, 1)), image)
    assert (to_uint8(np.full((4, 5, 3), 0.5)) == 127).all()
    signed = np.linspace(-1, 1, 60).reshape(4, 5, 3)
    assert to_uint8(signed)[0, 0, 0] == 0 and to_uint8(signed)[-1, -1, -1] == 255
    assert (to_uint8(np.full((4, 5, 3), 7.0)) == 255).all()  # clipped, does not wrap
    for bad in (np.zeros((4, 5)), np.zeros((4, 5, 3), np.int32), np.full((4, 5, 3), np.nan)):
        with pytest.raises(SessionError):
            to_uint8(bad)


if __name__ == "__main__":
    testing.main()
