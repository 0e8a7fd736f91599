"""Rows of what reaches the actions through all layers: rollout, flow, gradient times attention.

Attention of one layer says what that layer reads; tokens it reads from have mixed others in before.
These rows are of the tokens at the input: shares of every token group, and for each camera with
masks the overlap and lift of its objects. They need records of every layer, for that reason.

Axis names: (call, denoise, layer, head, query, key), see `core.record`; H action tokens, p prefix
tokens, o objects.

    table = tables.concat(list(rollout_rows(study, options)))
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from attn_jax.analysis import overlap, relevance, tables
from attn_jax.analysis.options import Options, with_masks, with_roles
from attn_jax.analysis.studies import Source, Study, camera_group
from attn_jax.core.errors import MissingInputError
from attn_jax.core.layout import TokenLayout
from attn_jax.core.record import AttentionRecord
from attn_jax.core.typing import Float, NumpyArray

ACTION = "action"


def rollout_rows(study: Study, options: Options) -> Iterator[pd.DataFrame]:
    """Rollout of the actions on every input token, and flow between token groups.

    Heads are joined by their mean, as rollout is defined; `options.denoise` joins the steps.
    `rollout:<group>` sums to 1 over the groups, `flow:<group>` does not.

    Raises:
      MissingInputError: no whole maps of prefix and suffix, or not of every layer up to the last
        and of every token.
    """
    source = study.base
    prefix, suffix = (source.record([f"{n}.head_mean", n]) for n in ("prefix", "suffix"))
    fix = "Record with --capture='streams=prefix,suffix;layers=all;reduce=head_mean'"
    if prefix is None or suffix is None:
        raise MissingInputError("no whole maps of prefix and suffix", where=study.name, fix=fix)
    for record in (prefix, suffix):
        _check_whole(record, study, fix, suffix.layers)
    flows, shares, layouts = [], [], []
    for number in range(suffix.shape[0]):
        one, two = prefix.call(number), suffix.call(number)
        steps = two.values[0].astype(np.float64).mean(2)  # (denoise, layer, H, key)
        joined = steps.mean(0) if options.denoise == "mean" else steps[_place(options.denoise)]
        graph = relevance.full_graph(one.values[0, 0].astype(np.float64).mean(1), joined)
        rows = two.layout.tokens(ACTION)
        shares.append(relevance.rollout(graph)[rows].mean(0))
        groups = _groups(two.layout)
        members = np.zeros((len(groups), graph.shape[-1]))
        for place, name in enumerate(groups):
            members[place, two.layout.tokens(name)] = 1.0
        pooled = relevance.pool(graph, members)
        flows.append(dict(zip(groups, relevance.flow(pooled, groups.index(ACTION)), strict=True)))
        layouts.append(two.layout)
    names = sorted({name for flow in flows for name in flow})
    yield tables.tidy(
        np.array([[flow.get(name, np.nan) for name in names] for flow in flows]),
        {"env_step": source.steps(), "metric": [f"flow:{name}" for name in names]},
        query=ACTION,
    )
    yield from _of_tokens(source, options, shares, layouts, "rollout")


def relevance_rows(study: Study, options: Options) -> Iterator[pd.DataFrame]:
    """Relevance by gradient times attention, gathered over every layer of every denoising step.

    Relevance has no unit: `relevance:<group>` are shares of what the prefix has in all. What prefix
    tokens are made of is followed where the run has `prefix.relevance` too.

    Raises:
      MissingInputError: no record `suffix.relevance`, or not of every layer and denoising step up
        to the last and of every token.
    """
    source = study.base
    suffix, prefix = (source.record([f"{name}.relevance"]) for name in ("suffix", "prefix"))
    fix = "Run launch.evaluate --episodes with --relevance (probe.relevance with layers=all)"
    if suffix is None:
        raise MissingInputError("no record 'suffix.relevance'", where=study.name, fix=fix)
    _check_whole(suffix, study, fix, suffix.layers)
    if suffix.denoise != tuple(range(len(suffix.denoise))):
        raise MissingInputError(
            f"'suffix' has denoising steps {list(suffix.denoise)}, not all from 0",
            where=study.name,
            fix=fix,
        )
    if prefix is not None:
        _check_whole(prefix, study, fix, suffix.layers)
    shares, layouts = [], []
    for number in range(suffix.shape[0]):
        inputs = None
        if prefix is not None:
            inputs = relevance.prefix_relevance(prefix.call(number).values[0, 0])
        one = suffix.call(number)
        mean = relevance.denoise_relevance(one.values[0], inputs).mean(0)
        total = mean.sum()
        shares.append(mean / total if total > 0 else np.full(mean.shape, np.nan))
        layouts.append(one.layout)
    yield from _of_tokens(source, options, shares, layouts, "relevance")


def _place(denoise: str) -> int:
    return 0 if denoise == "first" else -1


def _check_whole(record: AttentionRecord, study: Study, fix: str, layers: tuple[int, ...]) -> None:
    """Gaps would be bridged in silence; a missing last layer cannot be told from here."""
    problem = ""
    if record.layers != layers or layers != tuple(range(len(layers))):
        problem = f"has layers {list(record.layers)}, not all from 0 as in the suffix"
    layout = record.layout
    every = [*range(layout.length)]
    rows = layout.tokens(ACTION).tolist() if record.stream == "suffix" else every
    if layout.axis_tokens("query").tolist() != rows or layout.axis_tokens("key").tolist() != every:
        problem = "keeps a part of the tokens"
    if problem:
        raise MissingInputError(f"{record.stream!r} {problem}", where=study.name, fix=fix)


def _groups(layout: TokenLayout) -> list[str]:
    return [group.name for group in layout.groups if group.indices]


def _of_tokens(
    source: Source,
    options: Options,
    shares: list[Float[NumpyArray, "_"]],
    layouts: list[TokenLayout],
    what: str,
) -> Iterator[pd.DataFrame]:
    """Rows by token group and by object from one share per input token and call."""
    steps = source.steps()
    names = sorted({name for layout in layouts for name in _groups(layout)})
    table = np.full((len(shares), len(names)), np.nan)
    for number, (share, layout) in enumerate(zip(shares, layouts, strict=True)):
        for name in _groups(layout):
            tokens = layout.tokens(name)
            # Relevance is of the prefix alone: no share of the actions.
            if tokens.max() < len(share):
                table[number, names.index(name)] = share[tokens].sum()
    yield tables.tidy(
        table,
        {"env_step": steps, "metric": [f"{what}:{name}" for name in names]},
        query=ACTION,
    )
    for camera in with_masks(source, options):
        if camera not in source.episode.masks or not source.episode.objects:
            continue
        groups = [camera_group(layout, camera) for layout in layouts]
        grid, box = groups[0].grid, groups[0].box
        assert grid is not None
        top, left, height, width = box or (0, 0, *(14 * side for side in grid))
        maps = np.stack(
            [
                share[np.array(group.indices)].reshape(grid)
                for share, group in zip(shares, groups, strict=True)
            ]
        )
        coverage = source.coverage(camera, grid, (2 * top + height, 2 * left + width))
        scores = overlap.object_metrics(maps, coverage, names=("overlap", "lift"))
        axes = {"env_step": steps, "object": source.episode.objects}
        yield with_roles(
            tables.tidy(
                np.stack(list(scores.values())),
                {"metric": list(scores), **axes},
                query=ACTION,
                camera=camera,
            ),
            source,
        )
