"""Reading LeRobotDataset v3: hand-written folders, and the values of LeRobot's own reader."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from attn_jax.data.lerobot import DatasetError, open_dataset
from tests import testing
from tests.data import small_dataset as small

FRONT = small.CAMERAS[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small.write_dataset(tmp_path_factory.mktemp("lerobot") / "images")


def test_everything_but_pictures_is_read(folder):
    dataset = open_dataset(folder)
    assert len(dataset) == 12 and dataset.fps == 10 and dataset.cameras == small.CAMERAS
    assert dataset.episodes.tolist() == [[0, 5], [5, 12]]
    assert dataset.column("observation.state").shape == (12, small.STATE_DIM)
    assert dataset.task_of([0, 5]) == list(small.TASKS)
    assert dataset.stats["action"]["q01"].tolist() == [-1, -1, -1]


def test_chunks_end_with_the_episode(folder):
    dataset = open_dataset(folder)
    values, is_pad = dataset.chunk("action", [3, 5], [-1, 0, 1, 2])
    actions = dataset.column("action")
    np.testing.assert_array_equal(values[0], actions[[2, 3, 4, 4]])
    np.testing.assert_array_equal(values[1], actions[[5, 5, 6, 7]])
    assert is_pad.tolist() == [[False, False, False, True], [True, False, False, False]]


def test_pictures_are_lossless_and_in_the_order_asked_for(folder):
    shown = open_dataset(folder).frames(FRONT, [7, 0, 7])
    np.testing.assert_array_equal(shown, small.pictures(12, 32, 0)[[7, 0, 7]])


def test_video_frames_are_found_by_time(tmp_path):
    dataset = open_dataset(small.write_dataset(tmp_path, video=True))
    shown = dataset.frames(FRONT, [11, 0, 5]).astype(int)
    for i, picture in zip([11, 0, 5], shown, strict=True):
        off = np.abs(small.pictures(12, 32, 0).astype(int) - picture).mean(axis=(1, 2, 3))
        assert off.argmin() == i and off[i] < 6


def test_exact_statistics_are_numpys(folder):
    dataset = open_dataset(folder)
    found, values = dataset.statistics("action"), dataset.column("action").astype(np.float64)
    np.testing.assert_allclose(found["q99"], np.quantile(values, 0.99, axis=0), rtol=1e-6)
    np.testing.assert_allclose(found["std"], values.std(axis=0), rtol=1e-6)
    assert dataset.statistics("action", exact=False)["q01"].tolist() == [-1, -1, -1]
    with pytest.raises(DatasetError, match=r"no statistics of 'observation\.state'"):
        dataset.statistics("observation.state", exact=False)


def test_errors_name_the_file_or_the_feature(folder, tmp_path):
    dataset = open_dataset(folder)
    with pytest.raises(DatasetError, match=r"no feature 'speed'.*observation.state"):
        dataset.column("speed")
    with pytest.raises(DatasetError, match=r"no camera 'action'"):
        dataset.frames("action", [0])
    with pytest.raises(DatasetError, match=r"info\.json: cannot be read"):
        open_dataset(tmp_path)

    def changed(name):
        return small.write_dataset(tmp_path / name)

    root = changed("version")
    info = json.loads((root / "meta/info.json").read_text())
    (root / "meta/info.json").write_text(json.dumps({**info, "codebase_version": "v2.1"}))
    with pytest.raises(DatasetError, match=r"format 'v2\.1'"):
        open_dataset(root)
    root = changed("cut_off")
    file = root / "data/chunk-000/file-000.parquet"
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(DatasetError, match=r"file-000\.parquet: cannot be read.*not finalised"):
        open_dataset(root)
    root = changed("shorter")
    file = root / "data/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(file).slice(0, 11), file)
    with pytest.raises(DatasetError, match="covers 12 frames, the data hold 11"):
        open_dataset(root)
    root = changed("feature")
    info["features"]["force"] = {"dtype": "float32", "shape": [2], "names": None}
    (root / "meta/info.json").write_text(json.dumps(info))
    with pytest.raises(DatasetError, match="lacks the feature 'force'"):
        open_dataset(root)


@pytest.mark.bridge
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # lerobot's own
@pytest.mark.parametrize("video", [False, True])
def test_values_are_those_of_lerobots_own_reader(tmp_path, video):
    testing.require_module("lerobot")
    from lerobot.configs.video import RGBEncoderConfig
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    picture = {"dtype": "video" if video else "image", "shape": (32, 48, 3)}
    features = {
        FRONT: {**picture, "names": ["height", "width", "channels"]},
        "observation.state": {"dtype": "float32", "shape": (2,), "names": ["x", "y"]},
        "action": {"dtype": "float32", "shape": (3,), "names": ["x", "y", "z"]},
    }
    root = tmp_path / "dataset"
    options = {"rgb_encoder": RGBEncoderConfig(vcodec="h264")} if video else {}
    writer = LeRobotDataset.create(
        "test/test", fps=10, features=features, root=root, use_videos=video, **options
    )
    rng = np.random.default_rng(0)
    for episode, length in enumerate((4, 6)):
        for _ in range(length):
            writer.add_frame(
                {
                    FRONT: rng.integers(0, 256, (32, 48, 3), np.uint8),
                    "observation.state": rng.normal(size=2).astype(np.float32),
                    "action": rng.normal(size=3).astype(np.float32),
                    "task": ["pick", "place"][episode],
                }
            )
        writer.save_episode()
    writer.finalize()
    offsets = range(3)
    theirs = LeRobotDataset(
        "test/test",
        root=root,
        video_backend="pyav",
        delta_timestamps={"action": [i / 10 for i in offsets]},
    )
    ours = open_dataset(root)
    assert len(ours) == len(theirs) == 10
    chunks, is_pad = ours.chunk("action", np.arange(10), offsets)
    shown = ours.frames(FRONT, np.arange(10))
    for i in range(10):
        item = theirs[i]
        assert item["task"] == ours.task_of([i])[0]
        np.testing.assert_array_equal(item["action"].numpy(), chunks[i])
        np.testing.assert_array_equal(item["action_is_pad"].numpy(), is_pad[i])
        np.testing.assert_array_equal(
            item["observation.state"].numpy(), ours.column("observation.state")[i]
        )
        expected = shown[i].transpose(2, 0, 1).astype(np.float32) / 255
        np.testing.assert_allclose(item[FRONT].numpy(), expected, atol=1e-7)
    for name, value in theirs.meta.stats["action"].items():
        np.testing.assert_allclose(ours.stats["action"][name], value)


if __name__ == "__main__":
    testing.main()
