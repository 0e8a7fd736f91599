import json

import pytest

from attn_jax.core.errors import ConfigError
from launch import sessions
from tests import testing
from tests.data import fake_sessions


@pytest.fixture
def session(tmp_path):
    return fake_sessions.write_session(tmp_path / "s", 5)


def test_good_session(session):
    done = testing.run_python("-m", "launch.sessions", "validate", str(session), "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["ok"] and result["sessions"][0]["observations"] == 5


def test_bad_session_names_its_steps(session):
    (session / "frames" / "frame_000004.png").unlink()
    done = testing.run_python("-m", "launch.sessions", "validate", str(session), "--json")
    assert done.returncode == 2
    assert "error: 1 problem in" in done.stderr
    (problem,) = json.loads(done.stdout)["sessions"][0]["problems"]
    assert (problem["kind"], problem["step"]) == ("missing_frame", 4)


def test_description_of_problems(session):
    fake_sessions.drop_event(session, 3)
    text = sessions.describe(sessions.validate_session(session))
    assert "BAD; 5 observations, 3 actions, 1 episodes, 16x16" in text
    assert "gap: step 3: step 3 is missing" in text


@pytest.mark.parametrize("arguments", [[], ["validate"], ["repair", "x"]])
def test_usage(arguments):
    with pytest.raises(ConfigError, match=r"launch\.sessions validate SESSION"):
        sessions.main(arguments)


if __name__ == "__main__":
    testing.main()
