"""The results of a run by hand, and their names by lerobot's own loop over tasks."""

from __future__ import annotations

import json

import pytest

from launch.rollout_results import EVAL_INFO, write_eval_info
from tests import testing

OUTCOMES = [
    {
        "task_group": "points",
        "task_id": task,
        "success": success,
        "sum_reward": 2.0 * success,
        "max_reward": 1.0 * success,
        "video": f"videos/points_{task}/{number}.mp4",
        "seconds": seconds,
    }
    for number, (task, success, seconds) in enumerate(
        [(0, True, 3.0), (0, False, 5.0), (1, True, 1.0), (1, True, 7.0)]
    )
]


def test_means_and_times(tmp_path):
    info = write_eval_info(OUTCOMES, tmp_path)
    assert json.loads((tmp_path / EVAL_INFO).read_text()) == info
    overall = info["overall"]
    assert (overall["n_episodes"], overall["pc_success"]) == (4, 75.0)
    assert (overall["avg_sum_reward"], overall["avg_max_reward"]) == (1.5, 0.75)
    assert (overall["eval_s"], overall["eval_ep_s"]) == (16.0, 4.0)
    assert overall["video_paths"][1] == str(tmp_path / "videos/points_0/1.mp4")
    assert [task["metrics"]["successes"] for task in info["per_task"]] == [
        [True, False],
        [True, True],
    ]
    # Of earlier versions, which did not take the time of episodes.
    old = [{k: v for k, v in OUTCOMES[0].items() if k != "seconds"}, *OUTCOMES[1:]]
    overall = write_eval_info(old, tmp_path)["overall"]
    assert (overall["eval_s"], overall["eval_ep_s"]) == (13.0, 13 / 3)
    nothing = write_eval_info([], tmp_path)["overall"]
    assert (nothing["pc_success"], nothing["n_episodes"], nothing["eval_s"]) == (None, 0, 0.0)


@pytest.mark.bridge
def test_the_names_are_those_of_lerobot(monkeypatch, tmp_path):
    """Its rollouts are replaced by our numbers; what it makes of them is its own."""
    testing.require_module("torch", "lerobot")
    import torch
    from lerobot.scripts import lerobot_eval

    info = write_eval_info(OUTCOMES, tmp_path)
    episodes = [{k: o[k] for k in ("sum_reward", "max_reward", "success")} for o in OUTCOMES]
    results = iter(
        {"per_episode": episodes[i : i + 2], "video_paths": [str(i), str(i + 1)]} for i in (0, 2)
    )
    monkeypatch.setattr(lerobot_eval, "eval_policy", lambda **_: next(results))
    nothing = torch.nn.Module()  # for the environments as well, which are only closed
    nothing.close = lambda: None
    theirs = lerobot_eval.eval_policy_all(
        {"points": {0: nothing, 1: nothing}}, nothing, None, None, None, None, 2,
        max_episodes_rendered=2, videos_dir=tmp_path,
    )  # fmt: skip
    assert _names(theirs) == _names(info)
    for name in ("pc_success", "avg_sum_reward", "avg_max_reward", "n_episodes"):
        assert theirs["overall"][name] == info["overall"][name]


def _names(value):
    """Names at every depth; of a list, those of its mappings, and of a value whether it is one."""
    if isinstance(value, dict):
        return {name: _names(inner) for name, inner in value.items()}
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [_names(inner) for inner in value]
    return isinstance(value, list)


if __name__ == "__main__":
    testing.main()
