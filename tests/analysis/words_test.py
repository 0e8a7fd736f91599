"""Tests of attn_jax.analysis.words."""

import numpy as np
import pytest

from attn_jax.analysis import words
from attn_jax.core.errors import LayoutError
from attn_jax.core.layout import TokenGroup, TokenLayout
from tests import testing
from tests.analysis import records

LAYOUT = TokenLayout(
    9,
    (
        TokenGroup("image/wrist", (0, 1, 2, 3), (2, 2), (0, 0, 28, 28)),
        TokenGroup("text", (4, 5, 6, 7, 8), labels=("find", "cu", "be", "red", "cube")),
    ),
    aliases=(
        TokenGroup("text/word/cube#2", (8,)),
        TokenGroup("text/word/find", (4,)),
        TokenGroup("text/word/cube", (5, 6)),
        TokenGroup("text/word/red", (7,)),
        TokenGroup("state/0", (4,)),
    ),
)


def test_words_in_order_of_the_prompt():
    assert words.words(LAYOUT) == ("find", "cube", "red", "cube#2")
    assert words.words(records.GEOMETRY.layout) == ()


def spoken(text):
    """A layout of a prompt whose words are one token each."""
    said, seen = text.split(), {}
    aliases = []
    for place, word in enumerate(said):
        seen[word] = seen.get(word, 0) + 1
        name = word if seen[word] == 1 else f"{word}#{seen[word]}"
        aliases.append(TokenGroup(f"text/word/{name}", (place,)))
    return TokenLayout(
        len(said), (TokenGroup("text", tuple(range(len(said)))),), aliases=tuple(aliases)
    )


def test_words_of_the_template_are_not_of_the_instruction():
    layout = spoken("Task find the task cube State 12 Action")
    assert words.words(layout) == ("find", "the", "task", "cube")


def test_words_that_name_an_object():
    assert words.own_words(LAYOUT, ["red_Cube_1"]) == {"red_Cube_1": ("cube", "red", "cube#2")}
    assert words.own_words(LAYOUT, ["banana"]) == {"banana": ()}


@pytest.mark.parametrize(
    ("text", "own"),
    [
        # "red" is said of the cube, but the ball is red too.
        ("find the red cube", {"red_cube": ("cube",), "red_ball": (), "bin": ()}),
        ("put the red cube in the bin", {"red_cube": ("cube",), "red_ball": (), "bin": ("bin",)}),
        ("the red thing", {"red_cube": (), "red_ball": (), "bin": ()}),
        # No word is of one object only, the span is.
        (
            "find the red cube",
            {"red_cube": ("red", "cube"), "red_ball": (), "blue_cube": (), "blue_ball": ()},
        ),
        # Mentions that are unambiguous count each, others do not.
        ("a red cube a cube a red", {"red_cube": ("cube", "cube#2"), "red_ball": ()}),
        ("cube red", {"cube": (), "red_cube": ("red",)}),
    ],
)
def test_words_of_several_objects_name_none(text, own):
    assert words.own_words(spoken(text), [*own]) == own


def test_a_map_is_the_mean_over_sub_words():
    record = records.record(LAYOUT, stream="prefix")
    maps = words.word_maps(record, "cube", key="image/wrist")
    values = record.values.astype(np.float64)[..., [5, 6], :][..., :4].mean((3, 4))
    np.testing.assert_allclose(maps, values.reshape(2, 1, 2, 2, 2), rtol=1e-12)


def test_an_unknown_word():
    with pytest.raises(LayoutError, match="text/word/banana"):
        words.word_maps(records.record(LAYOUT), "banana", key="image/wrist")


if __name__ == "__main__":
    testing.main()
