"""Tests of attn_jax.analysis.tables."""

import numpy as np
import pytest

from attn_jax.analysis import tables
from attn_jax.core.errors import ConfigError
from tests import testing


def example():
    values = np.arange(12.0).reshape(2, 3, 2)
    axes = {"env_step": (0, 10), "layer": (4, 5, 17), "object": ("cube", "ball")}
    constants = {"episode": "a", "outcome": "success", "hypothesis": "h1_1", "metric": "lift"}
    return tables.tidy(values, axes, **constants)


def test_every_value_has_its_labels():
    table = example()
    assert tuple(table.columns) == tables.FRAME_COLUMNS
    assert len(table) == 12
    row = table[(table.env_step == 10) & (table.layer == 5) & (table.object == "ball")]
    assert row.value.tolist() == [9.0]
    assert set(table.camera) == {""} and set(table["head"]) == {-1} and set(table.denoise) == {-1}
    assert set(table.metric) == {"lift"}


def test_repeated_labels_stay_one_category():
    table = tables.tidy(np.arange(3.0), {"object": ("a", "b", "a")})
    assert table.object.tolist() == ["a", "b", "a"]


def test_episode_table_takes_means_over_frames():
    table = tables.episode_table(example())
    assert tuple(table.columns) == tables.COLUMNS
    assert len(table) == 6
    assert table[(table.layer == 17) & (table.object == "cube")].value.tolist() == [(4 + 10) / 2]


def test_missing_values_do_not_enter_means():
    table = example()
    table.loc[0, "value"] = np.nan
    means = tables.mean_over(table, ["object"])
    assert dict(zip(means.object, means.value, strict=True)) == {"cube": 6.0, "ball": 6.0}
    table["value"] = np.nan
    assert tables.mean_over(table, ["metric"]).value.isna().all()


def test_concat_joins_categories():
    other = tables.tidy(np.ones(1), {"object": ("cup",)}, metric="iou")
    table = tables.concat([example(), other])
    assert len(table) == 13 and set(table.metric) == {"lift", "iou"}
    assert table.object.dtype == "category"
    assert tuple(tables.concat([]).columns) == tables.FRAME_COLUMNS and not len(tables.concat([]))
    means = tables.concat([tables.episode_table(example()), tables.episode_table(other)])
    assert tuple(means.columns) == tables.COLUMNS


def test_bad_arguments():
    with pytest.raises(ConfigError, match="no column 'colour'"):
        tables.tidy(np.ones(1), {"colour": ("red",)})
    with pytest.raises(ConfigError, match="with labels"):
        tables.tidy(np.ones(2), {"layer": (1, 2, 3)})


if __name__ == "__main__":
    testing.main()
