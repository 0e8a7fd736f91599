"""Hypotheses: from one episode's attention to tidy rows.

Each hypothesis is a function of a `Study` and `Options`, in `objects`, `prompts`, `structure`,
`causal` or `routes`; it reads the streams it needs and returns a table by frame, with the columns
`tables.FRAME_COLUMNS`. Nothing is tested here: the episode is the unit, so tests come in
`aggregate`. A missing input is an error that names the capture selection, or the variant, that
would supply it.

| name | question | rows |
|---|---|---|
| h1_1 | do maps lie on objects? | every measure of `overlap`, with and without bars |
| h1 | do high-attention patches matter? | fidelity of occlusion variants |
| h2_1 | does the prompt move attention? | every measure of `shift` and of actions, per variant |
| h2_2 | do answers agree with where the model looks? | correct answers, lift on the asked object |
| h3 | does attention shift along chunk and steps? | mass on objects, slopes |
| h4 | which heads are focused, on what? | focus and lift per head |
| words | do nouns look at their objects? | lift and entropy per word |
| budget | language or vision? | mass per token group |
| layers | are layers alike, frames stable, sinks large? | similarity, stability, sink masses |
| rotation | does attention turn with the picture? | change against the turned base |
| cameras | which camera is looked at? | share of each camera |
| agreement | do cameras look at the same place? | correlation of one's map with another's |
| rollout | what reaches the actions through all layers? | rollout and flow by group and object |
| relevance | what moved the actions? | gradient times attention by group and object |

Axis names: (call, denoise, layer, head, query, key), see `core.record`; o objects.

    table = run(study, "h1_1", Options(streams=("prefix:text", "suffix:action")))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pandas as pd

from attn_jax.analysis import causal, objects, prompts, routes, structure, tables
from attn_jax.analysis.options import Options
from attn_jax.analysis.studies import Study
from attn_jax.core.errors import ConfigError


def run(study: Study, name: str, options: Options) -> pd.DataFrame:
    """Rows of one hypothesis for one episode.

    Raises:
      ConfigError: an unknown hypothesis or camera.
      MissingInputError: an input of the hypothesis was not recorded.
      InputError: an input is damaged.
    """
    if name not in HYPOTHESES:
        raise ConfigError(f"unknown hypothesis {name!r}", fix=f"Known: {', '.join(HYPOTHESES)}")
    parts = list(HYPOTHESES[name](study, options))
    table = tables.concat(parts)
    for column, value in (("episode", study.name), ("outcome", study.outcome)):
        table[column] = pd.Categorical([value] * len(table))
    table["hypothesis"] = pd.Categorical([name] * len(table))
    return table


#: Those that compare actions, and so need `Study.action_std`.
ABOUT_ACTIONS = ("h1", "h2_1")
HYPOTHESES: dict[str, Callable[[Study, Options], Iterator[pd.DataFrame]]] = {
    "h1_1": objects.objects,
    "h1": causal.fidelity_rows,
    "h2_1": prompts.prompt,
    "h2_2": causal.answer_rows,
    "h3": objects.temporal_shift,
    "h4": objects.head_focus,
    "words": prompts.word_attention,
    "budget": structure.group_budget,
    "layers": structure.layer_structure,
    "rotation": causal.rotation_rows,
    "cameras": structure.camera_rows,
    "agreement": structure.agreement_rows,
    "rollout": routes.rollout_rows,
    "relevance": routes.relevance_rows,
}
