"""Does it predict? The verdict of a canvas report, derived from the numbers alone.

A model counts as predicting when it beats two answers that need no model (repeating the last frame,
the best uniform grey), puts the moving object where it truly is, and answers each action with that
action's outcome. Tests that could not be made are left out of the verdict and named.

    result = judge(evaluation)
    result.level, result.headline          # "good", "The model predicts the next frame."
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

from attn_jax.viz.report import MISSING, format_number

#: Share of canvases with the object found, or of actions answered rightly, that passes a test.
ENOUGH = 0.9

Level = Literal["good", "mixed", "bad"]
HEADLINES: dict[str, str] = {
    "good": "The model predicts the next frame.",
    "mixed": "The model predicts the next frame only in part.",
    "bad": "The model does not predict the next frame.",
}


@dataclasses.dataclass(frozen=True)
class Check:
    """One test of the verdict: its name, whether it passed (None: not tested), and a sentence."""

    name: str
    passed: bool | None
    sentence: str


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The verdict in words; `level` is `good`, `mixed` or `bad`."""

    level: Level
    headline: str
    checks: tuple[Check, ...]


def percent(share: float | int | None) -> str:
    """A share as a percentage with as many digits as it deserves; the sign does not break off."""
    if share is None or not math.isfinite(share):
        return MISSING
    share = round(share, 3)
    digits = 1 if 0.001 <= share < 0.1 or 0.9 < share < 1.0 else 0
    return f"{100 * share:.{digits}f}\u202f%"


def in_words(value: float | int | None) -> str:
    """A number within a sentence."""
    return format_number(value, trim=True)


def judge(evaluation: Mapping[str, Any]) -> Verdict:
    """The verdict for the contents of `evaluation.json`."""
    skill = evaluation["skill"]
    error = _error_check(skill, canvases_in_words(evaluation))
    place = _place_check(skill)
    action = _action_check(evaluation.get("counterfactual") or {})
    hit, copied = skill.get("hit_rate_3px"), skill.get("copy_last_hit_rate_3px") or 0.0
    found = None if hit is None else hit > copied
    if found is False or (not error.passed and found is not True):
        level: Level = "bad"
    elif all(check.passed is not False for check in (error, place, action)):
        level = "good"
    else:
        level = "mixed"
    return Verdict(level, HEADLINES[level], (error, place, action))


def canvases_in_words(evaluation: Mapping[str, Any]) -> str:
    """How many canvases were evaluated and, where that is known, whether training saw them."""
    count, trained = in_words(evaluation["skill"]["canvases"]), evaluation.get("trained_on")
    if trained:
        return f"{count} canvases (trained on in part or whole: {', '.join(trained)})"
    return f"{count} canvases" if trained is None else f"{count} held-out canvases"


def _error_check(skill: Mapping[str, Any], canvases: str) -> Check:
    mse, copied, grey = (skill[k] for k in ("plain_mse", "copy_last_mse", "best_constant_mse"))
    passed = bool(mse < copied and mse < grey)
    words = (
        f"Its mean squared error on {canvases} is {in_words(mse)}: {_compared(mse, copied)} "
        f"that of repeating the last frame ({in_words(copied)}) and "
        f"{_compared(mse, grey)} that of the best uniform grey ({in_words(grey)})."
    )
    return Check("error below both baselines", passed, words)


def _compared(value: float | int, other: float | int) -> str:
    if not math.isfinite(value) or other <= 0:
        return "not below"
    ratio = value / other
    if ratio < 1.0:
        return f"{1 / ratio:.1f} times smaller than" if ratio < 0.95 else "slightly below"
    return f"{ratio:.1f} times larger than" if ratio > 1.05 else "no better than"


def _place_check(skill: Mapping[str, Any]) -> Check:
    name = f"dot within 3 px on at least {percent(ENOUGH)}"
    hit = skill.get("hit_rate_3px")
    if hit is None:
        return Check(name, None, "Where the object is was not tested: this world has no known dot.")
    copied = skill.get("copy_last_hit_rate_3px")
    middle = skill.get("median_dot_error_px")
    words = f"The predicted dot is within 3 px of the true one on {percent(hit)} of them"
    words += "" if copied is None else f" (repeating the last frame: {percent(copied)})"
    words += (
        "; on half of them or more no dot is found."
        if middle is None or not math.isfinite(middle)
        else f"; the median distance is {in_words(float(middle))} px."
    )
    return Check(name, bool(hit >= ENOUGH and hit > (copied or 0.0)), words)


def _action_check(counterfactual: Mapping[str, Any]) -> Check:
    name = f"right outcome for at least {percent(ENOUGH)} of actions"
    rate = counterfactual.get("correct_rate")
    if rate is None:
        return Check(
            name, None, "Whether it heeds the action was not tested: true outcomes are not known."
        )
    count = len(counterfactual.get("per_action") or ())
    chance = f" (by chance {percent(1 / count)})" if count else ""
    words = (
        f"With every action tried on the same history, {percent(rate)} of the predictions are "
        f"nearer to the true outcome of their own action than to that of any other{chance}."
    )
    return Check(name, bool(rate >= ENOUGH), words)
