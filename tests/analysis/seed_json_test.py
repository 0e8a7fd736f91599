"""Tests of attn_jax.analysis.seed_json: the keys that the earlier system's tools read."""

import json

import numpy as np
import pytest

from attn_jax.analysis import hypotheses, seed_json, tables
from attn_jax.analysis.options import Options
from launch import app
from tests import testing
from tests.analysis import runs

LAYERS, STEPS, OBJECTS = (4, 5), (0, 8), ("cube", "ball")


def object_frames(episode="e0", outcome="success", shift=0.0):
    metrics = [*seed_json.OBJECT_KEYS]
    values = np.random.default_rng(0).random((len(metrics), 2, 2, 2)) + shift
    parts = [
        tables.tidy(
            values + place,
            {"metric": metrics, "env_step": STEPS, "layer": LAYERS, "object": OBJECTS},
            episode=episode,
            outcome=outcome,
            hypothesis="h1_1",
            query=query,
            camera=camera,
        )
        for place, (query, camera) in enumerate(
            [("text", "wrist"), ("action", "wrist"), ("text", "front")]
        )
    ]
    return tables.concat(parts), values


def shift_frames(episode="e0", outcome="success"):
    metrics = [*seed_json.SHIFT_KEYS]
    values = np.random.default_rng(1).random((len(metrics), 2, 2, 2))
    table = tables.tidy(
        values,
        {"metric": metrics, "env_step": STEPS, "layer": LAYERS, "variant": ("duck", "cat")},
        episode=episode,
        outcome=outcome,
        hypothesis="h2_1",
        kind="counterfactual",
        query="text",
        camera="wrist",
    )
    return table, values


def test_an_object_is_listed_where_it_is_seen_only(tmp_path):
    def seen():
        out = runs.masks()
        out[1, 0] = False
        return out

    runs.write_run(tmp_path, seen=seen)
    frames = hypotheses.run(runs.study_of(tmp_path), "h1_1", Options())
    data = seed_json.object_results(frames, "e0", runs.STEPS)
    listed = [
        [found["object_category"] for found in layers["layer_2"]["aggregate_metrics"].values()]
        for layers in data["frame_results"].values()
    ]
    assert listed == [["red_cube", "ball"], ["ball"], ["red_cube", "ball"]]


def test_object_results_have_the_keys_of_the_seed():
    frames, values = object_frames()
    data = seed_json.object_results(frames, "e0", STEPS)
    assert (data["episode_id"], data["outcome"], data["camera"]) == ("e0", "success", "wrist")
    assert data["keyframes"] == [0, 8] and data["total_frames"] == 9
    found = data["frame_results"]["8"]["layer_5"]["aggregate_metrics"]["object_1"]
    expected = {
        key: values[place, 1, 1, 1] for place, key in enumerate(seed_json.OBJECT_KEYS.values())
    }
    assert {key: found[key] for key in expected} == pytest.approx(expected)
    assert found["object_category"] == "ball"
    statistics = data["layer_statistics"]["4"]
    assert set(statistics) == {
        "overlap_ratio_mean",
        "overlap_ratio_std",
        "concentration_mean",
        "concentration_std",
        "iou_mean",
        "iou_std",
        "n_samples",
    }
    assert statistics["overlap_ratio_mean"] == pytest.approx(values[0, :, 0].mean())
    assert statistics["n_samples"] == 4


def test_an_undefined_measure_does_not_enter_a_mean():
    frames, values = object_frames()
    mine = (frames["query"] == "text") & (frames.camera == "wrist") & (frames.metric == "overlap")
    first = frames[mine & (frames.layer == 4)].index[0]
    frames.loc[first, "value"] = np.nan
    statistics = seed_json.object_results(frames, "e0", STEPS)["layer_statistics"]["4"]
    assert statistics["n_samples"] == 3
    assert statistics["overlap_ratio_mean"] == pytest.approx(values[0, :, 0].ravel()[1:].mean())


def read_as_the_seed_does(paths, layers):
    """The aggregation of the earlier system, as its description has it: plain means of numbers."""
    metrics = {"overlap": "overlap_ratio", "concentration": "concentration", "iou": "iou"}
    of_frame = {"overlap": "overlap_ratio", "concentration": "attention_concentration"}
    out = {layer: {} for layer in layers}
    for path in paths:
        episode = json.loads(path.read_text())
        for layer in layers:
            frames = [
                item[f"layer_{layer}"]["aggregate_metrics"]
                for item in episode["frame_results"].values()
                if f"layer_{layer}" in item
            ]
            for name, key in metrics.items():
                mean = float(episode["layer_statistics"][str(layer)][f"{key}_mean"])
                out[layer].setdefault(episode["outcome"], {}).setdefault(name, []).append(mean)
                if name in of_frame:
                    values = [
                        float(o[of_frame[name]]) for objects in frames for o in objects.values()
                    ]
                    assert np.mean(values) == pytest.approx(mean)
    return out


def test_a_reader_of_the_seed_takes_an_object_that_is_not_in_a_frame(tmp_path):
    paths, frames_of = [], []
    for name, outcome, shift in (
        ("a", "success", 0.0),
        ("b", "success", 1.0),
        ("c", "failure", 2.0),
    ):
        frames, _ = object_frames(name, outcome, float(shift))
        gone = (frames.object == "ball") & (frames.env_step == 8)
        frames.loc[gone, "value"] = np.nan
        data = seed_json.object_results(frames, name, STEPS)
        paths.append(tmp_path / f"{name}.json")
        app.write_json(paths[-1], data)
        frames_of.append(tables.episode_table(frames))
        seen = data["frame_results"]["8"]["layer_4"]["aggregate_metrics"]
        assert set(seen) == {"object_0"}
        assert set(data["frame_results"]["0"]["layer_4"]["aggregate_metrics"]) == {
            "object_0",
            "object_1",
        }
    found = read_as_the_seed_does(paths, LAYERS)
    rows = tables.concat(frames_of)
    ours = seed_json.object_aggregate(rows)["layer_aggregates"]
    for layer in LAYERS:
        assert {outcome: len(m["iou"]) for outcome, m in found[layer].items()} == {
            "success": 2,
            "failure": 1,
        }
        assert ours[str(layer)]["success"]["overlap"]["count"] == 2
        assert np.isfinite(
            [v for m in found[layer].values() for vs in m.values() for v in vs]
        ).all()


def test_no_number_of_any_file_is_undefined(tmp_path):
    frames, _ = object_frames()
    changes, _ = shift_frames()
    frames.loc[frames.layer == 4, "value"] = np.nan  # a layer without any number
    changes.loc[changes.metric == "pearson", "value"] = np.nan  # a map without spread
    for data in (
        seed_json.object_results(frames, "e0", STEPS),
        seed_json.counterfactual_results(changes, "e0", {}),
        seed_json.object_aggregate(tables.episode_table(frames)),
        seed_json.counterfactual_aggregate(tables.episode_table(changes)),
    ):
        json.dumps(data, allow_nan=False)
    statistics = seed_json.object_results(frames, "e0", STEPS)["layer_statistics"]
    assert statistics["4"] == {"n_samples": 0} and statistics["5"]["n_samples"] == 4
    assert seed_json.counterfactual_results(changes, "e0", {})["frame_results"] == {}


def test_counterfactual_results():
    frames, values = shift_frames()
    data = seed_json.counterfactual_results(frames, "e0", {"duck": "find the duck"})
    found = data["frame_results"]["0"]["layer_4"]["duck"]
    assert found["prompt"] == "find the duck"
    assert found["l2_distance"] == pytest.approx(values[4, 0, 0, 0])
    assert found["correlation"] == pytest.approx(values[5, 0, 0, 0])
    statistics = data["layer_statistics"]["5"]["cat"]
    assert statistics["correlation_mean"] == pytest.approx(values[5, :, 1, 1].mean())
    assert statistics["n_samples"] == 2


def test_aggregates_have_one_value_per_episode():
    parts = [
        tables.episode_table(object_frames(name, outcome, shift)[0])
        for name, outcome, shift in [
            ("a", "success", 0.0),
            ("b", "success", 1.0),
            ("c", "failure", 2.0),
        ]
    ]
    data = seed_json.object_aggregate(tables.concat(parts))
    assert data["total_episodes"] == 3 and data["layers"] == [4, 5]
    assert data["episode_count"] == {"success": 2, "failure": 1}
    found = data["layer_aggregates"]["4"]["success"]["overlap"]
    base = object_frames()[1][0, :, 0].mean()
    assert found["values"] == pytest.approx([base, base + 1])
    assert found["mean"] == pytest.approx(base + 0.5) and found["std"] == pytest.approx(0.5)
    assert data["layer_aggregates"]["5"]["failure"]["iou"]["count"] == 1


def test_counterfactual_aggregate():
    rows = tables.episode_table(shift_frames()[0])
    data = seed_json.counterfactual_aggregate(rows)
    assert data["prompts"] == ["cat", "duck"]
    found = data["layer_aggregates"]["4"]["duck"]["success"]["l2_distance"]
    assert found["mean"] == pytest.approx(shift_frames()[1][4, :, 0, 0].mean())
    assert data["layer_aggregates"]["4"]["duck"]["failure"]["l2_distance"]["count"] == 0


def test_nothing_to_say():
    frames, changes = object_frames()[0], shift_frames()[0]
    assert seed_json.object_results(changes, "e0", STEPS) is None
    assert seed_json.counterfactual_results(frames, "e0", {}) is None
    assert seed_json.object_aggregate(tables.episode_table(changes)) is None
    assert seed_json.counterfactual_aggregate(tables.episode_table(frames)) is None


if __name__ == "__main__":
    testing.main()
