"""What the configurations of `launch.analyze` are made of: hypotheses and families of tests.

    config = parts.make("h1_1", "h2_1")
    config.hypotheses.h1_1.streams = ("suffix:action",)

A hypothesis has `streams` (`stream:query group`), `cameras` (empty: all), `denoise` (`mean`,
`first` or `last`), `heads` (how they are joined), `sinks` (`keep` or `remove`), `tau`, `top_share`,
for `h1` `keep_unmatched`, and `missing`: `error`, or `skip` to leave it out, with the reason in
`done.json`, where an episode lacks what it needs. A family has the fields of
`attn_jax.analysis.aggregate.Family`. Families are declared here, before anything is tested.
"""

from __future__ import annotations

from typing import Any

import ml_collections

BOTH = ("prefix:text", "suffix:action")
ACTION = ("suffix:action",)
LAYERS = ("metric", "query", "layer", "camera")

HYPOTHESES: dict[str, dict[str, Any]] = {
    "h1_1": {"streams": BOTH},
    "h1": {"streams": ACTION, "keep_unmatched": False},
    "h2_1": {"streams": BOTH},
    "h2_2": {"streams": ("prefix:text",)},
    "h3": {"streams": ACTION},
    "h4": {"streams": BOTH},
    "words": {"streams": ("prefix:text",)},
    "budget": {"streams": ACTION},
    "layers": {"streams": BOTH},
    "rotation": {"streams": BOTH},
    "cameras": {"streams": BOTH},
    "agreement": {"streams": BOTH},
    "rollout": {"streams": ACTION},
    "relevance": {"streams": ACTION},
}
#: Hypotheses that need runs or records made on purpose.
SPECIAL = ("h1", "h2_2", "rotation", "agreement", "rollout", "relevance")

FAMILIES: dict[str, dict[str, dict[str, Any]]] = {
    "h1_1": {
        "target_lift": {
            "metrics": ("lift_picture",),
            "test": "above",
            "reference": 1.0,
            "alternative": "greater",
            "by": LAYERS,
            "where": {"role": ("target",)},
        },
        "objects_by_outcome": {
            "metrics": ("overlap_picture", "concentration_picture", "iou_picture"),
            "by": LAYERS,
            "where": {"role": ("target",)},
        },
        "first_look_by_outcome": {
            "metrics": ("overlap_picture_first",),
            "by": LAYERS,
            "where": {"role": ("target",)},
        },
    },
    "h1": {
        "fidelity": {
            "metrics": ("fidelity",),
            "test": "above",
            "beside": "null_floor",
            "alternative": "greater",
            "by": ("metric", "layer", "camera", "variant"),
        },
    },
    "h2_1": {
        "prompt_moves_attention": {
            "metrics": ("relative_l2", "jsd", "centroid_shift_px"),
            "test": "floor",
            "alternative": "greater",
            "by": LAYERS,
            "where": {"kind": ("counterfactual", "noise", "paraphrase", "frame")},
        },
        "prompt_moves_actions": {
            "metrics": ("action_l2_std",),
            "test": "floor",
            "floor": ("noise", "paraphrase"),
            "alternative": "greater",
            "by": ("metric",),
            "where": {"kind": ("counterfactual", "noise", "paraphrase")},
        },
        "prompt_moves_first_attention": {
            "metrics": ("relative_l2_first", "jsd_first", "centroid_shift_px_first"),
            "test": "floor",
            "alternative": "greater",
            "by": LAYERS,
            "where": {"kind": ("counterfactual", "noise", "paraphrase", "frame")},
        },
        "prompt_moves_first_actions": {
            "metrics": ("action_l2_std_first",),
            "test": "floor",
            "floor": ("noise", "paraphrase"),
            "alternative": "greater",
            "by": ("metric",),
            "where": {"kind": ("counterfactual", "noise", "paraphrase")},
        },
    },
    "h2_2": {
        "answers_are_right": {
            "metrics": ("correct",),
            "test": "above",
            "primary": "sign_flip",  # a t test has no answer where every answer is right
            "reference": 0.5,
            "alternative": "greater",
            "by": ("metric", "variant"),
        },
        "answers_look_at_objects": {
            "metrics": ("lift",),
            "test": "above",
            "reference": 1.0,
            "alternative": "greater",
            "by": LAYERS,
        },
    },
    "h3": {
        "attention_drifts": {
            "metrics": ("slope_action", "slope_denoise"),
            "test": "above",
            "by": ("metric", "layer", "camera"),
            "where": {"role": ("target",)},
        },
    },
    "h4": {
        "head_focus_by_outcome": {
            "metrics": ("normalised_entropy",),
            "by": ("metric", "query", "layer", "head", "camera"),
        },
    },
    "words": {
        "nouns_look_at_their_object": {
            "metrics": ("lift",),
            "test": "above",
            "reference": 1.0,
            "alternative": "greater",
            "by": ("metric", "layer", "camera"),
            "where": {"kind": ("own",), "role": ("target",)},
        },
    },
    "budget": {
        "budget_by_outcome": {
            "metrics": ("mass:vision", "mass:language"),
            "by": ("metric", "query", "layer"),
        },
    },
    "layers": {
        "stability_by_outcome": {"metrics": ("stability",), "by": LAYERS},
    },
    "cameras": {
        "cameras_by_outcome": {"metrics": ("camera_share",), "by": LAYERS},
    },
    "agreement": {
        "cameras_agree": {
            "metrics": ("agreement",),
            "test": "above",
            "alternative": "greater",
            "by": LAYERS,
        },
        "agreement_by_outcome": {"metrics": ("agreement",), "by": LAYERS},
    },
    "rollout": {
        "rollout_lies_on_target": {
            "metrics": ("lift",),
            "test": "above",
            "reference": 1.0,
            "alternative": "greater",
            "by": ("metric", "camera"),
            "where": {"role": ("target",)},
        },
    },
    "relevance": {
        "relevance_lies_on_target": {
            "metrics": ("lift",),
            "test": "above",
            "reference": 1.0,
            "alternative": "greater",
            "by": ("metric", "camera"),
            "where": {"role": ("target",)},
        },
    },
    "rotation": {
        "turning_loses_objects": {
            "metrics": ("overlap_drop",),
            "test": "above",
            "reference": 0.2,
            "alternative": "greater",
            "by": LAYERS,
        },
    },
}


def make(*names: str, skip: tuple[str, ...] = ()) -> ml_collections.ConfigDict:
    """A configuration of these hypotheses and their families; those in `skip` may be missing."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    # Of permutations and bootstraps, and of the ranking of heads.
    config.resamples = 10_000
    config.rank_resamples = 1000
    config.hypotheses = {
        name: {
            "cameras": (),
            "denoise": "mean",
            "heads": "mean",
            "sinks": "keep",
            "tau": 0.3,
            "top_share": 0.1,
            "missing": "skip" if name in skip else "error",
            **HYPOTHESES[name],
        }
        for name in names
    }
    config.families = {
        family: {"hypothesis": name, **fields}
        for name in names
        for family, fields in FAMILIES[name].items()
    }
    return config
