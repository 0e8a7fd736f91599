import dataclasses

import numpy as np
import pytest

from attn_jax.core.errors import ConfigError, EpisodeError
from attn_jax.data.episodes import episode_folder, write_episode
from launch.episode_sources import matched_cameras, open_source, with_cameras
from tests import testing
from tests.data import fake_droid, fake_episodes, small_dataset


def test_recordings_and_runs_are_told_apart(tmp_path):
    fake_droid.save_droid(tmp_path / "droid", success=False)
    source = open_source(tmp_path / "droid", cameras=("wrist",))
    assert (source.kind, source.names) == ("droid", ("failure/2025-12-10/2025-12-10_12-34-00",))
    assert source.read(0).cameras == ("wrist",)
    episode = fake_episodes.fake_episode()
    for number in (0, 2):
        write_episode(episode_folder(tmp_path / "run", number), episode)
    source = open_source(tmp_path / "run")
    assert (source.kind, source.names) == ("run", ("episode_00000", "episode_00002"))
    fake_episodes.equal(source.read(1), episode)
    one = open_source(episode_folder(tmp_path / "run", 2))
    assert one.names == ("episode_00002",)


def test_some_of_the_cameras_of_every_source(tmp_path):
    write_episode(episode_folder(tmp_path / "run", 0), fake_episodes.fake_episode())
    small_dataset.write_dataset(tmp_path / "lerobot")
    fake_droid.save_droid(tmp_path / "droid")
    for kind, everything in (
        ("run", ("front", "wrist")),
        ("lerobot", ("front", "wrist")),
        ("droid", ("left", "wrist")),
    ):
        complete = open_source(tmp_path / kind).read(0)
        assert complete.cameras == everything
        some = open_source(tmp_path / kind, cameras=("wrist",)).read(0)
        assert some.cameras == ("wrist",) and set(some.info["geometry"]) <= {"wrist"}
        np.testing.assert_array_equal(some.images["wrist"], complete.images["wrist"])
        with pytest.raises(ConfigError, match="names a camera twice"):
            open_source(tmp_path / kind, cameras=("wrist", "wrist"))
        if kind != "droid":
            with pytest.raises(ConfigError, match=r"no camera side\. It has front, wrist"):
                open_source(tmp_path / kind, cameras=("wrist", "side")).read(0)
    with pytest.raises(ConfigError, match="front"):
        open_source(tmp_path / "droid", cameras=("front",))


def test_checksums_tell_episodes_of_one_name_apart(tmp_path):
    for number, seed in enumerate((0, 1)):
        path = fake_droid.trajectory(seed=seed)
        fake_droid.save_droid(tmp_path / f"droid{number}", trajectory=path)
        episode = fake_episodes.fake_episode()
        episode = dataclasses.replace(episode, state=episode.state + np.float32(seed))
        write_episode(episode_folder(tmp_path / f"run{number}", 0), episode)
    small_dataset.write_dataset(tmp_path / "lerobot")
    for kind in ("droid", "run"):
        ours, theirs = (open_source(tmp_path / f"{kind}{number}") for number in (0, 1))
        assert ours.names == theirs.names and ours.checksum(0) != theirs.checksum(0)
        assert ours.checksum(0) == open_source(tmp_path / f"{kind}0").checksum(0)
    dataset = open_source(tmp_path / "lerobot")
    assert len({dataset.checksum(number) for number in range(len(dataset.names))}) > 1


def test_cameras_under_other_names():
    panels = {"front": [0, 0, 6, 8], "wrist": [0, 8, 6, 8]}
    before = fake_episodes.fake_episode(calibrated=True)
    before = dataclasses.replace(before, info={**before.info, "video": {"panels": panels}})
    after = with_cameras(before, {"wrist": "front", "front": "base"})
    assert after.cameras == ("front", "base") and set(after.masks) == {"base"}
    np.testing.assert_array_equal(after.images["front"], before.images["wrist"])
    np.testing.assert_array_equal(after.masks["base"], before.masks["front"])
    for new, old in (("front", "wrist"), ("base", "front")):
        pose = after.calibration[new].pose
        np.testing.assert_array_equal(pose, before.calibration[old].pose)
    assert after.info["geometry"] == {"base": before.info["geometry"]["front"]}
    assert after.info["video"]["panels"] == {"front": panels["wrist"], "base": panels["front"]}


def test_every_camera_of_a_recording_needs_one_of_the_checkpoint():
    known = ("front", "wrist")
    assert matched_cameras(known, known, {}) == {"front": "front", "wrist": "wrist"}
    assert matched_cameras(known, known, {"front": "wrist", "wrist": "front"}) == {
        "front": "wrist",
        "wrist": "front",
    }
    # No name is free for a third one: it can only be left out.
    with pytest.raises(ConfigError) as three:
        matched_cameras((*known, "side"), known, {})
    assert "no camera for side" in str(three.value) and "--rename=" not in three.value.fix
    assert "--recorded_cameras=front,wrist" in str(three.value)
    with pytest.raises(ConfigError, match="--rename=side:wrist"):
        matched_cameras(("front", "side"), known, {})
    for rename in ({"side": "front"}, {"front": "wrist"}):
        with pytest.raises(ConfigError, match="would both be"):
            matched_cameras((*known, "side"), known, rename)
    with pytest.raises(ConfigError, match=r"front and side .* both be 'front'.*=front,wrist"):
        matched_cameras((*known, "side"), known, {"side": "front"})
    with pytest.raises(ConfigError, match="an episode without any"):
        matched_cameras((), known, {})


def test_the_first_episode_that_can_be_read(tmp_path):
    first = fake_episodes.fake_episode(seed=1)
    for number in range(3):
        write_episode(
            episode_folder(tmp_path, number), first if number else fake_episodes.fake_episode()
        )
    damaged = [episode_folder(tmp_path, number) / "observations.npz" for number in range(3)]
    damaged[0].write_bytes(b"")
    fake_episodes.equal(open_source(tmp_path).first(), first)
    with pytest.raises(ConfigError, match="no camera side"):
        open_source(tmp_path, cameras=("side",)).first()
    for path in damaged:
        path.write_bytes(b"")
    with pytest.raises(EpisodeError, match="no episode can be read; episode_00000"):
        open_source(tmp_path).first()


def test_nothing_there(tmp_path):
    with pytest.raises(EpisodeError, match="no recorded episodes here"):
        open_source(tmp_path)
    with pytest.raises(EpisodeError, match="no such folder"):
        open_source(tmp_path / "none")


if __name__ == "__main__":
    testing.main()
