import numpy as np
import pytest

from attn_jax.data.session_writer import SessionWriter
from attn_jax.data.sessions import SessionReader, read_events
from robots import selectors
from robots.record import record
from robots.replay import ReplayRobot
from tests import testing
from tests.data import fake_sessions


@pytest.mark.parametrize("episodes", [1, 3])
def test_recording_a_replay_gives_the_same_session(tmp_path, episodes):
    original = fake_sessions.write_session(tmp_path / "a", 5, episodes=episodes)
    robot = ReplayRobot(SessionReader(original))
    with SessionWriter(
        tmp_path / "b",
        action_space=robot.action_space,
        robot_type="Replay",
        image_format="png",
        sync=False,
        shard_size=3,
    ) as writer:
        record(
            robot,
            selectors.recorded(SessionReader(original)),
            writer,
            num_observations=5 * episodes,
            episodes=episodes,
        )

    def content(session):
        events = [(event.step, event.type, event.data) for event in read_events(session)]
        return events, {path.name: path.read_bytes() for path in (session / "frames").iterdir()}

    assert content(original) == content(tmp_path / "b")


def test_a_frame_is_shown_once_per_action(tmp_path):
    robot = ReplayRobot(SessionReader(fake_sessions.write_session(tmp_path / "s", 2)))
    assert np.array_equal(robot.get_observation(), fake_sessions.noise(0))
    assert robot.get_observation() is None
    assert robot.execute_action({"anything": True}) is True
    assert np.array_equal(robot.get_observation(), fake_sessions.noise(1))
    assert robot.execute_action({}) is True
    assert robot.get_observation() is None
    robot.cleanup()


if __name__ == "__main__":
    testing.main()
