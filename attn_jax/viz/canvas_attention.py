"""The attention part of a canvas report: where the prediction looks, and how much at the actions.

Streams are those of a canvas model: `decoder` (the predicted frame's patches are its queries) and
`encoder` (which never sees the predicted frame). Everything is asked of the record by group name.

Axis names: (call, denoise, layer, head, query, key), see `core.record`.

    findings = examine(run)
    findings.budgets["decoder"].of("sep0", "sep1")       # (layer, head)
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from attn_jax.analysis import flowmaps, focus, patches, reduce
from attn_jax.core.record import AttentionRecord
from attn_jax.viz import attention_plots, panels, plots, style
from attn_jax.viz.canvas_run import CanvasRun
from attn_jax.viz.canvas_verdict import in_words, percent
from attn_jax.viz.report import Block, Picture, Text

MOST_CALLS, MOST_LAYERS, MOST_ROWS = 2, 6, 32
_WHO = {"decoder": "decoder, predicted patches", "encoder": "encoder, all visible patches"}


@dataclasses.dataclass(frozen=True)
class Findings:
    """Numbers behind the attention figures.

    Attributes:
      budgets: stream -> shares of attention by group.
      spread: stream -> (layer, head) effective number of patches attended to.
    """

    budgets: dict[str, flowmaps.Budget]
    spread: dict[str, np.ndarray]


def stripes(budget: flowmaps.Budget) -> tuple[str, ...]:
    """Names of the action stripes in a budget, oldest first."""
    return tuple(name for name in budget.names if name.startswith("sep"))


def _query_of(record: AttentionRecord) -> str | None:
    target = set(record.layout.tokens("target").tolist())
    recorded = set(record.layout.axis_tokens("query").tolist())
    return "target" if target & recorded else None


def examine(run: CanvasRun) -> Findings:
    """Computes budgets and spread of every recorded stream."""
    budgets, spread = {}, {}
    for stream in sorted(run.records):  # decoder first
        record = run.records[stream]
        query = _query_of(record)
        budgets[stream] = flowmaps.budget(record, query=query)
        spread[stream] = focus.per_head(record, focus.effective_patches, query=query)
    return Findings(budgets, spread)


def numbers(findings: Findings) -> dict[str, Any]:
    """The findings for the JSON twin, by stream."""
    out = {}
    for stream, budget in findings.budgets.items():
        names = stripes(budget)
        out[stream] = {
            "query": budget.query,
            "layers": budget.layers,
            "heads": budget.heads,
            "groups": budget.names,
            "group_mass": budget.mass,
            "group_area": budget.area,
            "stripe_mass": budget.of(*names),
            "stripe_area": budget.area_of(*names),
            "stripe_lift": flowmaps.lift(budget.of(*names), budget.area_of(*names)),
            "last_stripe_mass": budget.of(names[-1]),
            "cls_mass": budget.of("cls") if "cls" in budget.names else None,
            "effective_patches": findings.spread[stream],
        }
    return out


def summary(findings: Findings) -> tuple[str, ...]:
    """Sentences on how much each stream attends to the action stripes."""
    words = []
    for stream, budget in findings.budgets.items():
        names = stripes(budget)
        table, area = budget.of(*names), budget.area_of(*names)
        mean = float(table.mean())
        layer, head = np.unravel_index(int(table.argmax()), table.shape)
        who = "The predicted frame" if budget.query == "target" else f"The {stream}"
        where = f"layer {budget.layers[layer]}"
        where += f", head {budget.heads[head]}" if budget.heads else ""
        last = float(budget.of(names[-1]).mean())
        words.append(
            f"{who} puts {percent(mean)} of its {stream} attention on the action stripes, which "
            f"are {percent(area)} of the patches it can see: {mean / area:.1f} times what it would "
            f"without preference. {percent(last)} goes to the stripe of the last action. The head "
            f"that looks most at the actions is {where}, with {percent(float(table.max()))}."
        )
    return tuple(words)


def blocks(run: CanvasRun, findings: Findings) -> tuple[Block, ...]:
    """Text and figures, in reading order."""
    out: list[Block] = [Text(summary(findings))]
    if "decoder" in run.records and _query_of(run.records["decoder"]) == "target":
        out += _looking(run, run.records["decoder"])
    out += [_stripe_table(findings), _budget_figure(findings)]
    return tuple(out)


def _chosen_queries(run: CanvasRun, call: int) -> np.ndarray:
    """Patches of the true target frame that hold the object; all of them when none stands out."""
    geometry = run.geometry
    start, stop = geometry.frame_columns(geometry.history - 1)
    frame = run.pictures["attention_canvas"][call][:, start:stop]
    grid = geometry.layout.group("target").grid or (1, 1)
    if frame.shape[0] % grid[0] or frame.shape[1] % grid[1]:
        return np.arange(grid[0] * grid[1])
    found = patches.bright_patches(frame, grid)
    return found if len(found) else np.arange(grid[0] * grid[1])


def _looking(run: CanvasRun, record: AttentionRecord) -> list[Block]:
    layout = record.layout
    count = min(MOST_CALLS, record.shape[0])
    shown = np.unique(np.linspace(0, record.shape[0] - 1, count).round().astype(int))
    layers = np.unique(
        np.linspace(0, len(record.layers) - 1, min(MOST_LAYERS, len(record.layers))).round()
    ).astype(int)
    numbers_of_layers = [record.layers[i] for i in layers]
    place = {int(token): i for i, token in enumerate(layout.axis_tokens("query"))}
    queries, maps = [], []
    for call in shown:
        tokens = patches.frame_tokens(layout, "target", _chosen_queries(run, int(call)))
        tokens = np.array([t for t in tokens if int(t) in place])
        rows = [place[int(t)] for t in tokens]
        values = np.asarray(record.values[int(call)]).astype(np.float64)
        queries.append(tokens)
        maps.append(values[:, layers][..., rows, :].mean((0, 2)))  # (layer, query, key)
    canvases = run.pictures["attention_canvas"][shown]
    figure, scale = panels.attention_panel(
        canvases,
        np.stack([m.mean(1) for m in maps]),
        layout,
        queries=queries,
        row_names=[f"layer {n}" for n in numbers_of_layers],
        column_names=[f"canvas {i + 1}" for i in range(len(shown))],
    )
    overlays = Picture(
        "attention-overlay",
        style.to_rgb(figure),
        f"Canvases tinted by attention, one row for each of {len(layers)} decoder layers and one "
        f"column for each of {len(shown)} canvases; the patches that hold the true dot are "
        "outlined.",
        "Where the patches outlined in magenta (they hold the dot in the true frame, which the "
        "model did not see) look while they are predicted, by decoder layer, mean over heads. Dark "
        f"violet is no attention, yellow is a probability of {in_words(scale)} or more per patch; "
        "one scale for all pictures. The last frame is drawn as it truly was, for orientation.",
        {"scale": scale, "layers": numbers_of_layers, "calls": shown},
    )
    lines = attention_plots.attention_lines(
        canvases[0], maps[0], layout, queries[0], layers=numbers_of_layers
    )
    connections = Picture(
        "attention-lines",
        style.to_rgb(lines),
        "A darkened canvas with coloured lines from the outlined patches of the predicted frame to "
        "the patches they attend to most.",
        "The strongest 5\u202f% of connections in each decoder layer of canvas 1, mean over heads. "
        "One colour per layer; the thicker a line, the more attention. Lines that end on a stripe "
        "look at an action.",
        {"quantile": 0.95, "layers": numbers_of_layers},
    )
    return [overlays, connections, *_matrices(run)]


def _matrices(run: CanvasRun) -> list[Block]:
    record = run.records["decoder"]
    layout = record.layout
    rows = reduce.valid_queries(record, "target")
    tokens = layout.axis_tokens("query")[rows]
    bright = set(patches.frame_tokens(layout, "target", _chosen_queries(run, 0)).tolist())
    if len(rows) > MOST_ROWS:
        rows = rows[[int(t) in bright for t in tokens]]
        tokens = layout.axis_tokens("query")[rows]
    columns = (layout.group("target").grid or (1, 1))[1]
    place = {int(t): i for i, t in enumerate(layout.tokens("target"))}
    names = [
        f"{'● ' if int(t) in bright else ''}r{place[int(t)] // columns} c{place[int(t)] % columns}"
        for t in tokens
    ]
    values = np.asarray(record.values[0])[..., rows, :].astype(np.float64).mean((0, 1, 2))
    figure = attention_plots.attention_matrix(
        values, layout, names, title="decoder, canvas 1, mean over layers and heads"
    )
    return [
        Picture(
            "attention-matrix",
            style.to_rgb(figure),
            f"A matrix of {len(rows)} patches of the predicted frame against all "
            f"{values.shape[1]} keys, with white lines between the groups of keys.",
            "One row per patch of the predicted frame (r row, c column; ● holds the dot), one "
            "column per key. cls is the class token, frame0 the oldest frame, sep0 the stripe of "
            "the action after it, and so on; the last frame is the predicted one, attending to "
            "itself.",
            {"queries": names, "group_order": layout.names},
        )
    ]


def _stripe_table(findings: Findings) -> Picture:
    tables, areas = {}, []
    for stream, budget in findings.budgets.items():
        names = stripes(budget)
        title = _WHO.get(stream, stream)
        tables[title] = plots.HeadTable(budget.of(*names), budget.layers, budget.heads)
        areas.append(f"{stream} {in_words(budget.area_of(*names))}")
    first = next(iter(findings.budgets.values()))
    figure = plots.layer_head_matrix(
        tables, label="share of attention", reference=first.area_of(*stripes(first))
    )
    ranges = [
        f"{title}, from {table.values.min():.2f} to {table.values.max():.2f}"
        for title, table in tables.items()
    ]
    return Picture(
        "stripe-mass",
        style.to_rgb(figure),
        "Tables of layer by head with the share of attention that goes to the action stripes in "
        f"each cell: {'; '.join(ranges)}.",
        "Share of attention that lands on the action stripes, per layer and head. Attention "
        f"without preference would give the stripes' share of the keys ({', '.join(areas)}; the "
        f"mark on the colour bar is the {first.stream}'s).",
    )


def _budget_figure(findings: Findings) -> Picture:
    budgets = list(findings.budgets.values())
    return Picture(
        "attention-budget",
        style.to_rgb(
            plots.budget_bars(budgets, titles=[_WHO.get(b.stream, b.stream) for b in budgets])
        ),
        "Stacked bars, one per layer, that share out the attention over class token, frames and "
        "action stripes.",
        "How attention is shared out in each layer, mean over heads, queries and canvases; every "
        "bar sums to 1. Hatched parts are action stripes. The bar called keys shows how many of "
        "the patches belong to each group: a part that is larger in a layer than there is looked "
        "at by preference.",
    )
