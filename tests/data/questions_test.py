"""Questions of a file, and what they say of an episode."""

import pytest

from attn_jax.core.errors import ConfigError, EpisodeError
from attn_jax.data.questions import Question, read_questions
from tests import testing


def test_the_example_asks_about_the_target():
    which, where = read_questions(testing.ROOT / "configs/prompts/questions.yaml")
    roles = {"blue ball": "distractor", "red cube": "target"}
    assert which.about(roles) == Question(
        "which", "what should the robot pick up?", "red cube", "red cube"
    )
    asked = where.about(roles)
    assert (asked.text, asked.expected) == ("where is the red cube?", None)


def test_a_question_without_a_target_needs_none():
    question = Question("colour", "what colour is the table?", "grey")
    assert question.about({}) is question
    with pytest.raises(EpisodeError, match="'x' is about a target, and the episode has none"):
        Question("x", "where is the {target}?").about({"red cube": "distractor"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {key: a, question: ' '}", "question 'a' has no words"),
        ("- {key: ../a, question: b}", r"cannot have the key '\.\./a'"),
        ("- {key: a, question: b, answer: c}", "entry 0 is .*maybe expected, maybe object"),
        ("- {key: a, question: b}\n- {key: a, question: c}", "two prompts have the key 'a'"),
        ("{}", "holds no list"),
    ],
)
def test_bad_files(tmp_path, text, message):
    (tmp_path / "questions.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_questions(tmp_path / "questions.yaml")


if __name__ == "__main__":
    testing.main()
