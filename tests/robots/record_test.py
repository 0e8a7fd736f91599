import json

import numpy as np
import pytest

from attn_jax.core.errors import ConfigError, SessionError
from attn_jax.data.frames import load_frames
from attn_jax.data.session_check import validate_session
from attn_jax.data.session_writer import SessionWriter
from attn_jax.data.sessions import SessionReader, read_events
from robots import selectors
from robots.interface import RobotError
from robots.record import record
from robots.toroidal_dot import DotConfig, ToroidalDot, locate_dot
from tests import testing

CONFIG = DotConfig.of_size(64)


def record_dot(path, seed=0, num_observations=12, episodes=1, robot=None, select=None, **options):
    robot = robot or ToroidalDot(CONFIG, seed=seed)
    select = select or selectors.random_duration(1, 3, seed)
    options = {"sync": False} | options
    with SessionWriter(
        path, action_space=robot.action_space, robot_type=type(robot).__name__, **options
    ) as writer:
        return record(robot, select, writer, num_observations=num_observations, episodes=episodes)


def test_begins_and_ends_with_an_observation(tmp_path):
    summary = record_dot(tmp_path / "s")
    kinds = [event.type for event in read_events(tmp_path / "s")]
    assert kinds == ["observation", "action"] * 11 + ["observation"]
    assert (summary.observations, summary.actions, summary.episodes) == (12, 11, 1)
    assert sum(summary.action_counts) == 11
    assert validate_session(tmp_path / "s").ok
    assert "episode_boundary" not in SessionReader(tmp_path / "s").meta


@pytest.mark.parametrize("image_format", ["jpeg", "png"])
def test_each_action_leads_to_the_next_frame(tmp_path, image_format):
    record_dot(tmp_path / "s", num_observations=40, image_format=image_format)
    store = load_frames(tmp_path / "s")
    fit = locate_dot(store.frames, CONFIG.radius)
    moved = (np.diff(fit.x) % 64) == CONFIG.move
    assert (moved == (store.action_after[:-1] == 1)).all()
    assert (moved | (np.diff(fit.x) == 0)).all() and (fit.y == fit.y[0]).all()


def test_same_seed_gives_the_same_bytes(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        record_dot(tmp_path / name, seed=seed, episodes=2)

    def content(name):
        session = tmp_path / name
        frames = {path.name: path.read_bytes() for path in (session / "frames").iterdir()}
        events = [
            json.loads(line) | {"timestamp": 0}
            for line in (session / "events_shard_000.jsonl").read_text().splitlines()
        ]
        meta = json.loads((session / "session_meta.json").read_text())
        varying = ("start_time", "end_time", "session_name")
        return frames, events, {key: meta[key] for key in meta if key not in varying}

    assert content("a") == content("b")
    assert content("a") != content("c")


def test_episodes(tmp_path):
    summary = record_dot(tmp_path / "s", num_observations=11, episodes=3)
    assert (summary.observations, summary.actions, summary.episodes) == (11, 8, 3)
    meta = SessionReader(tmp_path / "s").meta
    assert meta["episode_boundary"] == [0, 8, 16]  # 4, 4 and 3 observations
    assert validate_session(tmp_path / "s").ok
    store = load_frames(tmp_path / "s")
    assert len(store.windows(3)) == 2 + 2 + 1
    assert len(set(locate_dot(store.frames, 5).y.tolist())) == 3  # the dot was placed anew


def test_selector_may_end_the_recording(tmp_path):
    record_dot(tmp_path / "first", num_observations=4)
    select = selectors.recorded(SessionReader(tmp_path / "first"))
    summary = record_dot(tmp_path / "s", num_observations=50, select=select)
    assert summary.observations == 4
    assert validate_session(tmp_path / "s").ok


class Broken(ToroidalDot):
    def __init__(self, pictures, works=True):
        super().__init__(CONFIG)
        self.pictures = pictures
        self.works = works

    def get_observation(self):
        self.pictures -= 1
        return super().get_observation() if self.pictures >= 0 else None

    def execute_action(self, action):
        return self.works


def test_robot_that_gives_no_picture(tmp_path):
    with pytest.raises(RobotError, match="Broken gave no picture"):
        record_dot(tmp_path / "s", robot=Broken(pictures=3))
    assert len(read_events(tmp_path / "s")) == 6
    assert "end_time" in SessionReader(tmp_path / "s").meta


def test_failed_action_is_not_recorded(tmp_path):
    with pytest.raises(RobotError, match=r"could not execute {'action'"):
        record_dot(tmp_path / "s", robot=Broken(pictures=9, works=False))
    assert [event.type for event in read_events(tmp_path / "s")] == ["observation"]


def test_unknown_action_stops(tmp_path):
    with pytest.raises(SessionError, match=r"unknown action {'action': 9}"):
        record_dot(tmp_path / "s", select=selectors.constant({"action": 9}))


@pytest.mark.parametrize(("observations", "episodes"), [(2, 3), (5, 0), (0, 1)])
def test_numbers_that_do_not_fit(tmp_path, observations, episodes):
    with pytest.raises(ConfigError, match="cannot fill"):
        record_dot(tmp_path / "s", num_observations=observations, episodes=episodes)


if __name__ == "__main__":
    testing.main()
