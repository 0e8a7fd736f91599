"""Tests of attn_jax.viz.policy_questions."""

from attn_jax.viz.policy_questions import QUESTIONS, question
from configs.analysis import parts
from tests import testing


def test_every_declared_family_has_its_question():
    declared = {name for families in parts.FAMILIES.values() for name in families}
    assert declared == set(QUESTIONS)
    assert question("target_lift") is QUESTIONS["target_lift"]


def test_unknown_families_ask_by_their_name():
    assert question("my_own").title == "My own"


if __name__ == "__main__":
    testing.main()
