"""The attention part of a canvas report: where the prediction looks, and how much at the actions.

Streams are those of a canvas model: `decoder` (the predicted frame's patches are its queries) and
`encoder` (which never sees the predicted frame). Everything is asked of the record by group name.

Axis names: (call, denoise, layer, head, query, key), see `core.record`.

    findings = examine(run)
    findings.budgets["decoder"].of("sep0", "sep1")       # (layer, head)
    blocks(run, findings, View(heads=(0, 2), join_heads="max", quantile=0.99))
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from attn_jax.analysis import flowmaps, focus, patches, reduce
from attn_jax.core.errors import ConfigError
from attn_jax.core.record import AttentionRecord
from attn_jax.viz import attention_plots, panels, plots, style
from attn_jax.viz.canvas_run import CanvasRun
from attn_jax.viz.canvas_verdict import in_words, percent
from attn_jax.viz.report import Block, Picture, Text

MOST_CALLS, MOST_LAYERS, MOST_ROWS = 2, 6, 32
JOINS = ("mean", "max", "sum")


@dataclasses.dataclass(frozen=True)
class View:
    """Which part of the attention the overlays, lines and the matrix show.

    Attributes:
      heads: numbers of the heads; empty takes all.
      join_heads, join_patches: how heads, and then the asking patches, become one map; of `JOINS`.
      queries: frame whose patches ask; None takes the predicted frame, and the newest visible one
        of a stream that never sees that.
      patches: patches of that frame as `0,5,8-10`, raster order; None takes those that hold the
        object, and all when none stands out.
      quantile: lines below this quantile of a layer's weights are not drawn, in [0, 1].

    Raises:
      ConfigError: an unknown way of joining, or a quantile outside [0, 1].
    """

    heads: tuple[int, ...] = ()
    join_heads: str = "mean"
    join_patches: str = "mean"
    queries: str | None = None
    patches: str | None = None
    quantile: float = 0.95

    def __post_init__(self):
        for how in (self.join_heads, self.join_patches):
            if how not in JOINS:
                raise ConfigError(f"cannot join by {how!r}", fix=f"Use one of {', '.join(JOINS)}")
        if not 0 <= self.quantile <= 1:
            raise ConfigError(f"quantile {self.quantile} is outside [0, 1]")

    def frame(self, run: CanvasRun, stream: str) -> str | None:
        """Group whose patches ask, None where the stream did not record it.

        Raises:
          ConfigError: no frame has this name.
        """
        frames = [f"frame{i}" for i in range(run.geometry.history)]
        if self.queries not in (None, "target", *frames):
            raise ConfigError(
                f"no frame is called {self.queries!r}",
                fix=f"Use target or one of {', '.join(frames)}",
            )
        layout = run.records[stream].layout
        recorded = set(layout.axis_tokens("query").tolist())
        for name in [self.queries] if self.queries else ["target", frames[-2]]:
            if recorded.intersection(layout.tokens(name).tolist()):
                return name
        return None

    def chosen(self, run: CanvasRun, stream: str, frame: str, call: int) -> np.ndarray:
        """Tokens of the asking patches of one canvas that were recorded.

        Raises:
          ConfigError: a patch that the frame does not have, or none of them was recorded.
        """
        layout = run.records[stream].layout
        grid = layout.group(frame).grid or (1, 1)
        if self.patches is None:
            numbers = _object_patches(run, frame, call, grid)
        else:
            numbers = patches.parse_patches(self.patches, grid[0] * grid[1])
        tokens = patches.frame_tokens(layout, frame, numbers)
        tokens = tokens[np.isin(tokens, layout.axis_tokens("query"))]
        if not len(tokens):
            raise ConfigError(f"patches {self.patches} of {frame} were not recorded", where=stream)
        return tokens

    def head_rows(self, record: AttentionRecord) -> list[int]:
        """Positions of the chosen heads on the head axis.

        Raises:
          ConfigError: a head that was not recorded.
        """
        if not self.heads:
            return [*range(record.shape[3])]
        missing = [head for head in self.heads if head not in record.heads]
        if missing:
            raise ConfigError(
                f"heads {missing} were not recorded",
                where=f"stream {record.stream}",
                fix=f"Recorded heads: {', '.join(map(str, record.heads)) or 'their mean only'}",
            )
        return [record.heads.index(head) for head in self.heads]

    def maps(self, record: AttentionRecord, call: int, rows: np.ndarray) -> np.ndarray:
        """(layer, query, key) weights of one canvas and some rows, float64, heads joined."""
        values = np.asarray(record.values[call]).astype(np.float64).mean(0)
        return reduce.join(values[:, self.head_rows(record)][..., rows, :], self.join_heads, axis=1)

    def heads_in_words(self, record: AttentionRecord) -> str:
        """Which heads and how they were joined, within a sentence."""
        if not record.heads:
            return "mean over heads"
        if len(self.heads) == 1:
            return f"head {self.heads[0]}"
        which = "heads" if not self.heads else f"heads {', '.join(map(str, self.heads))}"
        return f"{_NOUNS[self.join_heads]} over {which}"

    def data(self, record: AttentionRecord) -> dict[str, Any]:
        """The choice for the JSON twin."""
        return {
            "heads": self.heads or record.heads,
            "join_heads": self.join_heads,
            "join_patches": self.join_patches,
        }


_PREDICTED = "the predicted frame"
_NOUNS = {"mean": "mean", "max": "largest", "sum": "sum"}


@dataclasses.dataclass(frozen=True)
class Findings:
    """Numbers behind the attention figures.

    Attributes:
      budgets: stream -> shares of attention by group.
      spread: stream -> (layer, head) effective number of patches attended to.
      titles: stream -> whose attention it is.
    """

    budgets: dict[str, flowmaps.Budget]
    spread: dict[str, np.ndarray]
    titles: dict[str, str]


def stripes(budget: flowmaps.Budget) -> tuple[str, ...]:
    """Names of the action stripes in a budget, oldest first."""
    return tuple(name for name in budget.names if name.startswith("sep"))


def _query_of(record: AttentionRecord) -> str | None:
    target = set(record.layout.tokens("target").tolist())
    recorded = set(record.layout.axis_tokens("query").tolist())
    return "target" if target & recorded else None


def examine(run: CanvasRun) -> Findings:
    """Computes budgets and spread of every recorded stream."""
    budgets, spread, titles = {}, {}, {}
    for stream in sorted(run.records):  # decoder first
        record = run.records[stream]
        query = _query_of(record)
        budgets[stream] = flowmaps.budget(record, query=query)
        spread[stream] = reduce.per_head(record, focus.effective_patches, query=query)
        asking, seen = (record.layout.axis_tokens(axis) for axis in ("query", "key"))
        every = set(asking.tolist()) >= set(seen.tolist())
        who = "predicted" if query else "all visible" if every else "recorded"
        titles[stream] = f"{stream}, {who} patches"
    return Findings(budgets, spread, titles)


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
        asked = budget.query == "target"
        who = "The predicted frame" if asked else f"The {stream}"
        whose = f"{stream} attention" if asked else "attention"
        where = f"layer {budget.layers[layer]}"
        where += f", head {budget.heads[head]}" if budget.heads else ""
        last = float(budget.of(names[-1]).mean())
        words.append(
            f"{who} puts {percent(mean)} of its {whose} on the action stripes, which "
            f"are {percent(area)} of the patches it can see: {mean / area:.1f} times what it would "
            f"without preference. {percent(last)} goes to the stripe of the last action. The head "
            f"that looks most at the actions is {where}, with {percent(float(table.max()))}."
        )
    return tuple(words)


def blocks(run: CanvasRun, findings: Findings, view: View | None = None) -> tuple[Block, ...]:
    """Text and figures, in reading order.

    Raises:
      ConfigError: the view asks for heads, frames or patches that are not there.
    """
    view = view or View()
    out: list[Block] = [Text(summary(findings))]
    for stream in findings.budgets:
        frame = view.frame(run, stream)
        if frame is None:
            out.append(Text(f"No patch of {view.queries or 'a frame'} asks in the {stream}."))
            continue
        out.append(_overlay(run, stream, frame, view))
        if stream == "decoder":
            out += [_lines(run, frame, view), _matrix(run, frame, view)]
    return (*out, _stripe_table(findings), _budget_figure(findings))


def _in_words(run: CanvasRun, frame: str) -> str:
    predicted = frame in ("target", f"frame{run.geometry.history - 1}")
    return _PREDICTED if predicted else frame


def _object_patches(run: CanvasRun, frame: str, call: int, grid: tuple[int, int]) -> np.ndarray:
    """Patches of the true frame that hold the object; all of them when none stands out."""
    geometry = run.geometry
    slot = geometry.history - 1 if frame == "target" else int(frame.removeprefix("frame"))
    start, stop = geometry.frame_columns(slot)
    picture = run.pictures["attention_canvas"][call][:, start:stop]
    whole = np.arange(grid[0] * grid[1])
    if picture.shape[0] % grid[0] or picture.shape[1] % grid[1]:
        return whole
    found = patches.bright_patches(picture, grid)
    return found if len(found) else whole


def _rows_of(record: AttentionRecord, tokens: np.ndarray) -> np.ndarray:
    place = {int(token): i for i, token in enumerate(record.layout.axis_tokens("query"))}
    return np.array([place[int(token)] for token in tokens])


def _shown_layers(record: AttentionRecord) -> np.ndarray:
    count = min(MOST_LAYERS, len(record.layers))
    return np.unique(np.linspace(0, len(record.layers) - 1, count).round()).astype(int)


def _overlay(run: CanvasRun, stream: str, frame: str, view: View) -> Picture:
    record = run.records[stream]
    count = min(MOST_CALLS, record.shape[0])
    shown = np.unique(np.linspace(0, record.shape[0] - 1, count).round().astype(int))
    layers = _shown_layers(record)
    numbers_of_layers = [record.layers[i] for i in layers]
    queries = [view.chosen(run, stream, frame, int(call)) for call in shown]
    maps = [
        reduce.join(
            view.maps(record, int(call), _rows_of(record, tokens))[layers], view.join_patches, 1
        )
        for call, tokens in zip(shown, queries, strict=True)
    ]
    figure, scale = panels.attention_panel(
        run.pictures["attention_canvas"][shown],
        np.stack(maps),
        record.layout,
        queries=queries,
        row_names=[f"layer {n}" for n in numbers_of_layers],
        column_names=[f"canvas {i + 1}" for i in shown],
    )
    whose = _in_words(run, frame)
    which = f"numbers {view.patches}" if view.patches else "they hold the dot in it"
    asked = f"of {whose} that are outlined in magenta ({which}) look"
    if whose == _PREDICTED:
        asked += " while they are predicted"
    joined = f"{view.heads_in_words(record)}, {_NOUNS[view.join_patches]} over the outlined patches"
    unit = "probability" if "sum" not in (view.join_heads, view.join_patches) else "sum"
    last = " The last frame is drawn as it truly was, for orientation."
    if stream == "encoder":
        last += " The encoder never sees it, so that nothing lands there."
    return Picture(
        "attention-overlay" if stream == "decoder" else f"attention-overlay-{stream}",
        style.to_rgb(figure),
        f"Canvases tinted by attention, one row for each of {len(layers)} {stream} layers and one "
        f"column for each of {len(shown)} canvases; the asking patches are outlined.",
        f"Where the patches {asked}, by {stream} layer; {joined}. The canvas is grey, all colour "
        f"is attention: dark violet is none, yellow is a {unit} of {in_words(scale)} or more per "
        f"patch; one scale for all pictures.{last}",
        {"scale": scale, "layers": numbers_of_layers, "calls": shown, **view.data(record)},
    )


def _lines(run: CanvasRun, frame: str, view: View) -> Picture:
    record = run.records["decoder"]
    layers = _shown_layers(record)
    numbers_of_layers = [record.layers[i] for i in layers]
    tokens = view.chosen(run, "decoder", frame, 0)
    figure = attention_plots.attention_lines(
        run.pictures["attention_canvas"][0],
        view.maps(record, 0, _rows_of(record, tokens))[layers],
        record.layout,
        tokens,
        layers=numbers_of_layers,
        quantile=view.quantile,
    )
    return Picture(
        "attention-lines",
        style.to_rgb(figure),
        "A darkened canvas with coloured lines from the outlined patches of "
        f"{_in_words(run, frame)} to the patches they attend to most.",
        f"The strongest {in_words(100 * (1 - view.quantile))}\u202f% of connections in each "
        f"decoder layer of canvas 1, {view.heads_in_words(record)}. One colour per layer; the "
        "thicker a line, the more attention. Lines that end on a stripe look at an action.",
        {"quantile": view.quantile, "layers": numbers_of_layers, **view.data(record)},
    )


def _matrix(run: CanvasRun, frame: str, view: View) -> Picture:
    record = run.records["decoder"]
    layout = record.layout
    rows = reduce.valid_queries(record, frame)
    tokens = layout.axis_tokens("query")[rows]
    marked = set(view.chosen(run, "decoder", frame, 0).tolist())
    if len(rows) > MOST_ROWS or view.patches:
        rows = rows[[int(t) in marked for t in tokens]]
        tokens = layout.axis_tokens("query")[rows]
    columns = (layout.group(frame).grid or (1, 1))[1]
    place = {int(t): i for i, t in enumerate(layout.tokens(frame))}
    names = [
        f"{'● ' if int(t) in marked else ''}r{place[int(t)] // columns} c{place[int(t)] % columns}"
        for t in tokens
    ]
    values = view.maps(record, 0, rows).mean(0)
    heads = view.heads_in_words(record)
    figure = attention_plots.attention_matrix(
        values,
        layout,
        names,
        title=f"decoder, canvas 1, mean over layers, {heads}",
        label="attention probability" if view.join_heads != "sum" else "sum of attention",
    )
    return Picture(
        "attention-matrix",
        style.to_rgb(figure),
        f"A matrix of {len(rows)} patches of {_in_words(run, frame)} against all "
        f"{values.shape[1]} keys, with white lines between the groups of keys.",
        f"One row per patch of {_in_words(run, frame)} (r row, c column; ● {_marks(view)}), one "
        "column per key. cls is the class token, frame0 the oldest frame, sep0 the stripe of the "
        "action after it, and so on; the last frame is the predicted one, attending to itself.",
        {"queries": names, "group_order": layout.names, **view.data(record)},
    )


def _marks(view: View) -> str:
    return "was asked for" if view.patches else "holds the dot"


def _stripe_table(findings: Findings) -> Picture:
    tables, areas = {}, []
    for stream, budget in findings.budgets.items():
        names = stripes(budget)
        title = findings.titles[stream]
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
            plots.budget_bars(budgets, titles=[findings.titles[b.stream] for b in budgets])
        ),
        "Stacked bars, one per layer, that share out the attention over class token, frames and "
        "action stripes.",
        "How attention is shared out in each layer, mean over heads, queries and canvases; every "
        "bar sums to 1. Hatched parts are action stripes. The bar called keys shows how many of "
        "the patches belong to each group: a part that is larger in a layer than there is looked "
        "at by preference.",
    )
