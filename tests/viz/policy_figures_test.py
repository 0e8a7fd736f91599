"""Tests of attn_jax.viz.policy_figures: what is drawn, and that its numbers stand beside it."""

import numpy as np
import pandas as pd
import pytest

from attn_jax.analysis import tables
from attn_jax.viz import policy_figures
from attn_jax.viz.report import Picture, Table, Text, plain
from tests import testing

EPISODES = ("a", "b", "c", "d")


def rows(hypothesis, metrics, value, **labels):
    """Four episodes, two of them successes; `value(metric, layer)` + 0, 1, 2, 3."""
    lines = [
        {
            "episode": episode, "outcome": "success" if number < 2 else "failure",
            "hypothesis": hypothesis, "metric": name, "variant": "", "kind": "", "query": "action",
            "layer": layer, "head": -1, "camera": "wrist", "object": "", "role": "",
            "value": value(name, layer) + number,
        }
        | labels
        for number, episode in enumerate(EPISODES)
        for name in metrics
        for layer in (3, 7)
    ]  # fmt: skip
    return pd.DataFrame(lines)[[*tables.COLUMNS]]


def by_name(blocks):
    return {block.name: block for block in blocks if isinstance(block, Picture)}


def layer_number(name, layer):
    return layer


OBJECTS = pd.concat(
    [
        rows(
            "h1_1",
            ("lift_picture", *policy_figures.OBJECTS),
            lambda name, layer: layer,
            role="target",
        ),
        rows("h1_1", ("lift_picture",), lambda name, layer: 1.0, role="distractor"),
    ]
)


def test_lift_and_outcomes_carry_their_numbers():
    shown = by_name(policy_figures.focus_blocks(OBJECTS))
    assert set(shown) == {"lift-action", "bars-action", "outcomes"}
    curves = {curve["name"]: curve for curve in shown["lift-action"].data["curves"]}
    assert curves["target"]["mean"] == [4.5, 8.5] and curves["distractor"]["mean"] == [2.5, 2.5]
    assert curves["target"]["layer"] == [3, 7] and curves["target"]["episodes"] == 4
    bars = shown["bars-action"].data["iou_picture"]
    assert {bar["name"]: bar["mean"] for bar in bars} == {
        "success": [3.5, 7.5],
        "failure": [5.5, 9.5],
    }
    points = shown["outcomes"].data["points"]["lift on the target, camera wrist"]
    assert points == {"success": [7.0, 8.0], "failure": [9.0, 10.0]}
    assert "layer 7" in shown["outcomes"].caption


def test_prompts_by_layer():
    parts = [
        rows(
            "h2_1",
            (policy_figures.CHANGE,),
            lambda name, layer, size=size: size * layer,
            variant=key,
            kind=kind,
        )
        for size, (key, kind) in enumerate(
            [("noise_1", "noise"), ("other_object", "counterfactual"), ("next_frame", "frame")]
        )
    ]
    (picture,) = policy_figures.prompt_blocks(pd.concat(parts))
    table = picture.data["camera wrist"]
    assert table["columns"] == ["other object", "next frame", "noise 1"]
    np.testing.assert_allclose(table["mean"], [[4.5, 7.5, 1.5], [8.5, 15.5, 1.5]])
    assert "relative distance" in picture.caption.lower()


def test_budget_by_layer():
    names = ("mass:image/wrist", "mass:text", "mass:vision", "mass:language")
    shares = {"mass:image/wrist": 0.5, "mass:text": 0.25}
    made = rows("budget", names, lambda name, layer: shares.get(name, 0.75) - 1.5, camera="")
    (picture,) = policy_figures.budget_blocks(made)
    assert picture.data["layer"] == [3, 7]
    assert picture.data["shares"] == {"image/wrist": [0.5, 0.5], "text": [0.25, 0.25]}


def heads_of(**changes):
    """Two layers of three heads on one camera, head 2 of layer 7 looks elsewhere."""
    ranking = [
        {
            "layer": layer, "head": head, "lift": float(layer * head), "mass": 0.4,
            "normalised_entropy": None if (layer, head) == (7, 2) else layer / 10 + head / 100,
            "rank": 1.0, "rank_low": 1.0, "rank_high": 2.5,
        }
        | changes
        for layer in (3, 7)
        for head in (1, 0, 2)
    ]  # fmt: skip
    return {"action/wrist": {"units": 4, "heads": ranking}}


def test_heads_have_tables_of_layer_by_head():
    blocks = policy_figures.head_blocks(heads_of())
    shown = by_name(blocks)
    assert set(shown) == {"heads-normalised-entropy-action", "heads-lift-action"}
    entropy = shown["heads-normalised-entropy-action"].data["camera wrist"]
    assert entropy["columns"] == [0, 1, 2] and entropy["layer"] == [3, 7]
    np.testing.assert_allclose(entropy["mean"], [[0.3, 0.31, 0.32], [0.7, 0.71, np.nan]])
    # Where a head does not look, its lift says nothing either.
    lift = shown["heads-lift-action"].data["camera wrist"]["mean"]
    np.testing.assert_allclose(lift, [[0, 3, 6], [0, 7, np.nan]])
    assert isinstance(blocks[-1], Table) and blocks[-1].rows[0][-1] == "1 to 2"
    assert blocks[-1].rows[0][0] == "actions, wrist camera, layer 3, head 1"
    plain([block.data for block in shown.values()])


@pytest.mark.parametrize("missing", [None, 2.0])
def test_ranks_without_an_interval(missing):
    blocks = policy_figures.head_blocks(heads_of(rank_low=None, rank_high=missing))
    assert isinstance(blocks[-1], Table) and blocks[-1].rows[0][-1] == "n/a"


def test_what_was_not_analysed_is_said():
    nothing = OBJECTS[OBJECTS.metric == "none"]
    assert isinstance(policy_figures.focus_blocks(nothing)[0], Text)
    assert isinstance(policy_figures.head_blocks({})[0], Text)
    blind = OBJECTS.assign(value=np.nan)
    assert isinstance(policy_figures.focus_blocks(blind)[0], Text)


if __name__ == "__main__":
    testing.main()
