"""`eval_info.json` of a run: the results of its episodes under the keys of lerobot-eval.

info = write_eval_info(outcomes, run)
info["overall"]["pc_success"]
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from attn_jax.core import files

EVAL_INFO = "eval_info.json"


def write_eval_info(outcomes: Sequence[Mapping[str, Any]], run: pathlib.Path) -> dict[str, Any]:
    """Writes and returns `eval_info.json`.

    Args:
      outcomes: `outcome.json` of the finished episodes, in order of their tasks. Times are summed
        over those that have `seconds`, which earlier versions did not write.
      run: run folder.
    """
    seconds = [outcome["seconds"] for outcome in outcomes if "seconds" in outcome]
    of_task: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    of_group: dict[str, list[Mapping[str, Any]]] = {}
    for outcome in outcomes:
        group, number = outcome["task_group"], outcome["task_id"]
        of_task.setdefault((group, number), []).append(outcome)
        of_group.setdefault(group, []).append(outcome)
    info = {
        "per_task": [
            {"task_group": group, "task_id": number, "metrics": _lists(found, run)}
            for (group, number), found in of_task.items()
        ],
        "per_group": {group: _means(found, run) for group, found in of_group.items()},
        "overall": {
            **_means(outcomes, run),
            "eval_s": float(sum(seconds)),
            "eval_ep_s": sum(seconds) / max(1, len(seconds)),
        },
    }
    files.write_json(run / EVAL_INFO, info)
    return info


def _lists(outcomes: Sequence[Mapping[str, Any]], run: pathlib.Path) -> dict[str, list[Any]]:
    return {
        "sum_rewards": [o["sum_reward"] for o in outcomes],
        "max_rewards": [o["max_reward"] for o in outcomes],
        "successes": [o["success"] for o in outcomes],
        "video_paths": [str(run / o["video"]) for o in outcomes if o["video"]],
        "predicted_video_paths": [],  # of policies that predict pictures
    }


def _means(outcomes: Sequence[Mapping[str, Any]], run: pathlib.Path) -> dict[str, Any]:
    lists = _lists(outcomes, run)

    def mean(name: str) -> float | None:
        return float(np.mean(lists[name])) if outcomes else None

    success = mean("successes")
    return {
        "avg_sum_reward": mean("sum_rewards"),
        "avg_max_reward": mean("max_rewards"),
        "pc_success": None if success is None else 100 * success,
        "n_episodes": len(outcomes),
        "video_paths": lists["video_paths"],
        "predicted_video_paths": lists["predicted_video_paths"],
    }
