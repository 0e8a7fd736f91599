"""The report of a canvas world model: does it predict, how far ahead, and where does it look?

Every section is built by a function of its own and can be used without the rest.

    run = load_canvas_run("out/evaluation", "out/train")
    write_report(build_canvas_report(run), "report.html")
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from attn_jax.viz import canvas_attention, panels, plots, style
from attn_jax.viz.canvas_run import CanvasRun
from attn_jax.viz.canvas_verdict import Verdict, canvases_in_words, in_words, judge, percent
from attn_jax.viz.report import (
    Block,
    Definitions,
    Picture,
    Report,
    Section,
    Table,
    Text,
    plain,
)

MOST_EXAMPLES = 6
_DIFFERENCE = (
    "In the difference, red is too bright, blue too dark and white right, at full strength for a "
    "difference of black against white."
)


def build_canvas_report(run: CanvasRun, view: canvas_attention.View | None = None) -> Report:
    """The whole report; sections without data say that they were not evaluated.

    Args:
      run: what training and evaluation left.
      view: which part of the attention is shown.

    Raises:
      ConfigError: the view asks for heads, frames or patches that are not there.
    """
    verdict = judge(run.evaluation)
    findings = canvas_attention.examine(run) if run.records else None
    sections = (
        Section("verdict", "Does it predict?", verdict_blocks(verdict)),
        Section("skill", "Skill against baselines", skill_blocks(run)),
        Section("learning", "Learning curve", learning_blocks(run)),
        Section("pictures", "Predictions beside the truth", picture_blocks(run)),
        Section(
            "counterfactuals", "What if another action were taken?", counterfactual_blocks(run)
        ),
        Section("rollouts", "Several steps ahead", rollout_blocks(run)),
        Section(
            "attention",
            "Where it looks while predicting",
            canvas_attention.blocks(run, findings, view)
            if findings
            else (
                Text(
                    "No whole attention maps were captured in this evaluation; launch.evaluate "
                    "records them with --capture=all, or reduce=full without a choice of keys."
                ),
            ),
        ),
        Section("configuration", "Configuration", (Definitions(tuple(_flat(run.config))),)),
        Section("provenance", "Provenance", provenance_blocks(run)),
    )
    data = {
        **run.evaluation,
        "verdict": {
            "level": verdict.level,
            "headline": verdict.headline,
            "checks": {c.name: {"passed": c.passed, "words": c.sentence} for c in verdict.checks},
        },
        "training": [dict(line) for line in run.metrics],
        "attention": canvas_attention.numbers(findings) if findings else None,
        "config": run.config,
        "provenance": run.provenance,
    }
    geometry = run.geometry
    lead = (
        f"A world model that paints the next frame: {geometry.history - 1} past frames of "
        f"{geometry.frame_size[0]} × {geometry.frame_size[1]} pixels, with the actions between "
        "them as coloured stripes, form a canvas whose last frame is missing."
    )
    return Report("Canvas world model", sections, lead=lead, data=plain(data))


def verdict_blocks(verdict: Verdict) -> tuple[Block, ...]:
    """The verdict in words, then the tests behind it."""
    return (
        Text((verdict.headline, *(check.sentence for check in verdict.checks)), verdict.level),
        Table(
            "The tests behind the verdict. All passed: it predicts. A test that could not be made "
            "does not count.",
            ("test", "result"),
            tuple(
                (c.name, {True: "passed", False: "failed", None: "not tested"}[c.passed])
                for c in verdict.checks
            ),
        ),
    )


def skill_blocks(run: CanvasRun) -> tuple[Block, ...]:
    """Tables of the model against answers that need no model, and by last action."""
    skill = run.evaluation["skill"]

    def row(name: str, prefix: str, *, mse: str) -> tuple[Any, ...]:
        likeness = ("psnr_db", "ssim", "hit_rate_3px", "median_dot_error_px", "p95_dot_error_px")
        return (name, skill.get(mse), *(skill.get(prefix + key) for key in likeness))

    rows = (
        row("model", "", mse="plain_mse"),
        row("copy last frame", "copy_last_", mse="copy_last_mse"),
        row("best constant grey", "best_constant_", mse="best_constant_mse"),
        row("all black", "black_", mse="black_mse"),
    )
    known = [r for r in rows if isinstance(r[1], (int, float)) and math.isfinite(r[1])]
    best = min(known, key=lambda r: r[1])
    blocks: list[Block] = [
        Table(
            f"Means over all {canvases_in_words(run.evaluation)}; the lowest error is "
            "set in bold. Mean squared error on values from 0 to 1, lower is better; PSNR and "
            "SSIM, higher is better; hit rate is the share of canvases with the dot within 3 "
            "pixels of the truth, and distances are between predicted and true dot (n/a: not "
            "defined, or no dot found). Equal frames count as 100 dB, which lifts copying wherever "
            "nothing moves, and SSIM holds every faint speckle in a black frame against an answer.",
            (
                "answer",
                "mean squared error",
                "PSNR, dB",
                "SSIM",
                "hit rate",
                "median distance, px",
                "95 % distance, px",
            ),
            rows,
            best=(rows.index(best),),
        )
    ]
    per_action = run.evaluation.get("per_action") or {}
    if per_action:
        blocks.append(
            Table(
                "The model by the last action before the predicted frame. A model that ignores "
                "actions does well on at most one of them.",
                ("last action", "canvases", "mean squared error", "hit rate"),
                tuple(
                    (name, row.get("canvases"), row.get("plain_mse"), row.get("hit_rate_3px"))
                    for name, row in per_action.items()
                ),
            )
        )
    return tuple(blocks)


def learning_blocks(run: CanvasRun) -> tuple[Block, ...]:
    """The learning curve with no-skill levels, and when it passed the copy-last level."""
    skill = run.evaluation["skill"]
    x, y = run.curve("validation/plain_mse")
    if not x:
        return (Text("Training logged no validation error, so there is no learning curve."),)
    hits = run.curve("validation/hit_rate_3px")
    marks = {
        "all black": skill["black_mse"],
        "best grey": skill["best_constant_mse"],
        "copy last": skill["copy_last_mse"],
    }
    figure = plots.learning_curve(
        {"validation error": (x, y)},
        marks=marks,
        rates={"dot within 3 px": hits} if hits[0] else None,
    )
    crossed = [samples for samples, error in zip(x, y, strict=True) if error < marks["copy last"]]
    story = (
        f"The validation error goes from {in_words(y[0])} to {in_words(y[-1])} in "
        f"{in_words(int(x[-1]))} training samples"
    )
    seconds = run.curve("validation/plain_mse", x="train_s")[0]
    story += f" ({in_words(float(seconds[-1]))} s of training)." if seconds else "."
    story += (
        f" It is first below copying the last frame after {in_words(int(crossed[0]))} samples."
        if crossed
        else " It never gets below copying the last frame."
    )
    return (
        Picture(
            "learning-curve",
            style.to_rgb(figure),
            story,
            story + " Dashed lines are answers that need no model, measured on the evaluation's "
            "canvases: a curve that stays at or above them has learnt nothing useful.",
            {"samples": x, "validation_plain_mse": y, "hit_rate_3px": hits, "marks": marks},
        ),
    )


def picture_blocks(run: CanvasRun) -> tuple[Block, ...]:
    """History, prediction, truth and difference of some canvases."""
    start = run.geometry.frame_columns(run.geometry.history - 1)[0]
    shown = slice(0, MOST_EXAMPLES)
    prediction, target = run.pictures["prediction"][shown], run.pictures["target"][shown]
    figure = panels.prediction_panel(
        run.pictures["canvas"][shown][:, :, :start], prediction, target
    )
    return (
        Picture(
            "prediction-strip",
            style.to_rgb(figure),
            f"{len(prediction)} rows of pictures: history with action stripes, predicted frame, "
            "true frame and their difference.",
            "Canvases spread evenly over the recording. The model sees the history on the "
            f"left and paints the frame that follows. {_DIFFERENCE}",
        ),
    )


def counterfactual_blocks(run: CanvasRun) -> tuple[Block, ...]:
    """Every action tried on the same history: numbers and pictures."""
    found = run.evaluation.get("counterfactual")
    if not found:
        return (Text("Counterfactual actions were not evaluated."),)
    words = [
        f"Every action was tried on the same {in_words(found.get('observations'))} histories. "
        f"Predictions of different actions differ by {in_words(found.get('divergence'))} grey "
        "levels out of 255 on average, which alone is no skill: a model that paints nonsense can "
        "differ more."
    ]
    if found.get("correct_rate") is not None:
        words.append(
            f"{percent(found['correct_rate'])} of the predictions are nearest to the true outcome "
            "of their own action; the dot is within 3 px of it in "
            f"{percent(found.get('hit_rate_3px'))}."
        )
    blocks: list[Block] = [Text(tuple(words))]
    per_action = found.get("per_action") or {}
    if per_action:
        blocks.append(
            Table(
                "By the action that was tried: share of predictions nearest to its own true "
                "outcome, and share with the dot within 3 pixels of it.",
                ("action tried", "right outcome", "hit rate"),
                tuple(
                    (name, row.get("correct_rate"), row.get("hit_rate_3px"))
                    for name, row in per_action.items()
                ),
            )
        )
    context, prediction, truth = (
        run.pictures.get(f"counterfactual/{name}") for name in ("context", "prediction", "truth")
    )
    if context is not None and prediction is not None and truth is not None:
        stop = run.geometry.frame_columns(run.geometry.history - 2)[1]
        for number in range(min(2, len(context))):
            figure = panels.counterfactual_panel(
                context[number][:, :stop],
                prediction[number],
                truth[number],
                run.action_names,
                stripes=run.action_colours,
                stripe_px=run.geometry.separator,
            )
            blocks.append(
                Picture(
                    f"counterfactual-{number + 1}",
                    style.to_rgb(figure),
                    f"One history and {len(run.action_names)} rows, one per action: predicted "
                    "frame, true outcome, difference.",
                    f"History {number + 1} with each action in turn as the last one. {_DIFFERENCE}",
                )
            )
    return tuple(blocks)


def rollout_blocks(run: CanvasRun) -> tuple[Block, ...]:
    """Predictions fed with themselves: a strip by horizon, and the error against horizon."""
    found = run.evaluation.get("rollout")
    if not found or not found.get("horizon"):
        return (Text("Rollouts were not evaluated."),)
    horizon = found["horizon"]
    error, copied = found["plain_mse"], found["copy_last_mse"]
    worse = [k for k, e, c in zip(horizon, error, copied, strict=True) if not e < c]
    story = (
        f"Fed with its own predictions, the model's error goes from {in_words(error[0])} one step "
        f"ahead to {in_words(error[-1])} at step {horizon[-1]}. "
    )
    if not worse:
        story += "It stays below repeating the last seen frame at every step."
    elif worse == horizon[-len(worse) :]:
        story += f"From step {worse[0]} on it is no better than repeating the last seen frame."
    else:  # copying may get worse faster than the model does
        steps = f"step{'s' if len(worse) > 1 else ''} {', '.join(map(str, worse))}"
        story += f"At {steps} it is no better than repeating the last seen frame."
    hits = found.get("hit_rate_3px") or []
    rates = {}
    if any(h is not None for h in hits):
        rates = {"dot within 3 px": [math.nan if h is None else h for h in hits]}
        story += (
            f" The dot is within 3 px of the true one in {percent(hits[0])} of the rollouts at the "
            f"first step and in {percent(hits[-1])} at the last."
        )
    blocks: list[Block] = [Text(story)]
    prediction, truth = (run.pictures.get(f"rollout/{n}") for n in ("prediction", "truth"))
    if prediction is not None and truth is not None and len(truth):
        blocks.append(
            Picture(
                "rollout-strip",
                style.to_rgb(panels.rollout_panel(prediction[0], truth[0], horizon)),
                "Three rows of frames by steps ahead: truth, prediction, difference.",
                "One rollout along recorded actions; frames that the model painted take the place "
                f"of the true ones in its history. {_DIFFERENCE}",
            )
        )
    figure = plots.error_by_horizon(
        horizon, {"model": error, "copy last seen frame": copied}, rates=rates
    )
    blocks.append(
        Picture(
            "error-by-horizon",
            style.to_rgb(figure),
            story,
            f"Error against the number of steps predicted ahead, mean over "
            f"{in_words(found.get('rollouts'))} rollouts. Lower is better; where the model's line "
            "meets the other, its prediction is worth no more than standing still.",
            dict(found),
        )
    )
    return tuple(blocks)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as dotted names with their values as they would be typed."""
    out: list[tuple[str, str]] = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            out += _flat(value, f"{prefix}{name}.")
        elif isinstance(value, (list, tuple)):
            out.append((prefix + name, " ".join(map(str, value)) or "none"))
        else:
            out.append((prefix + name, "none" if value in (None, "") else str(value)))
    return out


def provenance_blocks(run: CanvasRun) -> tuple[Block, ...]:
    """Seed, revision, versions, checkpoint and geometry."""
    facts = {
        "training": run.provenance,
        "checkpoint": run.evaluation.get("checkpoint") or {},
        "geometry": run.evaluation["geometry"],
        "decode": run.evaluation.get("decode"),
    }
    return (
        Text("What this page was made from, so that it can be made again."),
        Definitions(tuple(_flat(facts))),
    )
