"""The benchmark of interventions runs and compares what it says, on a small policy."""

import pytest

from attn_jax.probe.intervene import resolve_edits
from benchmarks import interventions
from tests import testing


@pytest.mark.slow
def test_three_ways_give_the_same_and_compile_once():
    policy = interventions.Policy(interventions.make_config(small=True))
    made = interventions.interventions(policy.streams)
    assert len(made) == interventions.COUNT == len({str(each) for each in made})
    edits = resolve_edits(made[:6], policy.streams)
    found = interventions.measure(policy, edits, chunk=4)
    assert found["difference"] < 1e-5
    programs = {name: found[f"{name}_programs"] for name in ("at_once", "one_by_one", "plain")}
    assert programs == {"at_once": 1, "one_by_one": 1, "plain": 1}
    assert found["retraced_programs"] == 6
    assert all(found[name] > 0 for name in ("at_once_s", "one_by_one_s", "plain_s", "retraced_s"))


if __name__ == "__main__":
    testing.main()
