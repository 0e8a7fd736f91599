import pytest

from attn_jax.core.errors import EpisodeError
from attn_jax.data.droid import DroidOptions
from attn_jax.data.episodes import episode_folder, write_episode
from launch.episode_sources import open_source
from tests import testing
from tests.data import fake_droid, fake_episodes


def test_recordings_and_runs_are_told_apart(tmp_path):
    fake_droid.save_droid(tmp_path / "droid", success=False)
    source = open_source(tmp_path / "droid", DroidOptions(cameras=("wrist",)))
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


def test_nothing_there(tmp_path):
    with pytest.raises(EpisodeError, match="no recorded episodes here"):
        open_source(tmp_path)
    with pytest.raises(EpisodeError, match="no such folder"):
        open_source(tmp_path / "none")


if __name__ == "__main__":
    testing.main()
