"""Tests of attn_jax.viz.metric_names."""

import numpy as np

from attn_jax.analysis import metrics
from attn_jax.viz.metric_names import METRICS, metric
from tests import testing


def test_every_measure_of_every_hypothesis_has_words_and_a_unit():
    """`analysis.metrics` lists them all, which its own tests check against what is computed."""
    listed = {name for names in metrics.METRICS.values() for name in names}
    assert len(listed) > 60
    for name in sorted(listed):
        words = metric(name.replace("*", "image/wrist"))
        assert words.unit, f"{name} has no words"
        assert "_" not in words.label
    # Nothing in the table that no hypothesis gives.
    plain = {name.removesuffix("_first").removesuffix("_picture") for name in listed}
    assert set(METRICS) <= plain


def test_a_unit_says_what_the_maps_are_made_of():
    """The rollout and relevance hypotheses have no attention in their rows, all others have."""
    made_of = {"rollout": "rollout", "relevance": "gradient times attention"}
    for hypothesis, names in metrics.METRICS.items():
        for name in {"overlap", "lift"} & {*names}:
            unit = metric(name, hypothesis).unit
            assert unit.startswith(f"share of the camera's {made_of.get(hypothesis, 'attention')}")
    assert metric("relevance:text").unit == "share of gradient times attention"
    assert metric("rollout:text").unit == "share of the rollout"


def test_endings_and_groups():
    assert metric("lift_picture").label == "lift in the picture"
    assert metric("jsd_first").label == "Jensen-Shannon divergence, first prediction"
    both = "overlap in the picture, first prediction"
    assert metric("overlap_picture_first").label == both
    assert metric("mass:image/wrist").label == "attention on image/wrist"
    assert metric("my_own").label == "my own" and metric("my_own").unit == ""
    labels = [words.label for words in METRICS.values()]
    twice = {label for label in labels if labels.count(label) > 1}
    # Of different hypotheses, each with a unit or a camera of its own.
    assert twice == {"shift of the centre", "attention on the camera"}
    assert np.all([words.unit for words in METRICS.values()])


if __name__ == "__main__":
    testing.main()
