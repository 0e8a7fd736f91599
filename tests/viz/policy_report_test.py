"""Tests of attn_jax.viz.policy_report."""

import numpy as np
import pandas as pd
import pytest

from attn_jax.analysis import tables
from attn_jax.analysis.aggregate import Family, aggregate
from attn_jax.viz.policy_questions import question
from attn_jax.viz.policy_report import PolicyRun, build_policy_report, success_rates
from attn_jax.viz.report import Table, Text, render, twin
from tests import testing

FAMILIES = (
    Family("target_lift", "h1_1", ("lift_picture",), test="above", reference=1.0),
    Family("objects_by_outcome", "h1_1", ("lift_picture",)),
)


def run_of(**changes):
    """Ten episodes that look at the target in layer 1 and not in layer 0, whatever the outcome."""
    rng = np.random.default_rng(0)
    lines = [
        {
            "episode": f"episode_{number:05d}",
            "outcome": "success" if number < 5 else "failure",
            "hypothesis": "h1_1",
            "metric": "lift_picture",
            "query": "action",
            "layer": layer,
            "head": -1,
            "camera": "wrist",
            "object": "cube",
            "role": "target",
            "value": 1 + layer + 0.1 * rng.normal(),
        }
        for number in range(10)
        for layer in (0, 1)
    ]
    rows = pd.DataFrame(lines).reindex(columns=list(tables.COLUMNS)).fillna({"kind": ""})
    rows[["variant", "kind"]] = ""
    table = aggregate(rows, FAMILIES, seed=0, resamples=199)
    notes = {name: {"power_note": "too few"} for name in ("target_lift", "objects_by_outcome")}
    made = {
        "table": table,
        "rows": rows,
        "summary": {
            "episodes": 10,
            "families": notes,
            "left_out": {"fidelity": "h1 was not run"},
            "missing": {"episode_00007": "is not analysed"},
        },
        "heads": {},
        "outcomes": [{"task": "pick", "success": n < 5, "steps": 20 + n} for n in range(10)],
        "facts": {"episodes": 10},
        "provenance": {"seed": 0, "packages": {"jax": "1"}},
    }
    return PolicyRun(**(made | changes))


@pytest.fixture(scope="module")
def report():
    return build_policy_report(run_of())


def section(report, name):
    return next(s for s in report.sections if s.name == name)


def test_main_table_has_the_clearest_test_of_every_question(report):
    table, open_, left_out, missing = section(report, "answers").blocks
    assert isinstance(table, Table)
    by_title = {row[0]: row for row in table.rows}
    lift = by_title[question("target_lift").title]
    assert lift[1:4] == ("1 of 2", "layer 1", 10) and abs(lift[4] - 1) < 0.1 and lift[6] < 1e-6
    assert by_title[question("objects_by_outcome").title][1] == "0 of 2"
    assert question("objects_by_outcome").title in open_.paragraphs[0]
    assert question("target_lift").title not in open_.paragraphs[0]
    assert f"{question('fidelity').title} (h1 was not run)" in left_out.paragraphs[0]
    assert "no test counts: episode_00007" in missing.paragraphs[0]
    # In the order of the questions, not of the alphabet.
    names = [part.name for part in report.sections]
    assert names.index("target-lift") < names.index("objects-by-outcome")


def test_families_and_pictures(report):
    family = section(report, "target-lift")
    table = next(block for block in family.blocks if isinstance(block, Table))
    assert [row[0] for row in table.rows] == ["layer 1", "layer 0"]
    html = render(report)
    for words in ("lift-action", "effects-target-lift", "outcomes"):
        assert words in str(twin(report)), words
    assert "packages.jax" in html and "Wilson" in html and "a failure goes on (27 steps)" in html


@pytest.mark.parametrize(
    ("hypothesis", "family"),
    [("relevance", "relevance_lies_on_target"), ("words", "nouns_look_at_their_object")],
)
def test_units_are_those_of_the_hypothesis(hypothesis, family):
    made = run_of()
    rows = made.rows.assign(hypothesis=hypothesis, metric="lift")
    tests = [Family(family, hypothesis, ("lift",), test="above", reference=1.0)]
    table = aggregate(rows, tests, seed=0, resamples=99)
    asked = section(build_policy_report(run_of(rows=rows, table=table)), family.replace("_", "-"))
    [said] = [b for b in asked.blocks if isinstance(b, Text) and "Units" in b.paragraphs[0]]
    made_of = {"relevance": "gradient times attention"}.get(hypothesis, "attention")
    assert said.paragraphs == (f"Units: lift: share of the camera's {made_of} over share of area.",)


def test_what_was_taught_is_said():
    taught = [{"layers": "1,2", "heads": "0,1"}, {"layers": "all", "heads": "all"}]
    taught.append({**taught[0], "words": "red,cube", "word_layers": "0", "word_heads": "2,3"})
    made = build_policy_report(run_of(supervision=taught))
    [said] = section(made, "answers").blocks[1].paragraphs
    assert said.count("heads 0, 1 of layers 1, 2") == 1 and "all heads of all layers" in said
    assert "heads 2, 3 of layers 0 at the words red, cube" in said and "no finding" in said
    assert twin(made)["supervision"] == taught


def with_floors(value, metric, kinds, floor=np.nan):
    """Rows of h2_1 or h1 for six episodes: a counterfactual and what it is compared with."""
    rng = np.random.default_rng(1)
    lines = [
        {
            "episode": f"episode_{number:05d}", "outcome": "success", "hypothesis": "h2_1",
            "metric": metric, "variant": kind, "kind": kind, "query": "", "layer": -1, "head": -1,
            "camera": "", "object": "", "role": "",
            "value": (value if kind == "counterfactual" else 0.1) + 0.01 * rng.normal(),
        }
        for number in range(6)
        for kind in ("counterfactual", *kinds)
    ]  # fmt: skip
    lines += [
        line | {"hypothesis": "h1", "metric": name, "value": number, "kind": "", "variant": ""}
        for line in lines[:: 1 + len(kinds)]
        for name, number in (("fidelity", 0.5 + line["value"]), ("null_floor", floor))
    ]
    return pd.DataFrame(lines)[[*tables.COLUMNS]]


@pytest.mark.parametrize("kinds", [("noise",), ("noise", "paraphrase")])
def test_the_floor_that_was_made_is_named_and_shown(kinds):
    rows = with_floors(0.7, "action_l2_std", kinds, floor=0.25)
    prompt = Family("prompt_moves_actions", "h2_1", ("action_l2_std",), test="floor", by=())
    fidelity = Family("fidelity", "h1", ("fidelity",), test="above", by=(), beside="null_floor")
    table = aggregate(rows, (prompt, fidelity), seed=0, resamples=99)
    assert table.floor_kinds.tolist() == [",".join(kinds), ""]
    gaps = {"prompt_moves_actions": {"floor_gaps": ["no frame in episode_00002"]}}
    summary = run_of().summary | {"families": gaps}
    report = build_policy_report(run_of(table=table, rows=rows, summary=summary))
    blocks = section(report, "prompt-moves-actions").blocks
    assert any("laxer than declared: no frame in episode_00002." in str(b) for b in blocks)
    words = " ".join(b.paragraphs[0] for b in blocks if isinstance(b, Text))
    assert ("a paraphrase" in words) == ("paraphrase" in kinds) and "other noise" in words
    shown = next(b for b in blocks if isinstance(b, Table))
    assert shown.rows[0][0] == "distance of the actions" and shown.columns[3] == "null floor"
    assert shown.rows[0][3] == pytest.approx(0.1, abs=0.02)
    of_fidelity = next(b for b in section(report, "fidelity").blocks if isinstance(b, Table))
    beside = dict(zip(of_fidelity.columns, of_fidelity.rows[0], strict=True))
    assert beside["reference"] == 0 and beside["null floor"] == 0.25
    page = render(report)
    assert "action_l2_std" not in page and "paired_t" not in page
    without = aggregate(with_floors(0.7, "action_l2_std", kinds), (fidelity,), resamples=99)
    report = build_policy_report(run_of(table=without, rows=rows))
    blocks = section(report, "fidelity").blocks
    assert "null floor" not in next(b for b in blocks if isinstance(b, Table)).columns


def test_success_rates_are_wilson():
    outcomes = [{"task": "a", "success": n < 8, "steps": n} for n in range(10)]
    rates = success_rates([*outcomes, {"task": "b", "success": None}])
    # Wilson's interval of 8 in 10 at 95 %.
    assert set(rates) == {"a"} and rates["a"]["rate"] == 0.8 and rates["a"]["median_steps"] == 3.5
    np.testing.assert_allclose([rates["a"]["low"], rates["a"]["high"]], [0.4902, 0.9433], atol=1e-4)
    both = success_rates([*outcomes, {"task": "b", "success": True, "steps": None}])
    assert set(both) == {"a", "b", "all"} and both["all"]["episodes"] == 11
    assert success_rates([]) == {}


def test_without_an_analysis_the_report_shows_success():
    report = build_policy_report(run_of(table=None, rows=None))
    names = [s.name for s in report.sections]
    assert names == ["success", "set-up", "provenance"]
    unknown = build_policy_report(run_of(table=None, rows=None, outcomes=()))
    assert isinstance(unknown.sections[0].blocks[0], Text)
    render(unknown)


def test_equally_long_outcomes_need_no_warning():
    outcomes = [{"task": "pick", "success": n < 5, "steps": 20} for n in range(10)]
    page = render(build_policy_report(run_of(outcomes=outcomes)))
    assert "a failure goes on" not in page


if __name__ == "__main__":
    testing.main()
