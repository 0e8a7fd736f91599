"""Tests of robots.dataset on made-up demonstrations."""

import numpy as np
import pytest

from attn_jax.core.errors import DiskFullError
from attn_jax.data.lerobot import open_dataset
from attn_jax.data.lerobot_beside import read_masks, read_notes, read_views
from attn_jax.data.lerobot_writer import image_feature, vector_feature
from robots.dataset import (
    Demonstration,
    DemonstrationDataset,
    look_at_features,
    target_shares,
)
from tests import testing

SIZE, LENGTH = 16, 3
FEATURES = {
    "observation.images.front": image_feature(SIZE, SIZE, "image"),
    "action": vector_feature(("x", "y")),
    **look_at_features(["front"]),
}


def demo(seed, *, success=True):
    """The target covers the four pixels at row 2, column 4; noise is everything else."""
    random = np.random.default_rng(seed)
    masks = np.zeros((LENGTH, SIZE, SIZE), np.uint8)
    masks[:, 2:4, 4:6] = 2
    return Demonstration(
        frames={
            "observation.images.front": random.integers(0, 256, (LENGTH, SIZE, SIZE, 3), np.uint8),
            "action": random.normal(size=(LENGTH, 2)).astype(np.float32),
        },
        masks={"front": masks},
        views={"depth": {"front": random.random((LENGTH, SIZE, SIZE), np.float32)}},
        poses={"front": np.tile(np.eye(4), (LENGTH, 1, 1))},
        intrinsics={"front": np.eye(3)},
        info={
            "seed": seed,
            "prompt": "push it",
            "success": success,
            "objects": ["ball", "cube"],
            "roles": {"cube": "target", "ball": "distractor"},
        },
    )


def dataset(folder, commit_every=2):
    return DemonstrationDataset(
        folder,
        fps=10,
        features=FEATURES,
        robot_type="made_up",
        settings={},
        commit_every=commit_every,
        look_at=True,
    )


def test_what_lies_beside_an_episode(tmp_path):
    with dataset(tmp_path) as writer:
        writer.add(demo(5, success=False), {"seed": 5})
    assert (writer.episodes, writer.frames, writer.state) == (1, LENGTH, {"seed": 5})
    (note,) = read_notes(tmp_path)
    assert note == {"episode_index": 0, **demo(5, success=False).info}
    np.testing.assert_array_equal(read_masks(tmp_path, 0)["front"], demo(5).masks["front"])
    views = read_views(tmp_path, 0)
    assert set(views) == {"depth.front", "pose.front", "intrinsics.front"}
    np.testing.assert_array_equal(views["depth.front"], demo(5).views["depth"]["front"])
    # One cell of 2 x 2 pixels is covered: row 1, column 2 of 8.
    looks = open_dataset(tmp_path).column("look_at.front")
    assert looks.shape == (LENGTH, 64) and (looks[:, 10] == 1).all() and looks.sum() == LENGTH
    np.testing.assert_array_equal(looks, target_shares(demo(5))["look_at.front"])


def test_lines_of_episodes_that_were_lost_go(tmp_path):
    with pytest.raises(ZeroDivisionError), dataset(tmp_path) as writer:
        for seed in range(3):
            writer.add(demo(seed), {"seed": seed})
        # The third is not committed when the process ends.
        writer._writer._torn = True
        raise ZeroDivisionError
    assert len(read_notes(tmp_path)) == 3
    with dataset(tmp_path) as writer:
        assert writer.episodes == 2 and writer.state == {"seed": 1}
        writer.add(demo(7), {"seed": 7})
    assert [note["seed"] for note in read_notes(tmp_path)] == [0, 1, 7]
    actions = open_dataset(tmp_path).column("action")
    np.testing.assert_array_equal(actions[-LENGTH:], demo(7).frames["action"])


def test_a_full_disk_is_named(tmp_path):
    with dataset(tmp_path, commit_every=1) as writer:
        writer.add(demo(0), {})
        with testing.full_disk(1000), pytest.raises(DiskFullError, match="while writing a dataset"):
            writer.add(demo(1), {})
        writer.close(finished=False)
    assert len(read_notes(tmp_path)) == 1
    assert len(open_dataset(tmp_path).column("action")) == LENGTH


if __name__ == "__main__":
    testing.main()
