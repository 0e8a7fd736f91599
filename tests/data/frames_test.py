import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_jax.core.errors import SessionError
from attn_jax.data.frames import load_frames
from attn_jax.data.parts import Part, write_part
from attn_jax.data.sessions import read_meta
from tests import testing
from tests.data import fake_sessions


@pytest.fixture
def session(tmp_path):
    return fake_sessions.write_session(tmp_path / "s", 6)


def test_whole_session(session):
    store = load_frames(session)
    assert store.frames.shape == (6, 16, 16, 3) and store.frames.dtype == np.uint8
    assert all(np.array_equal(store.frames[i], fake_sessions.noise(i)) for i in range(6))
    assert store.steps.tolist() == [0, 2, 4, 6, 8, 10]
    assert store.action_after.tolist() == [0, 1, 0, 1, 0, -1]
    assert store.windows(3).tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5]]
    assert store.windows(7).shape == (0, 7)
    assert store.names == ("s",) and store.frame_size == (16, 16)


def test_canvases_cross_neither_sessions_nor_episodes(tmp_path, session):
    episodes = fake_sessions.write_session(tmp_path / "e", 3, episodes=2)
    store = load_frames([session, episodes])
    assert store.session.tolist() == [0] * 6 + [1] * 6
    assert store.windows(3)[:, 0].tolist() == [0, 1, 2, 3, 6, 9]
    assert store.windows(2)[:, 0].tolist() == [0, 1, 2, 3, 4, 6, 7, 9, 10]


def test_boundary_in_metadata_wins_over_an_action(session):
    """Recordings converted from episodes join them by an action that nobody took."""
    meta = read_meta(session) | {"episode_boundary": [0, 6]}
    (session / "session_meta.json").write_text(json.dumps(meta))
    assert load_frames(session).windows(3)[:, 0].tolist() == [0, 3]


@given(gap=st.integers(0, 10))
def test_no_canvas_is_built_across_a_gap(tmp_path_factory, gap):
    session = fake_sessions.write_session(tmp_path_factory.mktemp("gap") / "s", 6)
    whole = load_frames(session)
    fake_sessions.drop_event(session, gap)
    store = load_frames(session)
    built = {tuple(store.steps[row]) for row in store.windows(3)}
    expected = {
        tuple(steps) for steps in whole.steps[whole.windows(3)] if not steps[0] <= gap <= steps[-1]
    }
    assert built == expected
    for row in store.windows(3):  # and what is built has the actions of its steps
        assert (store.action_after[row[:-1]] == store.steps[row[:-1]] // 2 % 2).all()


def test_misaligned_actions_are_an_error(session):
    fake_sessions.drop_event(session, 10)
    fake_sessions.edit_event(session, 9, step=10)
    with pytest.raises(SessionError, match=r"misaligned events at steps \[10\]"):
        load_frames(session)


def test_unknown_action(session):
    fake_sessions.edit_event(session, 3, data={"action": 5})
    with pytest.raises(SessionError, match=r"unknown action {'action': 5}"):
        load_frames(session)


@pytest.mark.parametrize("number", [0, 4])
def test_missing_frame(session, number):
    (session / "frames" / f"frame_{number:06d}.png").unlink()
    with pytest.raises(SessionError, match=rf"frame_{number:06d}.png: frame is missing"):
        load_frames(session)
    store = load_frames(session, skip_missing=True)
    whole = [[0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5]]
    assert store.windows(3).tolist() == [rows for rows in whole if number // 2 not in rows]


def test_damaged_frame(session):
    path = session / "frames" / "frame_000006.png"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(SessionError, match=r"frame_000006.png: frame cannot be decoded"):
        load_frames(session)


def test_no_frame_at_all(session):
    for path in (session / "frames").iterdir():
        path.unlink()
    with pytest.raises(SessionError, match="no frame can be read"):
        load_frames(session, skip_missing=True)


def test_differing_sizes(tmp_path, session):
    wide = fake_sessions.write_session(tmp_path / "wide", 3, size=(16, 32))
    with pytest.raises(SessionError, match="frame is 16x32, the ones before 16x16"):
        load_frames([session, wide])
    store = load_frames([session, wide], frame_size=(16, 16))
    assert store.frames.shape == (9, 16, 16, 3)
    assert np.array_equal(store.frames[0], fake_sessions.noise(0))  # the right size is untouched


def test_differing_action_spaces(tmp_path, session):
    other = fake_sessions.write_session(tmp_path / "o", 3)
    meta = read_meta(other) | {"action_space": [{"action": 1}, {"action": 0}]}
    (other / "session_meta.json").write_text(json.dumps(meta))
    with pytest.raises(SessionError, match="action space"):
        load_frames([session, other])


def test_part(tmp_path, session):
    index = write_part(Part("p", session, 2, 5), tmp_path / "p.json")
    store = load_frames(index)
    assert np.array_equal(store.frames, load_frames(Part("p", session, 2, 5)).frames)
    assert store.steps.tolist() == [4, 6, 8]
    assert store.action_after.tolist() == [0, 1, -1] and store.names == ("p",)
    beyond = write_part(Part("q", session, 2, 7), tmp_path / "q.json")
    with pytest.raises(SessionError, match="holds 6 observations, part q takes 2 to 7"):
        load_frames(beyond)


def test_nothing_given():
    with pytest.raises(SessionError, match="no session"):
        load_frames([])


if __name__ == "__main__":
    testing.main()
