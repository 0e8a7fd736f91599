"""Tests of attn_jax.viz.metric_names."""

import numpy as np

from attn_jax.analysis.hypotheses import HYPOTHESES, Options, run
from attn_jax.viz.metric_names import METRICS, metric
from configs.analysis import parts
from launch.episode_analysis import open_study
from tests import testing
from tests.analysis import runs


def test_every_measure_of_every_hypothesis_has_words_and_a_unit(tmp_path):
    """One episode with every variant that the hypotheses of the shipped configurations read."""
    runs.write_run(tmp_path)
    runs.write_variants(tmp_path)
    asked = {"question": "what?", "answer": "red", "expected": "red", "object": "red_cube"}
    cases = {"asked": {"vqa": asked}, "turned": {"rotation": {"degrees": 90, "camera": "wrist"}}}
    for which in ("high", "control"):
        facts = {"set": which, "camera": "wrist", "layer": 5, "fill": "mean", "noise": ""}
        cases[which] = {"intervention": facts}
    for key, info in cases.items():
        runs.write_run(tmp_path / "variants" / key, info=info, seed=7)
    study = open_study(tmp_path, "episode_00000")
    produced = set()
    for name, given in parts.HYPOTHESES.items():
        produced |= set(run(study, name, Options(streams=given["streams"])).metric)
    assert set(parts.HYPOTHESES) == set(HYPOTHESES) and len(produced) > 60
    for name in sorted(produced):
        words = metric(name)
        assert words.unit, f"{name} has no entry in METRICS"
        assert "_" not in words.label
    declared = {
        name
        for families in parts.FAMILIES.values()
        for family in families.values()
        for name in family["metrics"]
    }
    assert declared <= produced
    # Nothing in the table that no hypothesis gives.
    plain = {name.removesuffix("_picture").removesuffix("_first") for name in produced}
    assert set(METRICS) <= plain


def test_endings_and_groups():
    assert metric("lift_picture").label == "lift in the picture"
    assert metric("jsd_first").label == "Jensen-Shannon divergence, first prediction"
    assert metric("mass:image/wrist").label == "attention on image/wrist"
    assert metric("my_own").label == "my own" and metric("my_own").unit == ""
    labels = [words.label for words in METRICS.values()]
    twice = {label for label in labels if labels.count(label) > 1}
    # Of different hypotheses, each with a unit or a camera of its own.
    assert twice == {"shift of the centre", "attention on the camera"}
    assert np.all([words.unit for words in METRICS.values()])


if __name__ == "__main__":
    testing.main()
