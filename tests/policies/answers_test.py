"""Answers and their attention, of a tiny checkpoint whose head is the token embedding."""

import jax
import numpy as np
import pytest

from attn_jax.core.errors import ConfigError
from attn_jax.policies.answers import Answerer, tokenizer_of
from attn_jax.policies.observations import Description, describe
from attn_jax.probe.select import Selection
from tests import testing
from tests.policies import checkpoints

CAPTURE = Selection.parse("streams=prefix,text;layers=last:1;reduce=full;dtype=float32")
QUESTIONS = ["where is the red cube?", "where is the red cube?"]


@pytest.fixture(scope="module")
def description(tmp_path_factory):
    return describe(checkpoints.write_checkpoint(tmp_path_factory.mktemp("checkpoint")))


@pytest.fixture(scope="module")
def answerer(description):
    params = description.checkpoint.params()
    tokenizer = tokenizer_of(description)
    return Answerer(description, params, params["embedding"], tokenizer, CAPTURE, max_tokens=5)


@pytest.fixture(scope="module")
def prepared(answerer):
    return answerer.prepare(checkpoints.observation(2), QUESTIONS)


def test_the_question_is_the_prompt(prepared):
    words = "".join(prepared.pieces[0])
    assert "red" in words and "State" not in words and "pick" not in words


def test_capture_does_not_change_answers(answerer, prepared):
    key = jax.random.key(0)
    answer, records = answerer.answer(prepared, key)
    plain, none = answerer.answer(prepared, key, record=False)
    assert none is None
    np.testing.assert_array_equal(answer.tokens, plain.tokens)
    assert len(answerer.texts(answer)) == 2 and answerer.texts(answer) == answerer.texts(plain)
    for record in records:
        prefix, text = record["prefix"].values, record["text"].values
        # Queries are the cameras and the prompt, or the tokens of the answer.
        assert prefix.shape[-2:] == (prefix.shape[-1],) * 2
        assert text.shape[-2:] == (5, prefix.shape[-1] + 5)
        names = [alias.name for alias in record["prefix"].layout.aliases]
        assert "text/word/red" in names


def test_programs_are_compiled_once(answerer, prepared):
    answerer.answer(prepared, jax.random.key(0))
    before = len(answerer._programs)
    answerer.answer(prepared, jax.random.key(1))
    assert len(answerer._programs) == before
    program, _ = answerer._programs[next(key for key in answerer._programs if key is not None)]
    assert program._cache_size() == 1


def test_questions_need_a_tokenizer(description):
    with pytest.raises(ConfigError, match="need a tokenizer"):
        tokenizer_of(Description(description.checkpoint, None))


if __name__ == "__main__":
    testing.main()
