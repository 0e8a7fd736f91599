import json

import pytest
from absl import flags
from absl.testing import flagsaver

from attn_jax.core.errors import ConfigError, SessionError
from attn_jax.data.frames import load_frames
from attn_jax.data.session_check import validate_session
from launch import split
from tests import testing
from tests.data import fake_sessions


@pytest.fixture
def session(tmp_path):
    return fake_sessions.write_session(tmp_path / "s", 20)


def run(session, workdir, **values):
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["split"])
    with flagsaver.flagsaver(session=str(session), workdir=str(workdir), **values):
        return split.main()


def test_command_line(tmp_path, session):
    done = testing.run_python(
        "-m", "launch.split", f"--session={session}", f"--workdir={tmp_path / 'out'}", "--json"
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert [part["name"] for part in result["parts"]] == [
        "s_stage1_train_7",
        "s_stage1_validate_3",
        "s_stage2_train_13",
        "s_stage2_validate_5",
        "s_test_2",
    ]
    assert len(load_frames(tmp_path / "out" / "s_stage2_validate_5.json")) == 5
    assert json.loads((tmp_path / "out" / "splits.json").read_text()) == result


def test_stages_and_no_test_part(tmp_path, session):
    result = run(session, tmp_path / "out", num_stages=2, test_fraction=0.0)
    spans = [(part["start"], part["stop"]) for part in result["parts"]]
    assert spans == [(0, 7), (7, 10), (0, 14), (14, 20)]


def test_export(tmp_path, session):
    result = run(session, tmp_path / "out", export=True, num_stages=1)
    for part in result["parts"]:
        assert validate_session(tmp_path / "out" / part["file"]).ok


@pytest.mark.parametrize(("at", "stop"), [(0, 10), (4, 4)])
def test_halve(tmp_path, session, at, stop):
    result = run(session, tmp_path / "out", halve_at=at)
    assert [part["stop"] for part in result["parts"]] == [stop, 20]


@pytest.mark.parametrize("export", [False, True])
def test_existing_parts_are_refused(tmp_path, session, export):
    run(session, tmp_path / "out", export=export)
    (tmp_path / "out" / "s_test_2").rename(tmp_path / "x") if export else (
        tmp_path / "out" / "s_test_2.json"
    ).unlink()
    with pytest.raises(SessionError, match="4 parts exist already"):
        run(session, tmp_path / "out", export=export)
    assert not list((tmp_path / "out").glob("s_test_2*"))  # nothing was written


def test_bad_input(tmp_path, session):
    with pytest.raises(SessionError, match="not a session"):
        run(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(ConfigError):
        run(session, tmp_path / "out", num_stages=15)
    assert not (tmp_path / "out").exists()


if __name__ == "__main__":
    testing.main()
