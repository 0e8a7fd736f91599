import pytest

from attn_jax.core.errors import SessionError
from attn_jax.data.session_check import validate_session
from tests import testing
from tests.data import fake_sessions


@pytest.fixture
def session(tmp_path):
    return fake_sessions.write_session(tmp_path / "s", 6)


def problems(session):
    return [(problem.kind, problem.step) for problem in validate_session(session).problems]


@pytest.mark.parametrize("episodes", [1, 3])
def test_good_session(tmp_path, episodes):
    session = fake_sessions.write_session(tmp_path / "s", 4, episodes=episodes)
    report = validate_session(session)
    assert report.ok
    assert (report.observations, report.actions) == (4 * episodes, 3 * episodes)
    assert (report.episodes, report.frame_size) == (episodes, (16, 16))


def test_every_bad_step_is_named(session):
    frames = session / "frames"
    (frames / "frame_000000.png").unlink()
    (frames / "frame_000002.png").write_bytes(b"no picture")
    wide = fake_sessions.write_session(session.parent / "wide", 1, size=(16, 32))
    (wide / "frames" / "frame_000000.png").rename(frames / "frame_000004.png")
    fake_sessions.edit_event(session, 3, data={"action": 7})
    fake_sessions.drop_event(session, 7)
    assert problems(session) == [
        ("missing_frame", 0),
        ("unreadable_frame", 2),
        ("unknown_action", 3),
        ("frame_size", 4),
        ("gap", 7),
    ]


def test_shifted_actions_are_misaligned(session):
    fake_sessions.drop_event(session, 10)
    fake_sessions.edit_event(session, 9, step=10)
    assert ("misaligned", 10) in problems(session)
    assert ("gap", 9) in problems(session)


def test_gap_spans(session):
    for step in (3, 4, 5):
        fake_sessions.drop_event(session, step)
    (problem,) = validate_session(session).problems
    assert (problem.kind, problem.step) == ("gap", 3)
    assert "steps 3 to 5 are missing" in problem.message


def test_gap_before_an_episode_is_still_found(tmp_path):
    session = fake_sessions.write_session(tmp_path / "s", 3, episodes=2)
    assert problems(session) == []
    fake_sessions.drop_event(session, 4)  # last frame of the first episode
    assert problems(session) == [("gap", 4)]


def test_session_that_ends_with_an_action(session):
    fake_sessions.drop_event(session, 10)
    assert problems(session) == [("gap", 10)]


def test_huge_step_does_not_hang(session):
    fake_sessions.edit_event(session, 10, step=10**15)
    assert problems(session) == [("gap", 10)]


def test_a_name_that_no_file_can_have_is_a_missing_frame(session):
    shard = session / "events_shard_000.jsonl"
    shard.write_text(shard.read_text().replace("frames/frame_000002", "f" * 5000))
    assert ("missing_frame", 2) in problems(session)


def test_corrupt_session_is_reported(session):
    lines = fake_sessions.shard_lines(session)
    lines[1] = "{"
    fake_sessions.rewrite_shard(session, lines)
    report = validate_session(session)
    assert not report.ok
    assert "line 2 is corrupt" in report.problems[0].message


def test_empty_session(session):
    fake_sessions.rewrite_shard(session, [])
    assert problems(session) == [("corrupt", None)]


def test_no_folder(tmp_path):
    with pytest.raises(SessionError, match="no such session folder"):
        validate_session(tmp_path / "nowhere")


if __name__ == "__main__":
    testing.main()
