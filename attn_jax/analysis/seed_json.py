"""Results in the JSON shapes of an earlier system, so that its tools can read ours.

The keys are theirs, the numbers ours: probabilities instead of scaled maps, area-weighted overlap.
`presets` has their definitions. Keys that are ours alone stand beside theirs. Every number is
finite, as their readers expect: what is undefined (an object that is not in the frame) is left out,
as they leave out an object without a mask.

    data = object_results(frames, "episode_00000", env_steps)
    aggregate = object_aggregate(rows)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from attn_jax.analysis.tables import mean_over

OBJECT_KEYS = {
    "overlap": "overlap_ratio",
    "concentration": "attention_concentration",
    "iou": "iou",
    "mean_inside": "mean_attn_inside",
    "mean_outside": "mean_attn_outside",
}
SHIFT_KEYS = {
    "mean_diff": "mean_diff",
    "mean_abs_diff": "abs_mean_diff",
    "max_increase": "max_increase",
    "max_decrease": "max_decrease",
    "l2": "l2_distance",
    "pearson": "correlation",
}
_AGGREGATE_OBJECT = {"overlap": "overlap", "concentration": "concentration", "iou": "iou"}
_AGGREGATE_SHIFT = {"l2": "l2_distance", "pearson": "correlation", "mean_abs_diff": "abs_mean_diff"}


def _chosen(table: Any, hypothesis: str, metrics: Mapping[str, str]) -> Any:
    """Rows of a hypothesis, for its first query and the camera they were made for."""
    rows = table[(table.hypothesis == hypothesis) & table.metric.isin(list(metrics))]
    if not len(rows):
        return rows
    query = _preferred([*rows["query"].unique()], ("text", "prompt"))
    rows = rows[rows["query"] == query]
    return rows[rows.camera == _preferred([*rows.camera.unique()], ("wrist",))]


def _preferred(names: Sequence[str], first: Sequence[str]) -> str:
    return next((name for name in first if name in set(names)), str(names[0]))


def object_results(
    frames: pd.DataFrame, episode: str, env_steps: Sequence[int]
) -> dict[str, Any] | None:
    """`h1_1_obj_attn_results.json` of one episode; None without rows of `h1_1`.

    It is of the wrist camera and text queries where they were analysed, else of the first ones.
    """
    rows = _chosen(frames, "h1_1", OBJECT_KEYS)
    if not len(rows):
        return None
    wide = rows.pivot_table(
        index=["env_step", "layer", "object", "role"],
        columns="metric",
        values="value",
        observed=True,
        sort=False,
        dropna=False,
    ).dropna(subset=["overlap"])  # frames that do not show the object: it was not listed there
    out: dict[str, Any] = {}
    numbers: dict[str, int] = {}
    for (step, layer, name, role), values in wide.iterrows():  # type: ignore[misc]
        place = numbers.setdefault(str(name), len(numbers))
        if not np.isfinite(values).all():
            continue
        layers = out.setdefault(str(int(step)), {})
        metrics = layers.setdefault(f"layer_{int(layer)}", {"aggregate_metrics": {}})
        metrics["aggregate_metrics"][f"object_{place}"] = {
            **{OBJECT_KEYS[str(key)]: float(value) for key, value in values.items()},
            "object_score": 1.0,
            "object_category": name,
            "object_role": role,
        }
    statistics = {}
    for layer, group in rows.groupby("layer"):
        by_metric = {m: g.value.to_numpy() for m, g in group.groupby("metric", observed=True)}
        found: dict[str, Any] = {}
        for metric, key in (("overlap", "overlap_ratio"), ("concentration",) * 2, ("iou",) * 2):
            found |= _moments(by_metric[metric], f"{key}_")
        known = np.isfinite(by_metric["overlap"])
        statistics[str(int(layer))] = found | {"n_samples": int(known.sum())}  # type: ignore[arg-type]
    return {
        "episode_id": episode,
        "outcome": str(rows.outcome.iloc[0]),
        "camera": str(rows.camera.iloc[0]),
        "total_frames": int(max(env_steps)) + 1,
        "keyframes": [int(step) for step in env_steps],
        "frame_results": out,
        "layer_statistics": statistics,
    }


def counterfactual_results(
    frames: pd.DataFrame, episode: str, prompts: Mapping[str, str]
) -> dict[str, Any] | None:
    """`h2_1_counterfactual_results.json` of one episode; None without rows of `h2_1`."""
    rows = _chosen(frames, "h2_1", SHIFT_KEYS)
    rows = rows[rows.kind != "frame"] if len(rows) else rows
    if not len(rows):
        return None
    out: dict[str, Any] = {}
    statistics: dict[str, Any] = {}
    keys = ["env_step", "layer", "variant"]
    for (step, layer, key), group in rows.groupby(keys, observed=True, sort=False):
        values = {
            SHIFT_KEYS[str(m)]: float(v) for m, v in zip(group.metric, group.value, strict=True)
        }
        if not np.isfinite(group.value).all():
            continue
        layers = out.setdefault(str(int(step)), {})
        layers.setdefault(f"layer_{int(layer)}", {})[str(key)] = {
            "prompt": prompts.get(str(key), ""),
            **values,
        }
    for (layer, key), group in rows.groupby(["layer", "variant"], observed=True, sort=False):
        found: dict[str, Any] = {}
        for metric, name in SHIFT_KEYS.items():
            found |= _moments(group.value[group.metric == metric].to_numpy(), f"{name}_")
        found["n_samples"] = int((group.metric == "l2").sum())
        statistics.setdefault(str(int(layer)), {})[str(key)] = found
    return {
        "episode_id": episode,
        "outcome": str(rows.outcome.iloc[0]),
        "camera": str(rows.camera.iloc[0]),
        "prompts": dict(prompts),
        "frame_results": out,
        "layer_statistics": statistics,
    }


def aggregate_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """The means per episode that `object_aggregate` and `counterfactual_aggregate` need."""
    table: Any = rows
    wanted = (table.hypothesis == "h1_1") & table.metric.isin(list(_AGGREGATE_OBJECT))
    wanted |= (table.hypothesis == "h2_1") & table.metric.isin(list(_AGGREGATE_SHIFT))
    keep = ["episode", "outcome", "hypothesis", "metric", "variant", "kind", "query", "layer"]
    return mean_over(table[wanted], [*keep, "camera"])


def object_aggregate(rows: pd.DataFrame) -> dict[str, Any] | None:
    """`multi_episode_aggregate.json`; one value per episode, its mean over frames and objects."""
    chosen = _chosen(rows, "h1_1", _AGGREGATE_OBJECT)
    if not len(chosen):
        return None
    layers = sorted(int(layer) for layer in chosen.layer.unique())
    return _head(chosen, layers) | {
        "layer_aggregates": {
            str(layer): _by_outcome(chosen[chosen.layer == layer], _AGGREGATE_OBJECT)
            for layer in layers
        }
    }


def counterfactual_aggregate(rows: pd.DataFrame) -> dict[str, Any] | None:
    """`cf_multi_episode_aggregate.json`: layer, variant, outcome, metric."""
    chosen = _chosen(rows, "h2_1", _AGGREGATE_SHIFT)
    chosen = chosen[chosen.kind != "frame"] if len(chosen) else chosen
    if not len(chosen):
        return None
    layers = sorted(int(layer) for layer in chosen.layer.unique())
    variants = sorted(str(name) for name in chosen.variant.unique())
    return _head(chosen, layers) | {
        "prompts": variants,
        "layer_aggregates": {
            str(layer): {
                key: _by_outcome(
                    chosen[(chosen.layer == layer) & (chosen.variant == key)], _AGGREGATE_SHIFT
                )
                for key in variants
            }
            for layer in layers
        },
    }


def _head(rows: Any, layers: list[int]) -> dict[str, Any]:
    outcomes = rows.groupby("episode", observed=True)["outcome"].first().astype(str)
    counts = outcomes.value_counts()
    return {
        "total_episodes": len(outcomes),
        "episode_count": {name: int(counts.get(name, 0)) for name in ("success", "failure")},
        "layers": layers,
    }


def _by_outcome(rows: Any, names: Mapping[str, str]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for outcome in ("success", "failure"):
        here = rows[rows.outcome == outcome]
        out[outcome] = {}
        for metric, name in names.items():
            one = here[here.metric == metric].groupby("episode", observed=True)["value"].mean()
            values = one[np.isfinite(one)].to_numpy()
            out[outcome][name] = {
                "values": values.tolist(),
                **_moments(values),
                "count": len(values),
            }
    return out


def _moments(values: Any, prefix: str = "") -> dict[str, float]:
    """Mean and standard deviation (ddof 0) of the finite values; nothing where there is none."""
    known = np.asarray(values, np.float64)
    known = known[np.isfinite(known)]
    if not len(known):
        return {}
    return {f"{prefix}mean": float(known.mean()), f"{prefix}std": float(known.std())}
