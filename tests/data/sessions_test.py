import contextlib
import json
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from attn_jax.core.canvas import CanvasGeometry
from attn_jax.core.errors import SessionError
from attn_jax.data import quota, sessions
from attn_jax.data.frames import load_frames
from attn_jax.data.parts import Part
from attn_jax.data.pipeline import CanvasSource
from attn_jax.data.session_check import validate_session
from attn_jax.data.splits import export_part
from tests import testing
from tests.data import fake_sessions


@pytest.fixture
def session(tmp_path):
    return fake_sessions.write_session(tmp_path / "s", 5)


def test_reads_in_step_order(session):
    reader = sessions.SessionReader(session)
    assert reader.action_space == list(fake_sessions.ACTION_SPACE)
    assert reader.get_next_action() is None  # the first event is a frame
    for number in range(5):
        assert np.array_equal(reader.get_next_observation(), fake_sessions.noise(number))
        assert reader.get_next_observation() is None  # does not skip the action
        action = reader.get_next_action()
        assert action == (None if number == 4 else {"action": number % 2})
    assert reader.progress() == (9, 9)
    assert reader.get_next_observation() is None


def test_seek_and_reset(session):
    reader = sessions.SessionReader(session)
    reader.seek(4)
    assert reader.progress() == (4, 9)
    assert np.array_equal(reader.get_next_observation(), fake_sessions.noise(2))
    reader.seek(100)
    assert reader.peek() is None
    reader.reset()
    assert np.array_equal(reader.get_next_observation(), fake_sessions.noise(0))


@pytest.mark.parametrize("shard_size", [1, 2, 3, 100])
def test_shards_do_not_matter(tmp_path, session, shard_size):
    other = fake_sessions.write_session(tmp_path / "other", 5, shard_size=shard_size)
    assert len(list(other.glob("events_shard_*"))) == -(-9 // shard_size)
    assert sessions.read_events(other) == sessions.read_events(session)


def test_lines_may_stand_in_any_order(session):
    expected = sessions.read_events(session)
    fake_sessions.rewrite_shard(session, fake_sessions.shard_lines(session)[::-1])
    assert sessions.read_events(session) == expected


@given(data=st.data())
def test_torn_last_line_is_ignored(tmp_path_factory, data):
    session = fake_sessions.write_session(tmp_path_factory.mktemp("torn") / "s", 3)
    shard = session / "events_shard_000.jsonl"
    content = shard.read_bytes()
    expected = sessions.read_events(session)
    last = content[:-1].rfind(b"\n") + 1
    cut = data.draw(st.integers(last, len(content)))
    shard.write_bytes(content[:cut])
    whole = cut >= len(content) - 1  # only the line end is missing
    assert sessions.read_events(session) == (expected if whole else expected[:-1])


def test_corrupt_line_is_named(session):
    lines = fake_sessions.shard_lines(session)
    lines[3] = lines[3][:20]
    fake_sessions.rewrite_shard(session, lines)
    with pytest.raises(SessionError, match=r"events_shard_000\.jsonl: line 4 is corrupt"):
        sessions.SessionReader(session)


def test_torn_line_in_an_earlier_shard_is_corrupt(tmp_path):
    session = fake_sessions.write_session(tmp_path / "s", 5, shard_size=3)
    shard = session / "events_shard_000.jsonl"
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(SessionError, match=r"events_shard_000\.jsonl: line 3 is corrupt"):
        sessions.read_events(session)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": -2}, "`step` must be"),
        ({"step": "2"}, "`step` must be"),
        ({"step": True}, "`step` must be"),
        ({"type": "frame"}, "`type` must be"),
        ({"data": []}, "`data` must be"),
        ({"data": {}}, "inside the session"),
        ({"data": {"frame_path": "/etc/passwd"}}, "inside the session"),
        ({"data": {"frame_path": "frames/../../x.jpg"}}, "inside the session"),
        ({"timestamp": "now"}, "`timestamp` must be"),
    ],
)
def test_bad_events(session, change, message):
    fake_sessions.edit_event(session, 2, **change)
    with pytest.raises(SessionError, match=message):
        sessions.read_events(session)


def test_step_that_occurs_twice(session):
    lines = fake_sessions.shard_lines(session)
    fake_sessions.rewrite_shard(session, [*lines, lines[4]])
    with pytest.raises(SessionError, match="step 4 occurs twice"):
        sessions.read_events(session)


def test_missing_shard(tmp_path):
    session = fake_sessions.write_session(tmp_path / "s", 5, shard_size=3)
    (session / "events_shard_001.jsonl").unlink()
    with pytest.raises(SessionError, match=r"events_shard_001.jsonl is missing"):
        sessions.read_events(session)


def test_no_session(tmp_path):
    with pytest.raises(SessionError, match=r"session_meta.json is missing"):
        sessions.SessionReader(tmp_path)
    with pytest.raises(SessionError, match=r"session_meta.json is missing"):
        sessions.SessionReader(tmp_path / "nowhere")
    assert not sessions.is_session(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", b"\xff\xfe"])
def test_damaged_metadata(session, text):
    path = session / "session_meta.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SessionError, match=r"session_meta.json"):
        sessions.read_meta(session)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
_ACTIONS = st.lists(
    st.dictionaries(st.sampled_from(["action", "motor_right", "duration"]), _VALUES), max_size=3
)


@given(name=st.sampled_from(sorted(sessions._META)), value=_VALUES | _ACTIONS)
def test_no_metadata_is_more_than_an_error(tmp_path_factory, name, value):
    """Whatever a field holds: everything that reads sessions takes it, or says what is wrong."""
    session = fake_sessions.write_session(tmp_path_factory.mktemp("meta") / "s", 4)
    path = session / sessions.META_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    try:
        sessions.read_meta(session)
    except SessionError as error:
        assert error.where == str(path) and f"`{name}`" in error.what and error.fix
        report = validate_session(session)
        assert [problem.kind for problem in report.problems] == ["corrupt"]
        return
    validate_session(session)
    quota.plan_reclaim(session.parent, 1)
    for read in (
        lambda: CanvasSource(load_frames(session), CanvasGeometry((16, 16))),
        lambda: export_part(Part("part", session, 0, 2), session.parent / "out"),
    ):
        with contextlib.suppress(SessionError):
            read()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("session_name", 3),
        ("start_time", 1.5),
        ("end_time", 12.5),
        ("robot_type", ["ToroidalDot"]),
        ("robot", []),
        ("action_space", [1]),
        ("action_space", {"action": 0}),
        ("shard_size", 0),
        ("shard_size", "1000"),
        ("total_shards", 1.5),
        ("total_steps", True),
        ("max_disk_gb", "10"),
        ("image_format", "gif"),
        ("image_format", []),
        ("episode_boundary", None),
        ("episode_boundary", [0, "6"]),
        ("episode_boundary", [-2]),
        ("split_from", {}),
        ("split_step_offset", -1),
    ],
)
def test_metadata_of_a_wrong_type(session, name, value):
    path = session / sessions.META_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    with pytest.raises(SessionError, match=rf"session_meta\.json: `{name}` must be .*Restore"):
        sessions.read_meta(session)


def test_every_field_that_is_checked_is_documented():
    table = (testing.ROOT / "docs" / "file-formats.md").read_text().partition("## Session\n")[2]
    for name in sessions._META:
        assert f"`{name}`" in table, name


def test_metadata_that_cannot_be_read(session):
    (session / sessions.META_FILE).unlink()
    (session / sessions.META_FILE).mkdir()
    with pytest.raises(SessionError, match=r"session_meta.json: cannot be read: Is a directory"):
        sessions.read_meta(session)


def test_session_without_events(session):
    (session / "events_shard_000.jsonl").unlink()
    with pytest.raises(SessionError, match="no events_shard"):
        sessions.read_events(session)


def test_frames_that_cannot_be_read(session):
    frame = session / "frames" / "frame_000002.png"
    frame.write_bytes(frame.read_bytes()[:60])
    with pytest.raises(SessionError, match=r"frame_000002.png: frame cannot be decoded"):
        sessions.read_frame(frame)
    frame.unlink()
    with pytest.raises(SessionError, match=r"frame_000002.png: frame is missing"):
        sessions.read_frame(frame)


def test_a_picture_that_says_it_is_enormous_cannot_be_decoded(session):
    Image.new("1", (16, 16)).save(session / "frames/frame_000002.png")
    picture = bytearray((session / "frames/frame_000002.png").read_bytes())
    picture[16:24] = struct.pack(">II", 40_000, 40_000)
    picture[29:33] = struct.pack(">I", zlib.crc32(picture[12:29]))
    (session / "frames/frame_000002.png").write_bytes(bytes(picture))
    with pytest.raises(
        SessionError, match=r"frame_000002.png: frame cannot be decoded: Image size"
    ):
        sessions.read_frame(session / "frames/frame_000002.png")
    with pytest.raises(SessionError, match="null byte"):
        sessions.read_frame(session / "frames/frame\0.png")


@pytest.mark.parametrize("name", [sessions.META_FILE, sessions.shard_name(0)])
def test_brackets_without_end_are_no_crash(session, name):
    (session / name).write_text("[" * 100_000 + "\n")
    with pytest.raises(SessionError, match="recursion"):
        sessions.SessionReader(session)


def test_a_folder_in_place_of_a_shard(session):
    (session / sessions.shard_name(0)).unlink()
    (session / sessions.shard_name(0)).mkdir()
    with pytest.raises(SessionError, match="cannot be read"):
        sessions.SessionReader(session)


def test_foreign_session_with_extra_keys(session):
    """Extra keys are allowed everywhere, and `duration` may differ from the action space."""
    lines = [json.loads(line) | {"note": 1} for line in fake_sessions.shard_lines(session)]
    fake_sessions.rewrite_shard(session, [json.dumps(line) for line in lines])
    assert len(sessions.read_events(session)) == 9
    space = [{"action": 0, "duration": 0.0}, {"action": 1, "duration": 0.5}]
    assert sessions.action_index({"action": 1, "duration": 0.7}, space) == 1
    with pytest.raises(SessionError, match="unknown action"):
        sessions.action_index({"action": 2, "duration": 0.5}, space)


if __name__ == "__main__":
    testing.main()
