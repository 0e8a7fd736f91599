import json
import pathlib
import shutil

import pytest

from attn_jax.core.errors import SessionError
from attn_jax.data.parts import Part, resolve_part, stretch, write_part
from tests import testing
from tests.data import fake_sessions


def test_round_trip(tmp_path):
    (tmp_path / "s").mkdir()
    part = Part("p", tmp_path / "s", 2, 9)
    path = write_part(part, tmp_path / "splits" / "p.json")
    assert json.loads(path.read_text())["session"] == "../s"
    read = resolve_part(path)
    assert (read.name, read.start, read.stop) == ("p", 2, 9)
    assert read.session.resolve() == (tmp_path / "s").resolve()


def test_folder_is_a_whole_session(tmp_path):
    (tmp_path / "s").mkdir()
    assert resolve_part(tmp_path / "s") == Part("s", tmp_path / "s", 0, None)
    assert resolve_part(pathlib.Path(".")).name != ""


def test_stretches_share_frames_wherever_the_folder_lies(tmp_path):
    session = fake_sessions.write_session(tmp_path / "s", 8)
    shutil.copytree(session, tmp_path / "moved")
    whole = stretch(resolve_part(tmp_path / "moved"))
    assert (whole.first, whole.last) == (0, 14)
    first, second = stretch(Part("a", session, 0, 4)), stretch(Part("b", session, 4, 8))
    assert whole.shares_frames(first) and second.shares_frames(whole)
    assert not first.shares_frames(second)
    assert stretch(Part("c", session, 3, 5)).shares_frames(first)
    other = fake_sessions.write_session(tmp_path / "other", 8)
    assert not whole.shares_frames(stretch(resolve_part(other)))
    with pytest.raises(SessionError, match="no observation of part d"):
        stretch(Part("d", session, 8))


def test_existing_file_is_refused(tmp_path):
    part = Part("p", tmp_path, 0, 1)
    write_part(part, tmp_path / "p.json")
    with pytest.raises(SessionError, match="already exists"):
        write_part(part, tmp_path / "p.json")


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (3, 3), (4, 2)])
def test_empty_part(start, stop):
    with pytest.raises(SessionError, match="empty"):
        Part("p", pathlib.Path("s"), start, stop)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "not an index file"),
        ('{"format": "other"}', "not an index file"),
        ('{"format": "attn_jax.session_part/1", "name": "p"}', "lacks 'session'"),
        (
            '{"format": "attn_jax.session_part/1", "name": "p", "session": "s", "start": "0",'
            ' "stop": 2}',
            "wrong type",
        ),
    ],
)
def test_damaged_index(tmp_path, text, message):
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(SessionError, match=message):
        resolve_part(tmp_path / "p.json")


def test_nothing_there(tmp_path):
    with pytest.raises(SessionError, match="no such session"):
        resolve_part(tmp_path / "nowhere")


if __name__ == "__main__":
    testing.main()
