"""The policy that is shipped keeps what its card promises, on scenes that it was not trained on."""

import pytest

from attn_jax.policies.policy import load_policy
from benchmarks import tabletop_policy
from robots.tabletop.env import TabletopEnv
from tests import testing

FOLDER = testing.ROOT / "robots/tabletop/policy"
SEEDS = list(range(10_000, 10_010))


def test_it_is_small():
    size = sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file())
    assert size <= 12 * 2**20


@pytest.mark.slow
def test_it_picks_up_what_it_is_told():
    """The card says 92 of 100, and 11 of 100 when it is told the other thing."""
    policy = load_policy(FOLDER)
    chunks = tabletop_policy.chunks_of(policy, len(SEEDS))
    successes, told = {}, {}
    for other in (False, True):
        envs = [TabletopEnv("pick") for _ in SEEDS]
        steps = policy.config.n_action_steps
        successes[other], _, told[other] = tabletop_policy.run(
            chunks, envs, SEEDS, steps, other=other
        )
    assert successes[False] >= 8 and successes[True] <= 3
    assert told[False] >= 8 and told[True] >= 7


if __name__ == "__main__":
    testing.main()
