"""Measures that every hypothesis may give, so that a misspelt one is found before any work.

`hypotheses` makes the rows; docs/analysis.md has the same list.

    require("h1_1", ("lift",), where="family")
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence

from attn_jax.analysis import overlap, shift
from attn_jax.analysis.prompts import FIRST
from attn_jax.core.errors import ConfigError

#: Hypothesis -> names, or patterns of names.
METRICS: Mapping[str, tuple[str, ...]] = {
    "h1_1": (
        *overlap.METRICS,
        *(f"{name}_picture" for name in overlap.METRICS),
        "overlap_picture_first",
        "bar_mass",
        "camera_mass",
        "visible",
    ),
    "h1": ("fidelity", "mse_high", "mse_control", "matched_share", "null_floor"),
    "h2_1": (
        *shift.METRICS,
        "action_l2_std",
        "action_abs_std",
        *(f"{name}_first" for name in FIRST),
    ),
    "h2_2": ("correct", "lift"),
    "h3": (
        "roi_mass",
        "roi_mass_first_action",
        "roi_mass_last_action",
        "slope_action",
        "slope_denoise",
        "roi_curve",
        "visible",
    ),
    "h4": (
        "normalised_entropy",
        "effective_patches",
        "gini",
        "topk_mass",
        "max",
        "mass",
        "effective_rank",
        "lift",
    ),
    "words": ("normalised_entropy", "overlap", "lift"),
    "budget": ("mass:*",),
    "layers": (
        "similarity_to_previous_layer",
        "stability",
        "sink_mass",
        "sink_patches",
        "bar_mass",
        "bos_mass",
    ),
    "rotation": ("topk_iou", "centroid_shift_patches", "overlap_drop", "concentration_drop"),
    "cameras": ("camera_share",),
    "agreement": ("agreement", "shared_patches"),
    "rollout": ("rollout:*", "flow:*", "overlap", "lift"),
    "relevance": ("relevance:*", "overlap", "lift"),
}


def require(hypothesis: str, metrics: Sequence[str], *, where: str) -> None:
    """Checks that a hypothesis gives some measures.

    Raises:
      ConfigError: an unknown hypothesis, or a measure that it does not give.
    """
    if hypothesis not in METRICS:
        raise ConfigError(
            f"unknown hypothesis {hypothesis!r}", where=where, fix=f"Use one of {[*METRICS]}"
        )
    known = METRICS[hypothesis]
    for name in metrics:
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in known):
            raise ConfigError(
                f"{hypothesis} gives no metric {name!r}",
                where=where,
                fix=f"Use any of {', '.join(known)}",
            )
