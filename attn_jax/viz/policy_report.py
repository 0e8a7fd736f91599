"""The report of a policy: how well it does, what it looks at, whether that matters and differs.

Every section is built by a function of its own and can be used without the rest. Numbers come from
the tables of `launch.aggregate`; nothing is computed here but means and intervals of what is drawn.

    report = build_policy_report(PolicyRun(table, rows, summary, heads, examples=examples))
    write_report(report, "report.html")
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy

from attn_jax.viz import effect_plots, policy_examples, policy_figures, style
from attn_jax.viz.metric_names import metric
from attn_jax.viz.policy_examples import Example
from attn_jax.viz.policy_questions import QUESTIONS, question, read
from attn_jax.viz.report import (
    Block,
    Definitions,
    Picture,
    Report,
    Section,
    Table,
    Text,
    plain,
    span,
)

MOST_ROWS = 12
ALPHA = effect_plots.ALPHA
#: What is known of the success of a task.
SUCCESS_COLUMNS = ("episodes", "successes", "rate", "low", "high", "median_steps")
#: What the plot of effects shows of a test.
_DRAWN = ("difference", "ci_low", "ci_high", "p_holm")
#: Primary tests in words.
_TESTS = {
    "welch": "Welch's t test",
    "mann_whitney": "Mann-Whitney test",
    "permutation": "permutation of outcomes",
    "paired_t": "t test over episodes",
    "wilcoxon": "Wilcoxon signed-rank test",
    "sign_flip": "permutation of signs",
}


@dataclasses.dataclass(frozen=True, eq=False)
class PolicyRun:
    """What the report is made of.

    Attributes:
      table: one row per test, `analysis.aggregate.COLUMNS`; None when nothing was analysed.
      rows: one row per episode and measure, `analysis.tables.COLUMNS`; None likewise.
      summary: `summary.json` of the aggregate.
      heads: `heads.json`.
      outcomes: a dict per episode with `task`, `success` (bool or None), `steps` (or None).
      examples: episodes to show.
      facts: names and values for the section on the set-up.
      provenance: seed, revision, versions of the run.
      supervision: where attention was taught to look, see `bridge.checkpoint_folder`.
    """

    table: Any
    rows: Any
    summary: Mapping[str, Any]
    heads: Mapping[str, Any]
    outcomes: Sequence[Mapping[str, Any]] = ()
    examples: Sequence[Example] = ()
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    supervision: Sequence[Mapping[str, str]] = ()


def build_policy_report(run: PolicyRun) -> Report:
    """The whole report; questions that were not asked are named at the end of the first section."""
    analysed = run.table is not None
    sections = [Section("answers", "In short", answer_blocks(run))] if analysed else []
    sections.append(Section("success", "How well does it do?", success_blocks(run)))
    sections += policy_examples.sections(run.examples)
    if analysed:
        sections.append(
            Section(
                "focus", "Where attention goes, by layer", policy_figures.focus_blocks(run.rows)
            )
        )
        for name in families(run):
            blocks = family_blocks(run, name)
            sections.append(Section(name.replace("_", "-"), question(name).title, blocks))
        sections.append(Section("heads", "Heads", policy_figures.head_blocks(run.heads)))
    sections += [
        Section("set-up", "Set-up", (Definitions(tuple(run.facts.items())),)),
        Section("provenance", "Provenance", (Definitions(tuple(_flat(run.provenance))),)),
    ]
    data = {
        "summary": run.summary,
        "success": success_rates(run.outcomes),
        "tests": run.table.to_dict("records") if analysed else [],
        "heads": run.heads,
        "set_up": run.facts,
        "supervision": [*run.supervision],
        "provenance": run.provenance,
    }
    lead = f"{run.summary['episodes']} episodes"
    if analysed and run.summary["episodes"] != len(run.outcomes):
        lead = f"{run.summary['episodes']} of {len(run.outcomes)} episodes were analysed"
    if analysed:
        lead += (
            "; every test takes an episode as one observation, and p-values are adjusted by Holm "
            "over the family of the question"
        )
    return Report("What a policy looks at", tuple(sections), lead=f"{lead}.", data=plain(data))


def families(run: PolicyRun) -> list[str]:
    """Families that were tested: those of `QUESTIONS` in its order, then the others."""
    tested = dict.fromkeys(map(str, run.table.family))
    return [name for name in QUESTIONS if name in tested] + [
        name for name in tested if name not in QUESTIONS
    ]


def answer_blocks(run: PolicyRun) -> tuple[Block, ...]:
    """The main table: a row per question, with its clearest test."""
    rows, open_questions = [], {}
    for name in families(run):
        tests = run.table[run.table.family == name].sort_values(["p_holm", "p"])
        found = int((tests.p_holm <= ALPHA).sum())
        best = tests.iloc[0]
        label = effect_plots.label_of(best, _distinct(tests))
        rows.append(
            (
                question(name).title,
                f"{found} of {len(tests)}",
                label,
                int(best.n),
                best.difference,
                _interval(best),
                best.p_holm,
            )
        )
        note = str(run.summary["families"].get(name, {}).get("power_note") or "")
        if not found and note:
            open_questions.setdefault(note, []).append(question(name).title)
    caption = (
        "Every question with the number of its tests that hold after Holm's adjustment, and its "
        "clearest test: the estimated difference, its 95 % interval and its adjusted p. Intervals "
        "are bootstrapped (BCa) and not adjusted, so that one may exclude 0 where its test does "
        "not hold."
    )
    columns = (
        "question", "tests that hold", "clearest test", "episodes", "difference",
        "95 % interval", "adjusted p",
    )  # fmt: skip
    left_out = [
        f"{question(name).title} ({reason})"
        for name, reason in run.summary.get("left_out", {}).items()
    ]
    blocks: list[Block] = [Table(caption, columns, tuple(rows))]
    if run.supervision:
        blocks.append(Text(taught(run.supervision)))
    blocks += [
        Text(f"Not shown, and not refuted either ({note}): {' '.join(titles)}")
        for note, titles in open_questions.items()
    ]
    if left_out:
        blocks.append(Text(f"Not asked of this run: {' '.join(left_out)}"))
    if missing := run.summary.get("missing"):
        blocks.append(
            Text(f"Episodes without results, which no test counts: {', '.join(missing)}.")
        )
    return tuple(blocks)


def taught(supervision: Sequence[Mapping[str, str]]) -> str:
    """Says which attention is no finding, because a training loss asked for it."""

    def places(layers: str, heads: str) -> str:
        return " of ".join(
            f"all {name}" if numbers == "all" else f"{name} {numbers.replace(',', ', ')}"
            for name, numbers in (("heads", heads), ("layers", layers))
        )

    objects = dict.fromkeys(places(entry["layers"], entry["heads"]) for entry in supervision)
    words = dict.fromkeys(
        f"{places(entry['word_layers'], entry['word_heads'])} at the words "
        f"{entry['words'].replace(',', ', ')}"
        for entry in supervision
        if entry.get("words")
    )
    text = f"Taught in training: the actions' attention in {'; in '.join(objects)} was"
    text += " supervised to look at the object that the prompt names"
    text += f", and in {'; in '.join(words)}" if words else ""
    return f"{text}. That these look there is no finding."


def success_rates(outcomes: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Task -> episodes, successes, rate and its Wilson interval at 95 %; `all` is over all tasks.

    Episodes whose outcome is unknown do not count.
    """
    known = [outcome for outcome in outcomes if outcome.get("success") is not None]
    groups = {str(task): [o for o in known if o["task"] == task] for task in _tasks(known)}
    if len(groups) != 1:
        groups["all"] = known
    rates = {}
    for name, group in groups.items():
        if not group:
            continue
        good = sum(bool(outcome["success"]) for outcome in group)
        interval = scipy.stats.binomtest(good, len(group)).proportion_ci(method="wilson")
        steps = [o["steps"] for o in group if o["success"] and o.get("steps") is not None]
        rates[name] = {
            "episodes": len(group),
            "successes": good,
            "rate": good / len(group),
            "low": float(interval.low),
            "high": float(interval.high),
            "median_steps": float(np.median(steps)) if steps else None,
        }
    return rates


def _tasks(outcomes: Sequence[Mapping[str, Any]]) -> list[Any]:
    return list(dict.fromkeys(outcome["task"] for outcome in outcomes))


def success_blocks(run: PolicyRun) -> tuple[Block, ...]:
    """Success by task."""
    rates = success_rates(run.outcomes)
    if not rates:
        return (Text("The outcome of these episodes is not known."),)
    rows = tuple(
        (
            name, r["episodes"], r["successes"], r["rate"],
            f"{r['low']:.2f} to {r['high']:.2f}", r["median_steps"],
        )
        for name, r in rates.items()
    )  # fmt: skip
    columns = ("task", "episodes", "successes", "rate", "95 % interval", "steps to success")
    blocks: list[Block] = [Table("Successes with Wilson's interval; median steps.", columns, rows)]
    steps = {
        good: [o["steps"] for o in run.outcomes if o.get("success") is good and o.get("steps")]
        for good in (True, False)
    }
    if all(steps.values()) and np.median(steps[False]) > np.median(steps[True]):
        blocks.append(
            Text(
                f"A success ends the episode, a failure goes on ({np.median(steps[False]):.0f} "
                "steps). What differs between outcomes below is a mean over all calls of an "
                "episode, late ones of failures included: it describes, it does not explain."
            )
        )
    return tuple(blocks)


def family_blocks(run: PolicyRun, name: str) -> tuple[Block, ...]:
    """The tests of a family: how to read them, a plot of effects, a table of the clearest."""
    tests = run.table[run.table.family == name].sort_values(["p_holm", "p"])
    distinct = _distinct(tests)
    labels = [effect_plots.label_of(row, distinct) for _, row in tests.iterrows()]
    asked = question(name)
    reading = read(name, [kind for kind in str(tests.iloc[0].floor_kinds).split(",") if kind])
    blocks: list[Block] = [Text(reading)] if reading else []
    units = tests.metric.nunique() == 1 or np.ptp(np.log10(_spread(tests))) < 1
    if np.isfinite(tests.difference).any() and units:
        figure = effect_plots.effects(tests, labels=labels, x_label=asked.effect)
        effects = [
            {"test": label} | {key: row[key] for key in _DRAWN}
            for label, (_, row) in list(zip(labels, tests.iterrows(), strict=True))
            if np.isfinite(row.difference)
        ][: effect_plots.MOST_EFFECTS]
        blocks.append(
            Picture(
                f"effects-{name.replace('_', '-')}",
                style.to_rgb(figure),
                f"Estimated differences with intervals: {asked.title}",
                f"{asked.effect.capitalize()} with its 95 % interval; filled and blue where the "
                "adjusted p is at most 0.05"
                + (
                    f"; the {effect_plots.MOST_EFFECTS} clearest of {len(tests)} tests."
                    if len(tests) > effect_plots.MOST_EFFECTS
                    else "."
                ),
                {"effects": effects},
            )
        )
    by_outcome = str(tests.iloc[0].test) == "outcome"
    sides = {"mean": "mean", "reference": "reference"}
    if by_outcome:
        sides = {"mean_success": "success", "mean_failure": "failure"}
    elif str(tests.iloc[0].test) == "floor":
        sides["reference"] = "null floor"
    elif np.isfinite(tests.null_floor).any():
        sides["null_floor"] = "null floor"
    rows = tuple(
        (
            label, int(row.n), *(row[side] for side in sides), row.difference, _interval(row),
            row.g, row.p, row.p_holm, row.p_bh,
        )
        for label, (_, row) in zip(labels[:MOST_ROWS], tests.iterrows(), strict=False)
    )  # fmt: skip
    more = len(tests) - len(rows)
    shown = "The only test" if len(tests) == 1 else f"All {len(tests)} tests"
    if more:
        shown = f"The clearest {len(rows)} of {len(tests)} tests"
    caption = f"{shown} ({_TESTS[tests.iloc[0].primary]}); g is Hedges' effect size." + (
        " The others are in table.csv." if more else ""
    )
    columns = (
        "test", "episodes", *sides.values(), "difference", "95 % interval",
        "g", "p", "Holm", "Benjamini-Hochberg",
    )  # fmt: skip
    blocks.append(Table(caption, columns, rows))
    hypothesis = str(tests.iloc[0].hypothesis)
    names = [metric(str(one), hypothesis) for one in tests.metric.unique()]
    units_of = "; ".join(f"{one.label}: {one.unit}" for one in names if one.unit)
    if units_of:
        blocks.append(Text(f"Units: {units_of}."))
    gaps = run.summary["families"].get(name, {}).get("floor_gaps", ())
    if gaps:
        blocks.append(
            Text(f"The null floor of these tests is laxer than declared: {' / '.join(gaps)}.")
        )
    reasons = [str(reason) for reason in tests.reason.dropna().unique() if str(reason)]
    if reasons:
        blocks.append(Text(f"Tests without a number: {'; '.join(reasons)}."))
    return tuple(blocks)


def _distinct(tests: Any) -> list[str]:
    """Columns that tell the tests of a family apart."""
    names = ("metric", "variant", "query", "layer", "head", "camera", "object", "kind")
    return [n for n in names if tests[n].nunique(dropna=True) > 1] or ["metric"]


def _spread(tests: Any) -> np.ndarray:
    """Largest difference of every metric."""
    largest = tests.assign(size=tests.difference.abs()).groupby("metric", observed=True)["size"]
    return np.maximum(largest.max().fillna(0.0).to_numpy(np.float64), 1e-12)


def _interval(row: Any) -> str:
    return span(float(row.ci_low), float(row.ci_high))


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested values under dotted names."""
    out: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            out += _flat(value, f"{prefix}{key}.")
        else:
            out.append(
                (prefix + str(key), value if isinstance(value, (int, float)) else str(value))
            )
    return out
