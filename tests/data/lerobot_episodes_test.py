"""LeRobotDatasets as recorded episodes."""

import numpy as np
import pytest

from attn_jax.core.errors import EpisodeError
from attn_jax.data.lerobot import open_dataset
from attn_jax.data.lerobot_episodes import read_lerobot
from attn_jax.data.lerobot_writer import LeRobotWriter, image_feature, vector_feature
from launch.episode_sources import open_source
from tests import testing

SIZE = 16
LENGTHS = (4, 7)


def frames(seed, length):
    rng = np.random.default_rng(seed)
    return {
        "observation.images.front": rng.integers(0, 256, (length, SIZE, SIZE, 3), np.uint8),
        "observation.state": rng.normal(size=(length, 2)).astype(np.float32),
        "action": rng.normal(size=(length, 3)).astype(np.float32),
    }


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lerobot") / "toy"
    features = {
        "observation.images.front": image_feature(SIZE, SIZE, "image"),
        "observation.state": vector_feature(("x", "y")),
        "action": vector_feature(("a", "b", "c")),
    }
    with LeRobotWriter(folder, fps=10, features=features, robot_type="toy") as writer:
        for seed, length in enumerate(LENGTHS):
            writer.add_episode(frames(seed, length), f"task {seed}", {"success": seed == 1})
    return open_dataset(folder)


def test_every_third_frame_with_chunks_that_end_with_the_episode(dataset):
    episode, recorded = read_lerobot(dataset, 1, step=3, horizon=3), frames(1, 7)
    assert episode.env_step.tolist() == [0, 3, 6]
    assert episode.prompt == "task 1" and episode.info["success"] is True
    assert episode.info["fps"] == 10 and episode.info["num_frames"] == 7
    assert episode.cameras == ("front",)
    shown = recorded["observation.images.front"][[0, 3, 6]]
    np.testing.assert_array_equal(episode.images["front"], shown)
    np.testing.assert_array_equal(episode.state, recorded["observation.state"][[0, 3, 6]])
    assert episode.actions is not None
    expected = recorded["action"][[[0, 1, 2], [3, 4, 5], [6, 6, 6]]]
    np.testing.assert_array_equal(episode.actions, expected)


def test_what_is_not_there(dataset):
    with pytest.raises(EpisodeError, match=r"has no episode 2.*It has 2"):
        read_lerobot(dataset, 2)
    with pytest.raises(EpisodeError, match="at least 1"):
        read_lerobot(dataset, 0, step=0)


def test_a_dataset_is_a_source(dataset):
    source = open_source(dataset.root)
    assert (source.kind, source.names) == ("lerobot", ("episode_00000", "episode_00001"))
    episode = source.read(0)
    assert episode.info["source"] == "lerobot:toy/0" and episode.info["success"] is False


if __name__ == "__main__":
    testing.main()
