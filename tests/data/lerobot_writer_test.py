import contextlib
import io
import itertools
import json
import pathlib

import av
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from attn_jax.core.errors import ConfigError, SessionError
from attn_jax.data import lerobot_writer
from attn_jax.data.lerobot import open_dataset
from attn_jax.data.lerobot_stats import FeatureStats
from attn_jax.data.lerobot_writer import LeRobotWriter, image_feature, vector_feature
from tests import testing

KEY = "observation.images.front"


def features(storage, size=16):
    return {
        KEY: image_feature(size, size, storage),
        "observation.state": vector_feature(("x", "y")),
        "action": vector_feature(("a", "b", "c")),
    }


def episode(seed, length, size=16):
    """Smooth pictures, as a video codec expects them."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size] * (3.0 / size)
    colours = random.uniform(0, 6, (length, 1, 1, 3))
    waves = np.sin(x[None, :, :, None] + colours) * np.cos(y[None, :, :, None] + colours)
    return {
        KEY: np.rint(127 + 100 * waves).astype(np.uint8),
        "observation.state": random.normal(size=(length, 2)).astype(np.float32),
        "action": random.normal(size=(length, 3)).astype(np.float32),
    }


LENGTHS = (4, 7, 3)
TASKS = ("lift it", "drop it", "lift it")


def writer_of(folder, storage="image", **options):
    return LeRobotWriter(folder, fps=10, features=features(storage), robot_type="toy", **options)


def write(folder, storage="image", commit_every=50):
    """Writes what is not there yet."""
    episodes = [episode(seed, length) for seed, length in enumerate(LENGTHS)]
    with writer_of(folder, storage, commit_every=commit_every) as writer:
        for number in range(writer.episodes, len(LENGTHS)):
            task = TASKS[number]
            note = {"success": task == "lift it"}
            writer.add_episode(episodes[number], task, note, state=number)
    return episodes


def decode(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_rows_of_an_image_dataset(tmp_path):
    episodes = write(tmp_path)
    table = pq.ParquetFile(tmp_path / "data/chunk-000/file-000.parquet")
    assert table.num_row_groups == 3
    rows = table.read().to_pylist()
    assert [row["index"] for row in rows] == list(range(14))
    assert [row["episode_index"] for row in rows] == [0] * 4 + [1] * 7 + [2] * 3
    assert [row["frame_index"] for row in rows] == [*range(4), *range(7), *range(3)]
    assert [row["task_index"] for row in rows] == [0] * 4 + [1] * 7 + [0] * 3
    assert np.allclose([row["timestamp"] for row in rows[4:11]], np.arange(7) / 10)
    flat = {key: np.concatenate([e[key] for e in episodes]) for key in episodes[0]}
    for i, row in enumerate(rows):
        assert np.array_equal(np.float32(row["action"]), flat["action"][i])
        assert np.array_equal(np.float32(row["observation.state"]), flat["observation.state"][i])
        picture = np.asarray(Image.open(io.BytesIO(row[KEY]["bytes"])))
        assert np.array_equal(picture, flat[KEY][i])


def test_metadata(tmp_path):
    write(tmp_path)
    info = json.loads((tmp_path / "meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0" and info["video_path"] is None
    totals = (info["total_episodes"], info["total_frames"], info["total_tasks"])
    assert totals == (3, 14, 2) and info["splits"] == {"train": "0:3"}
    tasks = pd.read_parquet(tmp_path / "meta/tasks.parquet")
    assert tasks["task_index"].to_dict() == {"lift it": 0, "drop it": 1}
    rows = pd.read_parquet(tmp_path / "meta/episodes/chunk-000/file-000.parquet")
    assert rows["length"].tolist() == list(LENGTHS)
    assert rows["dataset_from_index"].tolist() == [0, 4, 11]
    assert rows["dataset_to_index"].tolist() == [4, 11, 14]
    assert rows["success"].tolist() == [True, False, True]


def test_video_dataset(tmp_path):
    episodes = write(tmp_path, "video")
    frames = decode(tmp_path / f"videos/{KEY}/chunk-000/file-000.mp4")
    expected = np.concatenate([e[KEY] for e in episodes])
    error = np.mean((np.stack(frames).astype(float) - expected) ** 2)
    assert 10 * np.log10(255**2 / error) > 30  # PSNR; the colours have half the resolution
    names = pq.read_schema(tmp_path / "data/chunk-000/file-000.parquet").names
    assert KEY not in names
    rows = pd.read_parquet(tmp_path / "meta/episodes/chunk-000/file-000.parquet")
    assert np.allclose(rows[f"videos/{KEY}/from_timestamp"], [0, 0.4, 1.1])
    assert np.allclose(rows[f"videos/{KEY}/to_timestamp"], [0.4, 1.1, 1.4])


def test_large_files_are_divided(tmp_path, monkeypatch):
    monkeypatch.setattr(lerobot_writer, "_DATA_FILE_MB", 0)
    episodes = write(tmp_path, "video")
    for index, frames in enumerate(episodes):
        name = f"chunk-000/file-{index:03d}"
        rows = pq.read_table(tmp_path / f"data/{name}.parquet").to_pylist()
        assert {row["episode_index"] for row in rows} == {index}
        assert len(decode(tmp_path / f"videos/{KEY}/{name}.mp4")) == len(frames[KEY])
    rows = pd.read_parquet(tmp_path / "meta/episodes")
    assert rows["data/file_index"].tolist() == [0, 1, 2]
    assert rows["meta/episodes/file_index"].tolist() == [0, 1, 2]
    assert rows[f"videos/{KEY}/from_timestamp"].tolist() == [0, 0, 0]


def test_an_error_leaves_the_episodes_before_it(tmp_path):
    with pytest.raises(KeyboardInterrupt), writer_of(tmp_path) as writer:
        writer.add_episode(episode(0, 5), "go")
        raise KeyboardInterrupt
    assert json.loads((tmp_path / "meta/info.json").read_text())["total_frames"] == 5
    assert pq.read_table(tmp_path / "data/chunk-000/file-000.parquet").num_rows == 5


def files_of(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("storage", ["image", "video"])
def test_a_dataset_that_was_left_is_continued(tmp_path, storage):
    write(tmp_path / "whole", storage, commit_every=1)
    with pytest.raises(KeyboardInterrupt), writer_of(tmp_path / "d", storage) as writer:
        writer.add_episode(episode(0, LENGTHS[0]), TASKS[0], {"success": True}, state=0)
        raise KeyboardInterrupt
    with writer_of(tmp_path / "d", storage) as writer:
        assert (writer.episodes, writer.state) == (1, 0)
        writer.close(finished=False)
    assert open_dataset(tmp_path / "d").episodes.tolist() == [[0, 4]]
    write(tmp_path / "d", storage, commit_every=1)
    assert files_of(tmp_path / "d") == files_of(tmp_path / "whole")


def test_a_crash_costs_what_came_after_the_last_commit(tmp_path, monkeypatch):
    """In every step of a commit, and between commits; the next writer makes the same bytes."""
    write(tmp_path / "whole", commit_every=2)
    expected = files_of(tmp_path / "whole")
    replace = pathlib.Path.replace
    for survived in range(9):
        folder, calls = tmp_path / f"{survived}", itertools.count()

        def crash(path, target, calls=calls, survived=survived):
            if next(calls) >= survived:
                raise KeyboardInterrupt
            return replace(path, target)

        with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            patch.setattr(pathlib.Path, "replace", crash)
            writer = writer_of(folder, commit_every=2).__enter__()
            for number in range(3):  # and never closed, as after kill -9
                writer.add_episode(
                    episode(number, LENGTHS[number]),
                    TASKS[number],
                    {"success": number != 1},
                    state=number,
                )
        done = writer_of(folder, commit_every=2).episodes
        assert done == (2 if survived > 6 else 0)
        if done:
            assert len(open_dataset(folder)) == 11
        write(folder, commit_every=2)
        assert files_of(folder) == expected


def test_an_interrupt_within_an_episode_drops_what_is_not_committed(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt), writer_of(tmp_path, commit_every=1) as writer:
        writer.add_episode(episode(0, 4), "go")

        def interrupted(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(FeatureStats, "add", interrupted)
        writer.add_episode(episode(1, 5), "go")
    assert len(open_dataset(tmp_path)) == 4
    assert not list(tmp_path.rglob("*.part"))


def test_other_settings_do_not_continue(tmp_path):
    with writer_of(tmp_path, settings={"seed": 1}) as writer:
        writer.add_episode(episode(0, 4), "go")
        writer.close(finished=False)
    with pytest.raises(SessionError, match=r"of other settings: seed: was 1, now 2"):
        writer_of(tmp_path, settings={"seed": 2})
    assert writer_of(tmp_path, settings={"seed": 1}).episodes == 1
    (tmp_path / "meta/progress.json").write_text("{")
    with pytest.raises(SessionError, match=r"progress.json: cannot be read"):
        writer_of(tmp_path, settings={"seed": 1})
    with pytest.raises(ConfigError, match="commit_every"):
        writer_of(tmp_path / "new", commit_every=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"action": np.zeros((4, 2), np.float32)}, r"action: frames are float32 \(2,\)"),
        ({"action": np.zeros((4, 3))}, "float64"),
        ({KEY: np.zeros((4, 16, 18, 3), np.uint8)}, "front"),
        ({"action": np.zeros((5, 3), np.float32)}, r"\[4, 5\] frames"),
        ({"reward": np.zeros((4, 1), np.float32)}, "reward"),
    ],
)
def test_frames_that_do_not_fit(tmp_path, change, message):
    with LeRobotWriter(tmp_path, fps=10, features=features("image"), robot_type="x") as writer:
        with pytest.raises(ConfigError, match=message):
            writer.add_episode(episode(0, 4) | change, "go")
        writer.add_episode(episode(0, 4), "go")
    assert json.loads((tmp_path / "meta/info.json").read_text())["total_episodes"] == 1


def test_bad_features_and_folders(tmp_path):
    with pytest.raises(ConfigError, match="unknown storage 'gif'"):
        image_feature(8, 8, "gif")
    with pytest.raises(ConfigError, match="even sizes"):
        image_feature(9, 8, "video")
    write(tmp_path)
    with pytest.raises(SessionError, match="already holds a dataset"):
        LeRobotWriter(tmp_path, fps=10, features=features("image"), robot_type="x")


@pytest.mark.bridge
@pytest.mark.slow
@pytest.mark.parametrize("storage", ["image", "video"])
def test_lerobot_reads_it(tmp_path, storage):
    """In a child process, because lerobot warns when it is imported."""
    testing.require_module("lerobot", "torch")
    episodes = write(tmp_path / "d", storage, commit_every=2)
    flat = {key: np.concatenate([e[key] for e in episodes]) for key in episodes[0]}
    np.savez(tmp_path / "expected.npz", **flat)
    source = """
        import sys
        import numpy as np
        from lerobot.datasets.lerobot_dataset import LeRobotDataset

        folder, expected, key, tolerance = sys.argv[1:]
        steps = {"action": [0.0, 0.1, 0.2]}
        dataset = LeRobotDataset("toy/toy", root=folder, video_backend="pyav",
                                 delta_timestamps=steps)
        expected = np.load(expected)
        assert len(dataset) == 14 and dataset.num_episodes == 3
        for i in range(14):
            item = dataset[i]
            assert np.array_equal(item["observation.state"], expected["observation.state"][i])
            assert np.array_equal(item["action"][0], expected["action"][i])
            picture = item[key].numpy().transpose(1, 2, 0) * 255
            assert np.abs(picture - expected[key][i]).mean() <= float(tolerance)
            assert item["task"] == ("drop it" if 4 <= i < 11 else "lift it")
        assert dataset[3]["action_is_pad"].tolist() == [False, True, True]
        stats = dataset.meta.stats
        assert np.allclose(stats["action"]["mean"], expected["action"].mean(axis=0), atol=1e-6)
        assert stats[key]["mean"].shape == (3, 1, 1)
    """
    code = "import warnings\nwarnings.simplefilter('ignore')\n"
    done = testing.run_python(
        "-c",
        code + "\n".join(line[8:] for line in source.splitlines()),
        tmp_path / "d",
        tmp_path / "expected.npz",
        KEY,
        # Colours have half the resolution; the nearest wrong frame is 11 levels off.
        "1e-3" if storage == "image" else "8",
        timeout_s=540,
        environment={"HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr


if __name__ == "__main__":
    testing.main()
