"""The benchmark of the tabletop policy counts what happened in the scenes."""

import numpy as np
import pytest

from attn_jax.policies.policy import load_policy
from benchmarks import tabletop_policy
from robots.tabletop.env import TabletopEnv
from robots.tabletop.experts import Expert
from tests import testing
from tests.policies import checkpoints


@pytest.mark.parametrize(("other", "counts"), [(False, (2, 2, 2)), (True, (2, 2, 0))])
def test_an_expert_for_the_target_is_right_unless_it_is_told_otherwise(other, counts):
    envs = [TabletopEnv("pick", size=8) for _ in range(2)]
    experts = [Expert(env) for env in envs]
    by_seed = dict(zip((3, 4), experts, strict=True))

    def chunks(observations, prompts, scenes, call):
        assert len(observations) == len(prompts) == len(scenes)
        return np.stack([by_seed[seed].act()[None] for seed in scenes])

    assert tabletop_policy.run(chunks, envs, [3, 4], 1, other=other) == counts


def test_every_policy_is_measured(tmp_path):
    folder = checkpoints.write_checkpoint(
        tmp_path / "checkpoint", cameras=("front", "wrist"), state=7, action=7
    )
    found = tabletop_policy.measure(load_policy(folder), range(3), batch=2, max_steps=3)
    assert set(found) == {"policy", "other words", "random actions"}
    for row in found.values():
        assert row["trials"] == 3 and row["successes"] == 0 and row["low"] == 0 < row["high"] < 1


if __name__ == "__main__":
    testing.main()
