"""LeRobotDatasets as recorded episodes."""

import dataclasses
import json
import shutil

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


@pytest.mark.parametrize("unknown", [None, float("nan")])
def test_an_outcome_that_nobody_knows_is_no_failure(dataset, unknown):
    table = {**dataset.episode_table, "success": [True, unknown]}
    some = dataclasses.replace(dataset, episode_table=table)
    outcomes = [read_lerobot(some, number).info["success"] for number in (0, 1)]
    assert outcomes == [True, None]


def test_what_is_not_there(dataset):
    with pytest.raises(EpisodeError, match=r"has no episode 2.*It has 2"):
        read_lerobot(dataset, 2)
    with pytest.raises(EpisodeError, match="at least 1"):
        read_lerobot(dataset, 0, step=0)


def ids(length):
    """A thing that moves right, one at rest, and the robot."""
    out = np.zeros((length, SIZE, SIZE), np.uint8)
    for frame in range(length):
        out[frame, 2:5, frame : frame + 3] = 1
    out[:, 8:12, 8:12] = 2
    out[:, 14:, :] = 255
    return out


@pytest.fixture
def with_masks(dataset, tmp_path):
    root = tmp_path / "toy"
    shutil.copytree(dataset.root, root)
    note = {"objects": ["cube", "tray"], "roles": {"cube": "target", "tray": "place"}}
    note |= {"other_prompts": ["another"], "seed": 4, "lifted": None}
    lines = [json.dumps({"episode_index": number, **note}) + "\n" for number in (0, 1)]
    (root / "episodes.jsonl").write_text("".join(lines))
    (root / "masks").mkdir()
    np.savez_compressed(root / "masks/episode_000001.npz", front=ids(7))
    return root


def test_masks_and_notes_beside_it(with_masks):
    dataset = open_dataset(with_masks)
    episode = read_lerobot(dataset, 1, step=3, horizon=3)
    assert episode.objects == ("cube", "tray")
    assert episode.roles == {"cube": "target", "tray": "place"}
    assert episode.info["other_prompts"] == ["another"] and episode.info["seed"] == 4
    expected = np.stack([ids(7)[[0, 3, 6]] == 1, ids(7)[[0, 3, 6]] == 2], axis=1)
    np.testing.assert_array_equal(episode.masks["front"], expected)
    without = read_lerobot(dataset, 0)
    assert without.masks == {} and without.objects == ("cube", "tray")


def test_cameras_beside_it(with_masks):
    (with_masks / "views").mkdir()
    path = with_masks / "views/episode_000001.npz"
    views = {
        "depth.front": np.arange(7.0)[:, None, None] * np.ones((SIZE, SIZE)),
        "pose.front": np.tile(np.eye(4), (7, 1, 1)) * np.arange(7)[:, None, None],
        "intrinsics.front": np.eye(3) * 5,
    }
    np.savez(path, **views)
    dataset = open_dataset(with_masks)
    seen = read_lerobot(dataset, 1, step=3, horizon=3).calibration
    assert [*seen] == ["front"] and seen["front"].depth_m[:, 2, 3].tolist() == [0, 3, 6]
    assert seen["front"].pose[:, 0, 0].tolist() == [0, 3, 6] and seen["front"].intrinsics[0, 0] == 5
    assert not read_lerobot(dataset, 0).calibration
    np.savez(path, **{name: array for name, array in views.items() if "pose" not in name})
    with pytest.raises(EpisodeError, match=r"000001.npz: depth of 'front' without its pose"):
        read_lerobot(dataset, 1)
    np.savez(path, **(views | {"depth.front": np.ones((6, SIZE, SIZE))}))
    with pytest.raises(EpisodeError, match=r"000001.npz: depth of 'front' is \(6, 16, 16\), not"):
        read_lerobot(dataset, 1)


@pytest.mark.parametrize(
    ("masks", "note", "message"),
    [
        ({"front": ids(6)}, None, r"000001.npz: masks of 'front' are \(6, 16, 16\).*\(7, 16, 16\)"),
        ({"top": ids(7)}, None, r"masks of 'top' are .*no such camera"),
        ({"front": ids(7) + 1}, None, r"000001.npz: ids \[3\].*2 objects: cube, tray"),
        (
            {"front": ids(7)},
            '{"episode_index": 1}\n',
            r"masks of objects without names",
        ),
    ],
)
def test_masks_that_do_not_fit(with_masks, masks, note, message):
    np.savez_compressed(with_masks / "masks/episode_000001.npz", **masks)
    if note is not None:
        (with_masks / "episodes.jsonl").write_text(note)
    with pytest.raises(EpisodeError, match=message):
        read_lerobot(open_dataset(with_masks), 1)


def test_a_dataset_is_a_source(dataset):
    source = open_source(dataset.root)
    assert (source.kind, source.names) == ("lerobot", ("episode_00000", "episode_00001"))
    episode = source.read(0)
    assert episode.info["source"] == "lerobot:toy/0" and episode.info["success"] is False


if __name__ == "__main__":
    testing.main()
