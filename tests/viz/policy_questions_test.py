"""Tests of attn_jax.viz.policy_questions."""

from attn_jax.analysis.aggregate import Family
from attn_jax.viz.policy_questions import FLOORS, QUESTIONS, question, read
from configs.analysis import parts
from tests import testing


def test_every_declared_family_has_its_question():
    declared = {name for families in parts.FAMILIES.values() for name in families}
    assert declared == set(QUESTIONS)
    assert question("target_lift") is QUESTIONS["target_lift"]


def test_unknown_families_ask_by_their_name():
    assert question("my_own").title == "My own"


def test_only_what_made_the_floor_is_named():
    words = read("prompt_moves_attention", ("noise", "frame"))
    assert "the largest change that other noise or the next frame makes" in words
    assert "paraphrase" not in words
    assert "other noise, a paraphrase or the next frame" in read(
        "prompt_moves_first_attention", ("noise", "paraphrase", "frame")
    )
    assert "that other noise makes" in read("prompt_moves_actions", ("noise",))
    assert "no run for a floor" in read("prompt_moves_actions", ())
    assert read("my_own", ("noise",)) == ""
    # Every kind that a declared family may take its floor from has words.
    declared = {
        kind
        for names in parts.FAMILIES.values()
        for f in names.values()
        for kind in (*f.get("floor", ()), *Family("f", "h1_1", ("lift",)).floor)
    }
    assert declared == set(FLOORS)


if __name__ == "__main__":
    testing.main()
