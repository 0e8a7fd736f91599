from __future__ import annotations

import numpy as np
import pytest

from attn_jax.core.errors import ConfigError
from attn_jax.data.action_chunks import ActionChunks, split_episodes
from attn_jax.data.lerobot import DatasetError, open_dataset
from tests import testing
from tests.data import small_dataset as small


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return open_dataset(small.write_dataset(tmp_path_factory.mktemp("lerobot")))


def test_a_batch_is_the_same_whether_pictures_are_kept_or_decoded(dataset):
    kept, lazy = ActionChunks(dataset, 3), ActionChunks(dataset, 3, cache_bytes=0)
    assert kept.cached and not lazy.cached
    indices = np.array([11, 0, 4])
    first, second = kept.gather(indices), lazy.gather(indices)
    assert first.keys() == second.keys()
    for key, value in first.items():
        np.testing.assert_array_equal(second[key], value, err_msg=key)
    np.testing.assert_array_equal(first[small.CAMERAS[1]], small.pictures(12, 32, 1)[indices])
    assert first["task"] == [small.TASKS[1], small.TASKS[0], small.TASKS[0]]
    assert first["action_is_pad"].tolist() == [
        [False, True, True],
        [False, False, False],
        [False, True, True],
    ]


def test_cameras_are_chosen_by_name(dataset):
    source = ActionChunks(dataset, 3, [small.CAMERAS[1]])
    assert small.CAMERAS[0] not in source.gather(np.array([0]))
    with pytest.raises(ConfigError, match=r"no camera 'depth'.*front"):
        ActionChunks(dataset, 3, ["depth"])


def test_further_columns_come_along(dataset):
    source = ActionChunks(dataset, 3, columns=["timestamp"])
    found = source.gather(np.array([3, 0]))["timestamp"]
    np.testing.assert_array_equal(found, dataset.column("timestamp")[[3, 0]])
    with pytest.raises(DatasetError, match="no feature 'look_at'"):
        ActionChunks(dataset, 3, columns=["look_at"])


def test_episodes_are_held_out_whole(dataset):
    source = ActionChunks(dataset, 3)
    train, held_out = split_episodes(2, 0.1)
    assert train.tolist() == [0] and held_out.tolist() == [1]
    assert source.samples(held_out).tolist() == list(range(5, 12))
    assert [len(part) for part in split_episodes(40, 0.1)] == [36, 4]
    assert [len(part) for part in split_episodes(3, 0.0)] == [3, 0]
    for count, share in ((1, 0.1), (4, 1.0), (4, -0.1), (4, float("nan"))):
        with pytest.raises(ConfigError, match="cannot be held out"):
            split_episodes(count, share)


@pytest.mark.parametrize(("share", "first_frames"), [(0.0, 2), (0.3, 4), (0.5, 10), (0.75, 30)])
def test_first_frames_are_repeated(dataset, share, first_frames):
    source = ActionChunks(dataset, 3)
    found = source.samples(np.arange(2), share)
    assert found[:12].tolist() == list(range(12))
    assert sorted(found[12:].tolist()) == sorted([0, 5] * (first_frames // 2 - 1))
    with pytest.raises(ConfigError, match="share of 1"):
        source.samples(np.arange(2), 1.0)


if __name__ == "__main__":
    testing.main()
