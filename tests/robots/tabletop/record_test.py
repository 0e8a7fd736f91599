import itertools
import json

import numpy as np
import pandas as pd
import pytest

from attn_jax.core.calibration import unproject
from attn_jax.core.errors import ConfigError, SessionError
from attn_jax.data.lerobot import open_dataset
from attn_jax.data.lerobot_beside import read_masks, read_notes, read_views
from attn_jax.data.lerobot_writer import LeRobotWriter
from robots.tabletop.demonstrations import TabletopConfig, demonstrations
from robots.tabletop.record import Recording, record
from tests import testing

SMALL = TabletopConfig(size=8)


def test_dataset_masks_and_notes(tmp_path):
    summary = record(Recording(SMALL, seed=7, episodes=3), tmp_path / "d")
    expected = list(demonstrations(SMALL, range(7, 10)))
    assert (summary.episodes, summary.attempts, summary.successes) == (3, 3, 3)
    assert summary.frames == sum(demo.info["length"] for demo in expected)
    notes = read_notes(tmp_path / "d")
    assert notes == [{"episode_index": i, **demo.info} for i, demo in enumerate(expected)]
    rows = pd.read_parquet(tmp_path / "d/meta/episodes/chunk-000/file-000.parquet")
    assert rows["seed"].tolist() == [7, 8, 9] and rows["success"].all()
    assert [list(tasks) for tasks in rows["tasks"]] == [[note["prompt"]] for note in notes]
    for index, demo in enumerate(expected):
        masks = read_masks(tmp_path / "d", index)
        assert masks.keys() == demo.masks.keys()
        assert all(np.array_equal(masks[camera], demo.masks[camera]) for camera in masks)
    info = json.loads((tmp_path / "d/meta/info.json").read_text())
    assert info["robot_type"] == "tabletop" and info["fps"] == 10
    assert list(info["features"])[:2] == ["observation.images.front", "observation.images.wrist"]


def test_a_scene_gives_an_episode_for_every_target(tmp_path):
    config = TabletopConfig(size=8, every_target=True)
    summary = record(Recording(config, seed=7, episodes=2), tmp_path / "d")
    assert (summary.episodes, summary.attempts) == (4, 4)
    assert [note["seed"] for note in read_notes(tmp_path / "d")] == [7, 7, 8, 8]


def test_starts_come_first_and_are_cut_off(tmp_path):
    config = TabletopConfig(size=8, every_target=True)
    summary = record(
        Recording(config, seed=7, episodes=1, starts=2, start_steps=3, keep_failures=False),
        tmp_path / "d",
    )
    assert (summary.starts, summary.attempts, summary.successes, summary.episodes) == (4, 2, 2, 6)
    notes = read_notes(tmp_path / "d")
    assert [note["seed"] for note in notes] == [7, 7, 8, 8, 9, 9]
    assert [note["length"] for note in notes[:4]] == [3] * 4
    assert not any(note["success"] for note in notes[:4]) and notes[5]["success"]
    whole = next(demonstrations(config, [7]))
    actions = open_dataset(tmp_path / "d").column("action")
    np.testing.assert_array_equal(actions[:3], whole.frames["action"][:3])


def test_where_the_target_is(tmp_path):
    config = TabletopConfig(size=16)
    record(Recording(config, seed=7, episodes=1, masks=False, look_at=True), tmp_path / "d")
    demo = next(demonstrations(config, [7]))
    dataset = open_dataset(tmp_path / "d")
    target = next(name for name, role in demo.info["roles"].items() if role == "target")
    seen = demo.masks["front"] == demo.info["objects"].index(target) + 1
    expected = seen.reshape(-1, 8, 2, 8, 2).mean((2, 4)).reshape(len(seen), 64)
    assert expected[0].any()
    np.testing.assert_allclose(dataset.column("look_at.front"), expected, atol=1e-6)
    assert dataset.column("look_at.wrist").shape == (len(seen), 64)


def test_depth_and_points_beside_the_dataset(tmp_path):
    config = TabletopConfig(size=16, views=("depth", "points"))
    record(Recording(config, seed=7), tmp_path / "d")
    views = read_views(tmp_path / "d", 0)
    kinds = ("depth", "points", "pose", "intrinsics")
    assert set(views) == {f"{kind}.{camera}" for kind in kinds for camera in ("front", "wrist")}
    note, masks = read_notes(tmp_path / "d")[0], read_masks(tmp_path / "d", 0)
    for camera in ("front", "wrist"):
        depth, points = views[f"depth.{camera}"], views[f"points.{camera}"]
        assert depth.shape == (note["length"], 16, 16) and depth.dtype == points.dtype == np.float32
        found = unproject(depth, views[f"pose.{camera}"], views[f"intrinsics.{camera}"])
        assert (depth > 0).any()
        np.testing.assert_allclose(found, points, atol=1e-5)
    # Two cameras see the same things at the same places: on the table, where the scene has them.
    env = config.make_env()
    _, info = env.reset(seed=7)
    for number, name in enumerate(note["objects"]):
        seen = masks["front"][0] == number + 1
        assert seen.any(), name
        middle = np.median(views["points.front"][0][seen], axis=0)
        np.testing.assert_allclose(middle[:2], info["positions"][number][:2], atol=0.03)
    with pytest.raises(ConfigError, match=r"views: .*\['normals'\]"):
        TabletopConfig(views=("normals",))


def test_failures_are_flagged_or_dropped(tmp_path):
    hasty = TabletopConfig(size=8, max_steps=24)
    kept = record(Recording(hasty, seed=0, episodes=8), tmp_path / "kept")
    flags = [note["success"] for note in read_notes(tmp_path / "kept")]
    assert kept.episodes == 8 and 0 < sum(flags) == kept.successes < 8
    dropped = record(
        Recording(hasty, seed=0, episodes=8, keep_failures=False), tmp_path / "dropped"
    )
    notes = read_notes(tmp_path / "dropped")
    assert dropped.episodes == len(notes) == kept.successes and dropped.attempts == 8
    assert [note["episode_index"] for note in notes] == list(range(len(notes)))
    assert [note["seed"] for note in notes] == [seed for seed in range(8) if flags[seed]]


def test_without_masks(tmp_path):
    record(Recording(SMALL, seed=0, episodes=1, masks=False), tmp_path / "d")
    assert not (tmp_path / "d/views").exists()
    assert not (tmp_path / "d/masks/episode_000000.npz").exists()


@pytest.mark.parametrize(
    "fields",
    [
        {"episodes": 0},
        {"seed": -1},
        {"storage": "gif"},
        {"starts": -1},
        {"starts": 1, "start_steps": 0},
    ],
)
def test_bad_settings_leave_nothing(tmp_path, fields):
    with pytest.raises(ConfigError):
        record(Recording(SMALL, **fields), tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_no_processes(tmp_path):
    with pytest.raises(ConfigError, match="jobs: 0 processes"):
        record(Recording(SMALL), tmp_path / "d", jobs=0)
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("written", [1, 3, 5])
def test_a_crash_anywhere_is_continued(tmp_path, written, monkeypatch):
    """After any number of episodes, in a scene or between two, with dropped failures and starts."""
    hasty = TabletopConfig(size=8, max_steps=24, every_target=True)
    recording = Recording(hasty, episodes=4, starts=1, start_steps=2, keep_failures=False)
    whole = record(recording, tmp_path / "whole")
    assert whole.successes < whole.attempts == 8 and whole.episodes == whole.successes + 2
    add, calls = LeRobotWriter.add_episode, itertools.count()

    def crash(*arguments):
        if next(calls) == written:
            raise KeyboardInterrupt
        return add(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(LeRobotWriter, "add_episode", crash)
        record(recording, tmp_path / "d")
    assert len(open_dataset(tmp_path / "d").episodes) == written
    assert record(recording, tmp_path / "d") == whole
    assert read_notes(tmp_path / "d") == read_notes(tmp_path / "whole")
    found, expected = open_dataset(tmp_path / "d"), open_dataset(tmp_path / "whole")
    for key in ("index", "episode_index", "task_index", "observation.state", "action"):
        np.testing.assert_array_equal(found.column(key), expected.column(key))


def test_an_existing_dataset_is_refused(tmp_path):
    record(Recording(SMALL, seed=0, episodes=1), tmp_path / "d")
    before = (tmp_path / "d/episodes.jsonl").read_bytes()
    with pytest.raises(SessionError, match="already holds a dataset"):
        record(Recording(SMALL, seed=1, episodes=1), tmp_path / "d")
    assert (tmp_path / "d/episodes.jsonl").read_bytes() == before


if __name__ == "__main__":
    testing.main()
