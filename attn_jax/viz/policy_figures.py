"""Figures of a policy report that compare layers: objects, outcomes, prompts, masses, heads.

They are drawn from the rows of `launch.aggregate` (one per episode and measure) where these exist,
those of heads from its `heads.json`; every picture carries the numbers that it shows.

    focus_blocks(rows)                    # lift by layer, outcomes, prompts, budget
    head_blocks(heads)                    # layer by head, and the ranking
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from attn_jax.viz import attention_plots, effect_plots, plots, style
from attn_jax.viz.metric_names import metric, query_words
from attn_jax.viz.report import Block, Picture, Table, Text, span

#: Measures of objects that are compared between outcomes, as in the families of tests.
OBJECTS = ("overlap_picture", "concentration_picture", "iou_picture")
#: How far a prompt moves attention.
CHANGE = "relative_l2"
_TARGET = "target"


def focus_blocks(rows: Any) -> tuple[Block, ...]:
    """Objects by layer and outcome, changes by layer and prompt, masses by layer."""
    blocks = (*lift_blocks(rows), *outcome_blocks(rows), *prompt_blocks(rows), *budget_blocks(rows))
    return blocks or (Text("No maps with object masks were analysed."),)


def lift_blocks(rows: Any) -> list[Block]:
    """Lift on target and distractors by layer, a figure per query group."""
    lifts = rows[(rows.hypothesis == "h1_1") & (rows.metric == "lift_picture")]
    lifts = lifts[lifts.role.isin([_TARGET, "distractor"])]
    blocks: list[Block] = []
    for query, chosen in _by_query(lifts):
        figure = effect_plots.by_layer(
            chosen, split="role", y_label="lift", level=1.0, level_name="everywhere alike"
        )
        blocks.append(
            Picture(
                _name("lift", query),
                style.to_rgb(figure),
                f"Lift of target and distractor by layer, {query_words(query)}.",
                f"Attention of the {query_words(query)} on objects over what their area would "
                "receive, mean over episodes with 1.96 standard errors. A policy that follows its "
                "prompt looks at the target more than at the distractor.",
                {"curves": effect_plots.layer_means(chosen, "role")},
            )
        )
    return blocks


def outcome_blocks(rows: Any) -> list[Block]:
    """Bars by layer and outcome, and the last layer with a point per episode."""
    objects = rows[(rows.hypothesis == "h1_1") & (rows.role == _TARGET)]
    blocks: list[Block] = []
    for query, chosen in _by_query(objects[objects.metric.isin(OBJECTS)]):
        measures = {name: chosen[chosen.metric == name] for name in OBJECTS}
        measures = {n: m for n, m in measures.items() if np.isfinite(m.value).any()}
        labels = {metric(n).label.removesuffix(" in the picture"): m for n, m in measures.items()}
        blocks.append(
            Picture(
                _name("bars", query),
                style.to_rgb(effect_plots.bars_by_layer(labels)),
                "Overlap, concentration and IoU of the target by layer and outcome, "
                f"{query_words(query)}.",
                f"Attention of the {query_words(query)} on the target by layer and outcome, "
                "without letterbox bars: mean over episodes with 1.96 standard errors. "
                + "; ".join(f"{name}: {_unit(n)}" for n, name in zip(measures, labels, strict=True))
                + ".",
                {n: effect_plots.layer_means(m, "outcome") for n, m in measures.items()},
            )
        )
    last = objects[(objects.metric == "lift_picture") & (objects["query"] == "action")]
    if len(last):
        last = last[last.layer == last.layer.max()]
    points: dict[str, dict[str, list[float]]] = {}
    for camera in sorted(map(str, last.camera.unique())):
        one = last[last.camera == camera].groupby(["outcome", "episode"], observed=True)
        groups = {str(k): v.tolist() for k, v in one.value.mean().groupby("outcome", observed=True)}
        points[f"lift on the target, camera {camera}"] = {
            k: groups[k] for k in effect_plots.OUTCOME_COLOURS if k in groups
        }
    if any(np.isfinite(v).any() for groups in points.values() for v in groups.values()):
        blocks.append(
            Picture(
                "outcomes",
                style.to_rgb(effect_plots.by_outcome(points)),
                "Lift on the target by outcome, a point per episode.",
                f"Action attention of layer {int(last.layer.max())} on the target, a point per "
                "episode, the mean as a line.",
                {"points": points},
            )
        )
    return blocks


def prompt_blocks(rows: Any) -> list[Block]:
    """Layer by prompt: how far other words, other noise and the next frame move the maps."""
    changes = rows[(rows.hypothesis == "h2_1") & (rows.metric == CHANGE)]
    blocks: list[Block] = []
    for query, chosen in _by_query(changes):
        keys = chosen[["kind", "variant"]].astype(str).drop_duplicates()
        order = keys.sort_values(["kind", "variant"]).variant.tolist()
        names = [name.replace("_", " ") for name in order]
        found = {
            f"camera {camera}": _table(chosen[chosen.camera == camera], "variant", order, names)
            for camera in sorted(map(str, chosen.camera.unique()))
        }
        figure = plots.layer_head_matrix(found, label=metric(CHANGE).label, x_label="compared with")
        blocks.append(
            Picture(
                _name("prompts", query),
                style.to_rgb(figure),
                f"Change of the attention of the {query_words(query)} by layer and by what was "
                "changed.",
                f"{metric(CHANGE).label.capitalize()} of the {query_words(query)}, mean over "
                "frames and episodes: other words count where they move a map further than other "
                "noise and the next frame do.",
                {title: _numbers(table) for title, table in found.items()},
            )
        )
    return blocks


def budget_blocks(rows: Any) -> list[Block]:
    """Shares of attention on every token group by layer."""
    masses = rows[(rows.hypothesis == "budget") & rows.metric.astype(str).str.startswith("mass:")]
    masses = masses[~masses.metric.isin(["mass:vision", "mass:language"])]
    blocks: list[Block] = []
    for query, chosen in _by_query(masses):
        names = list(dict.fromkeys(map(str, chosen.metric)))
        wide = _wide(chosen, "metric").reindex(columns=names)
        shares = np.nan_to_num(wide.to_numpy(np.float64))
        groups = [name.removeprefix("mass:") for name in names]
        layers = [int(layer) for layer in wide.index]
        figure = attention_plots.action_budget(shares, groups, x_label="layer", places=layers)
        blocks.append(
            Picture(
                _name("budget", query),
                style.to_rgb(figure),
                f"Shares of the attention of the {query_words(query)} on each group of tokens by "
                "layer.",
                f"What the {query_words(query)} spend their attention on, by layer, mean over "
                "episodes.",
                {"layer": layers, "shares": dict(zip(groups, shares.T.tolist(), strict=True))},
            )
        )
    return blocks


def head_blocks(heads: Mapping[str, Any]) -> tuple[Block, ...]:
    """Tables of layer by head, and the most focused heads of every query and camera.

    Args:
      heads: `heads.json` of an aggregate.
    """
    ranked = [
        (
            f"{query_words(name.rsplit('/', 1)[0])}, {name.rsplit('/', 1)[1]} camera,"
            f" layer {head['layer']}, head {head['head']}",
            head["normalised_entropy"],
            head["mass"],
            head["lift"],
            span(_rounded(head["rank_low"]), _rounded(head["rank_high"])),
        )
        for name, ranking in heads.items()
        for head in ranking["heads"][:3]
        if head["normalised_entropy"] is not None
    ]
    if not ranked:
        return (Text("Heads were averaged, or their focus was not analysed."),)
    caption = (
        "The three highest-ranked heads of every query and camera, of those that give the camera "
        "one per cent of their attention. The interval is that of the rank when episodes are drawn "
        "anew: a wide one means that the order is chance."
    )
    columns = (
        "head", "normalised entropy", "share of attention", "lift on the target",
        "95 % interval of the rank",
    )  # fmt: skip
    return (*head_figures(heads), Table(caption, columns, tuple(ranked)))


def head_figures(heads: Mapping[str, Any]) -> list[Block]:
    """Entropy and lift on the target, layer by head, a panel per camera."""
    captions = {
        "normalised_entropy": "Normalised entropy of every head: 0 is one patch, 1 all alike.",
        "lift": "Lift of every head on the target: 1 is looking everywhere alike.",
    }
    queries: dict[str, dict[str, Any]] = {}
    for name, ranking in heads.items():
        query, camera = name.rsplit("/", 1)
        queries.setdefault(query, {})[f"camera {camera}"] = ranking["heads"]
    blocks: list[Block] = []
    for kind, caption in captions.items():
        for query, cameras in queries.items():
            found = {title: _head_table(ranked, kind) for title, ranked in cameras.items()}
            if not any(np.isfinite(table.values).any() for table in found.values()):
                continue
            figure = plots.layer_head_matrix(
                found,
                label=metric(kind).label,
                reference=1.0 if kind == "lift" else None,
                number_format="{:.1f}" if kind == "lift" else "{:.2f}",
            )
            blocks.append(
                Picture(
                    _name(f"heads-{kind}", query),
                    style.to_rgb(figure),
                    f"{caption[:-1]}; queries: {query_words(query)}, layer by head.",
                    f"{caption} Queries: {query_words(query)}; mean over episodes. Grey: the head "
                    "gives the camera less than one per cent of its attention.",
                    {title: _numbers(table) for title, table in found.items()},
                )
            )
    return blocks


def _head_table(ranked: Sequence[Mapping[str, Any]], kind: str) -> plots.HeadTable:
    """One measure of ranked heads; NaN where a head does not look at the camera."""
    layers = sorted({head["layer"] for head in ranked})
    numbers = sorted({head["head"] for head in ranked})
    values = np.full((len(layers), len(numbers)), np.nan)
    for head in ranked:
        if head["normalised_entropy"] is not None and head[kind] is not None:
            values[layers.index(head["layer"]), numbers.index(head["head"])] = head[kind]
    return plots.HeadTable(values, layers, numbers)


def _by_query(rows: Any) -> list[tuple[str, Any]]:
    """Query group -> its rows, where any has a number."""
    names = sorted(map(str, rows["query"].unique()))
    parts = [(name, rows[rows["query"] == name]) for name in names]
    return [(name, part) for name, part in parts if np.isfinite(part.value).any()]


def _wide(rows: Any, column: str) -> Any:
    """Means over episodes, layer by `column`; an episode counts once."""
    means = rows.groupby(["episode", "layer", column], observed=True).value.mean()
    return means.groupby(["layer", column], observed=True).mean().unstack(column)


def _table(rows: Any, column: str, keys: list[Any], names: list[Any]) -> plots.HeadTable:
    wide = _wide(rows, column).reindex(columns=keys)
    return plots.HeadTable(wide.to_numpy(np.float64), [int(i) for i in wide.index], names)


def _numbers(table: plots.HeadTable) -> dict[str, Any]:
    return {"layer": list(table.layers), "columns": list(table.heads), "mean": table.values}


def _name(kind: str, query: str) -> str:
    return f"{kind}-{query}".replace("/", "-").replace("_", "-")


def _unit(name: str) -> str:
    return metric(name).unit


def _rounded(value: float | None) -> int | None:
    return None if value is None else round(value)
