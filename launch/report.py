"""Writes a report: one HTML page and its JSON twin.

Reads files only, so it runs where neither the model nor the data is. Of a canvas model:

    python -m launch.report --evaluation=EVAL --train=TRAIN_WORKDIR --output=report.html
    [--heads=0,2] [--join_heads=mean|max|sum] [--join_patches=mean|max|sum] [--queries=frame1]
    [--patches=0,5,8-10] [--quantile=0.95]

The flags of the second line choose which attention is drawn; without them, the mean over all heads
and over the predicted frame's patches that hold the object.

Of a policy that was run over episodes, with what launch.aggregate found where that is given:

    python -m launch.report --run=RUN [--aggregate=AGG] [--rollout_run=ROLLOUTS] --output=page.html

Of an aggregate over several runs:

    python -m launch.report --aggregate=AGG --output=page.html

Success rates also go into `page.success.csv` beside the page.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from absl import flags

from attn_jax.core.errors import ConfigError
from attn_jax.core.typing import PathLike
from attn_jax.viz.canvas_attention import JOINS, View
from attn_jax.viz.canvas_report import build_canvas_report
from attn_jax.viz.canvas_run import load_canvas_run
from attn_jax.viz.policy_report import SUCCESS_COLUMNS, build_policy_report
from attn_jax.viz.report import DEFAULT_BUDGET, checked_page, write_report
from launch import app
from launch.policy_report import load_policy_run

_EVALUATION = flags.DEFINE_string("evaluation", None, "Folder that launch.evaluate wrote.")
_TRAIN = flags.DEFINE_string("train", None, "Training workdir of the evaluated model.")
_ATTENTION = flags.DEFINE_string(
    "attention", None, "Attention record; default is the folder `attention` in --evaluation."
)
_HEADS = flags.DEFINE_list("heads", [], "Heads whose attention is drawn; without, all.")
_JOIN_HEADS = flags.DEFINE_enum("join_heads", "mean", JOINS, "How heads become one map.")
_JOIN_PATCHES = flags.DEFINE_enum(
    "join_patches", "mean", JOINS, "How the maps of the asking patches become one overlay."
)
_QUERIES = flags.DEFINE_string(
    "queries", None, "Frame whose patches ask: target, frame0, ...; without, the predicted one."
)
_PATCHES = flags.DEFINE_string(
    "patches", None, "Asking patches of that frame, raster order, like 0,5,8-10."
)
_QUANTILE = flags.DEFINE_float(
    "quantile", View.quantile, "Lines below this quantile of a layer are not drawn."
)
_RUN = app.define_run()
_AGGREGATE = flags.DEFINE_string(
    "aggregate", None, "Folder of launch.aggregate: over --run, or alone."
)
_ROLLOUTS = flags.DEFINE_string(
    "rollout_run", None, "Rollouts that --run was made from, which know how long episodes took."
)
_OUTPUT = flags.DEFINE_string("output", None, "HTML file to write; the JSON twin goes beside it.")
_MAX_BYTES = flags.DEFINE_integer(
    "max_bytes", DEFAULT_BUDGET, "Largest size of the page, bytes.", lower_bound=1
)


def main() -> dict[str, Any]:
    """Writes the report; returns its paths, and the verdict on a canvas model."""
    if _RUN.value or _AGGREGATE.value:
        return _policy()
    for flag in (_EVALUATION, _TRAIN, _OUTPUT):
        if not flag.value:
            raise ConfigError(
                f"--{flag.name} is required", fix=f"It means: {flags.FLAGS[flag.name].help}"
            )
    return write(
        _EVALUATION.value,
        _TRAIN.value,
        _OUTPUT.value,
        attention=_ATTENTION.value,
        view=_view(),
        budget=_MAX_BYTES.value,
    )


def _view() -> View:
    if not all(head.isdecimal() for head in _HEADS.value):
        raise ConfigError(f"--heads={','.join(_HEADS.value)} are no numbers", fix="Like 0,2")
    return View(
        tuple(int(head) for head in _HEADS.value),
        _JOIN_HEADS.value,
        _JOIN_PATCHES.value,
        _QUERIES.value,
        _PATCHES.value,
        _QUANTILE.value,
    )


def _policy() -> dict[str, Any]:
    if not _OUTPUT.value:
        raise ConfigError("--output is required", fix="Name an HTML file to write")
    checked_page(_OUTPUT.value)
    report = build_policy_report(load_policy_run(_RUN.value, _AGGREGATE.value, _ROLLOUTS.value))
    page, numbers = write_report(report, _OUTPUT.value, budget=_MAX_BYTES.value)
    rates = page.with_suffix(".success.csv")
    success = [{"task": task, **rate} for task, rate in report.data["success"].items()]
    pd.DataFrame(success, columns=pd.Index(("task", *SUCCESS_COLUMNS))).to_csv(rates, index=False)
    print(f"Report: {page}", flush=True)
    return {"report": str(page), "numbers": str(numbers), "success": str(rates)}


def write(
    evaluation: PathLike,
    train: PathLike,
    output: PathLike,
    *,
    attention: PathLike | None = None,
    view: View | None = None,
    budget: int = DEFAULT_BUDGET,
) -> dict[str, Any]:
    """Reads the folders, writes the page and its twin, says where they are.

    Args:
      evaluation: folder that `launch.evaluate` wrote.
      train: training workdir.
      output: HTML file to write.
      attention: record store, when it is not `attention` in the evaluation folder.
      view: which attention is drawn.
      budget: largest size of the page, bytes.

    Returns:
      Paths of the page and the twin, and the verdict.
    """
    checked_page(output)  # drawing takes a while
    run = load_canvas_run(evaluation, train, attention)
    report = build_canvas_report(run, view)
    page, numbers = write_report(report, output, budget=budget)
    verdict = report.data["verdict"]
    print(f"{verdict['headline']} Report: {page}", flush=True)
    return {"report": str(page), "numbers": str(numbers), "verdict": verdict["level"]}


if __name__ == "__main__":
    app.run(main)
