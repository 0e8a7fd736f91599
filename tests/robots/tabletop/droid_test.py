"""Demonstrations as DROID-style recordings, read back by the reader of such recordings."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from attn_jax.core.errors import ConfigError, SessionError
from attn_jax.data.droid import DroidOptions, droid_episodes, read_droid
from attn_jax.data.droid_files import read_trajectory
from attn_jax.data.droid_writer import LAYOUTS
from robots.tabletop import droid
from robots.tabletop.camera import FRONT
from robots.tabletop.demonstrations import TabletopConfig, demonstrations
from robots.tabletop.env import FPS, MOVE_M
from robots.tabletop.record import Recording, record
from tests import testing

SMALL = TabletopConfig(size=16)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_recordings_are_read_back(tmp_path, layout):
    recording = Recording(SMALL, seed=7, episodes=2, format="droid", layout=layout)
    summary = record(recording, tmp_path / "d")
    demos = list(demonstrations(SMALL, [7, 8]))
    assert (summary.episodes, summary.successes) == (2, 2)
    assert summary.frames == sum(demo.info["length"] for demo in demos)
    folders = droid_episodes(tmp_path / "d")
    names = [f"success/2025-01-01/scene_00000{seed}_0" for seed in (7, 8)]
    assert [str(folder.relative_to(tmp_path / "d")) for folder in folders] == names
    for folder, demo in zip(folders, demos, strict=True):
        episode = read_droid(folder, DroidOptions(horizon=3))
        steps = np.arange(0, demo.info["length"], 8)
        assert episode.env_step.tolist() == steps.tolist()
        assert episode.prompt == demo.info["prompt"] and episode.info["fps"] == FPS
        assert episode.info["success"] is True and episode.info["masks"] == layout
        for ours, theirs in (("front", "left"), ("wrist", "wrist")):
            pictures = demo.frames[f"observation.images.{ours}"][steps].astype(int)
            assert np.abs(episode.images[theirs] - pictures).mean() < 4  # JPEG
        seen = set()
        for number, name in enumerate(demo.info["objects"]):
            expected = demo.masks["wrist"][steps] == number + 1
            if expected.any():
                seen.add(name)
                found = episode.masks["wrist"][:, episode.objects.index(name)]
                np.testing.assert_array_equal(found, expected)
        assert set(episode.objects) == seen
        assert episode.roles == {name: demo.info["roles"][name] for name in episode.objects}
        state = demo.frames["observation.state"]
        np.testing.assert_allclose(episode.state[:, :6], state[steps, :6], atol=1e-7)
        opening = np.clip(1 - state[steps, 6] / 0.08, 0, 1)
        np.testing.assert_allclose(episode.state[:, 7], opening, atol=1e-6)
        assert episode.actions is not None
        moves = demo.frames["action"][:3, :3] * MOVE_M * FPS
        np.testing.assert_allclose(episode.actions[0, :, :3], moves, atol=1e-7)
        grip = (1 + demo.frames["action"][:3, 6]) / 2
        np.testing.assert_allclose(episode.actions[0, :, 7], grip, atol=1e-7)


def test_cameras_poses_and_times(tmp_path):
    record(Recording(SMALL, seed=7, format="droid", masks=False), tmp_path / "d")
    demo = next(demonstrations(SMALL, [7]))
    (folder,) = droid_episodes(tmp_path / "d")
    found = read_trajectory(folder)
    matrix = FRONT.of_size(16, 16).intrinsics
    np.testing.assert_allclose(found.intrinsics["varied_camera_1"], matrix)
    for raw, name in (("varied_camera_1", "front"), ("hand_camera", "wrist")):
        pose = found.extrinsics[raw]
        np.testing.assert_allclose(pose[:, :3], demo.poses[name][:, :3, 3], atol=1e-12)
        turn = Rotation.from_euler("xyz", pose[:, 3:]).as_matrix()
        np.testing.assert_allclose(turn, demo.poses[name][:, :3, :3], atol=1e-12)
    assert found.rate_hz() == FPS
    assert found.cartesian_position is not None
    aim = demo.frames["observation.state"][0, :3] + MOVE_M * demo.frames["action"][0, :3]
    np.testing.assert_allclose(found.cartesian_position[0, :3], aim, atol=1e-7)
    assert read_droid(folder, DroidOptions(masks="none")).masks == {}


def files_of(root):
    return {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_a_crash_is_continued_and_failures_have_their_folder(tmp_path, monkeypatch):
    hasty = TabletopConfig(size=8, max_steps=22, every_target=True)
    recording = Recording(hasty, episodes=3, format="droid")
    summary = record(recording, tmp_path / "whole")
    assert 0 < summary.successes < summary.attempts == 6
    outcomes = [f.parts[-3] for f in droid_episodes(tmp_path / "whole")]
    assert outcomes.count("success") == summary.successes and len(outcomes) == 6
    write, calls = droid.write_droid, []

    def crash(folder, **arguments):
        write(folder, **arguments)
        calls.append(folder)
        if len(calls) == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(droid, "write_droid", crash)
        record(recording, tmp_path / "d")
    assert len(droid_episodes(tmp_path / "d")) == 3
    with pytest.raises(SessionError, match="of other settings: seed: was 0, now 1"):
        record(Recording(hasty, seed=1, episodes=3, format="droid"), tmp_path / "d")
    assert record(recording, tmp_path / "d") == summary
    assert files_of(tmp_path / "d") == files_of(tmp_path / "whole")
    with pytest.raises(SessionError, match="already holds recordings"):
        record(recording, tmp_path / "d")


@pytest.mark.parametrize(
    ("config", "fields", "message"),
    [
        ({"cameras": ("front", "top")}, {}, r"cameras: .*\['front', 'top'\].*Use wrist"),
        ({"cameras": ("front",)}, {}, "Use wrist"),
        ({"views": ("depth",)}, {}, "no look_at, views or storage"),
        ({}, {"look_at": True}, "no look_at, views or storage"),
        ({}, {"layout": "sam"}, "unknown layout 'sam'"),
        ({}, {"format": "rlds"}, "unknown format 'rlds'"),
    ],
)
def test_what_the_layout_cannot_hold(config, fields, message):
    with pytest.raises(ConfigError, match=message):
        Recording(TabletopConfig(size=8, **config), **({"format": "droid"} | fields))


if __name__ == "__main__":
    testing.main()
