"""Tests of launch.analysed."""

import numpy as np
import pandas as pd
import pytest

from attn_jax.analysis import tables
from attn_jax.core.errors import ConfigError
from configs.analysis import h1_1_objects
from launch import app
from launch.analysed import EXPECTED, RowsWriter, check_config, open_analyses
from launch.episode_analysis import SCHEMA_VERSION, fingerprint
from tests import testing


def rows(name, metrics=("lift", "iou")):
    values = np.arange(2.0 * len(metrics)).reshape(len(metrics), 2)
    axes = {"metric": metrics, "layer": (0, 1)}
    labels = {"episode": name, "outcome": "success", "hypothesis": "h1_1"}
    return tables.episode_table(tables.tidy(values, axes, **labels))


def analysis(folder, recordings):
    """A folder with finished episodes of these recordings and one that is missing."""
    config = app.jsonable(h1_1_objects.get_config("tiny").to_dict())
    names = [f"episode_{n:05d}" for n in range(len(recordings))]
    for name, recording in zip(names, recordings, strict=True):
        place = folder / "episodes" / name
        place.mkdir(parents=True)
        rows(name).to_parquet(place / "rows.parquet", index=False)
        facts = {"schema_version": SCHEMA_VERSION, "config": fingerprint(config), "rows": 4}
        app.write_json(place / "done.json", facts | {"recording": recording})
    app.write_json(folder / "config.json", config)
    app.write_json(folder / EXPECTED, {"run": "run", "episodes": [*names, "episode_99999"]})
    return folder


def test_finished_and_missing_episodes(tmp_path):
    found = open_analyses([analysis(tmp_path / "out", ["a", "b"])])
    assert [episode.name for episode in found.episodes] == ["episode_00000", "episode_00001"]
    assert found.missing == {"episode_99999": "is not analysed"}
    pd.testing.assert_frame_equal(found.episodes[1].rows(), rows("episode_00001"))


def test_names_tell_folders_apart_and_recordings_count_once(tmp_path):
    one = analysis(tmp_path / "a" / "out", ["a"])
    two, three = analysis(tmp_path / "b" / "out", ["b"]), analysis(tmp_path / "c", ["a"])
    found = open_analyses([one, two])
    assert [e.name for e in found.episodes] == ["a/out/episode_00000", "b/out/episode_00000"]
    assert set(found.episodes[0].rows().episode) == {"a/out/episode_00000"}
    with pytest.raises(ConfigError, match="c/episode_00000 is the same recording as out/"):
        open_analyses([one, three])
    with pytest.raises(ConfigError, match="is given twice"):
        open_analyses([one, two, one])


def test_rows_are_written_part_by_part(tmp_path):
    parts = [rows("a"), rows("b", ("nss", "lift"))]  # categories differ from part to part
    with RowsWriter(tmp_path / "rows") as writer:
        for part in parts:
            writer.add(part)
    whole = tables.concat(parts)
    read = pd.read_parquet(tmp_path / "rows.parquet")
    pd.testing.assert_frame_equal(read, whole, check_categorical=False)
    csv = pd.read_csv(tmp_path / "rows.csv", keep_default_na=False)
    pd.testing.assert_frame_equal(csv, whole.astype(csv.dtypes.to_dict()))


def test_configurations_are_checked():
    config = app.jsonable(h1_1_objects.get_config("tiny").to_dict())
    check_config(config)
    with pytest.raises(ConfigError, match="has no families"):
        check_config({k: v for k, v in config.items() if k != "families"})
    with pytest.raises(ConfigError, match=r"config\.rank_resamples: is 0"):
        check_config(config | {"rank_resamples": 0})
    wrong = {"target_lift": config["families"]["target_lift"] | {"colour": "red"}}
    with pytest.raises(ConfigError, match=r"target_lift.*colour"):
        check_config(config | {"families": wrong})


if __name__ == "__main__":
    testing.main()
