"""TokenLayout: names to positions and back."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_jax.core.errors import LayoutError
from attn_jax.core.layout import TokenGroup, TokenLayout, common
from tests import testing


def small_layout(**kwargs) -> TokenLayout:
    groups = (
        TokenGroup("bos", (0,), labels=("<bos>",)),
        TokenGroup("image/base", (1, 2, 3, 4), (2, 2), (0, 0, 28, 28)),
        TokenGroup("image/wrist", (5, 6, 7, 8, 9, 10), (3, 2)),
        TokenGroup("pad", (11,), valid=False),
    )
    aliases = (TokenGroup("image", tuple(range(1, 11))), TokenGroup("corner", (4, 1)))
    return TokenLayout(12, groups, aliases, **kwargs)


def test_groups_must_cover_every_token_once():
    with pytest.raises(LayoutError, match="token 2 belongs to 0 groups"):
        TokenLayout(3, (TokenGroup("a", (0, 1)),))
    with pytest.raises(LayoutError, match="token 1 belongs to 2 groups"):
        TokenLayout(2, (TokenGroup("a", (0, 1)), TokenGroup("b", (1,))))
    with pytest.raises(LayoutError, match="outside"):
        TokenLayout(2, (TokenGroup("a", (0, 5)),))


def test_grid_and_labels_must_fit_the_group():
    with pytest.raises(LayoutError, match="grid"):
        TokenGroup("a", (0, 1, 2), (2, 2))
    with pytest.raises(LayoutError, match="labels"):
        TokenGroup("a", (0, 1), labels=("x",))
    with pytest.raises(LayoutError, match="1 ids for 2 tokens"):
        TokenGroup("a", (0, 1), ids=(7,))


def test_tokens_of_names_patterns_and_specials():
    layout = small_layout()
    assert layout.tokens("image/wrist").tolist() == [5, 6, 7, 8, 9, 10]
    assert layout.tokens("image/*").tolist() == list(range(1, 11))
    assert layout.tokens("valid").tolist() == list(range(11))
    assert layout.tokens(["corner", "image/base"]).tolist() == [4, 1, 2, 3]
    with pytest.raises(LayoutError, match=r"unknown token group 'image/top'.*image/base"):
        layout.tokens("image/top")
    with pytest.raises(LayoutError, match="no token group matches"):
        layout.tokens("text/*")


def test_select_unfolds_patch_grids():
    layout = small_layout()
    probs = np.arange(2 * 12 * 12).reshape(2, 12, 12)
    out = layout.select(probs, query="image/base", key="image/wrist")
    assert out.shape == (2, 2, 2, 3, 2)
    assert out[1, 1, 0, 2, 1] == probs[1, 3, 10]
    assert layout.select(probs, query="bos").shape == (2, 1, 12)
    assert layout.select(probs, key="corner")[0, 0].tolist() == [probs[0, 0, 4], probs[0, 0, 1]]


def test_restricted_layout_answers_by_name():
    layout = small_layout().restrict(queries="bos", keys="image/*")
    probs = np.arange(10.0)[None]
    wrist = layout.select(probs, query="bos", key="image/wrist")
    assert wrist.tolist() == [[[4, 5], [6, 7], [8, 9]]]
    with pytest.raises(LayoutError, match="on the key axis"):
        layout.select(probs, key="pad")
    with pytest.raises(LayoutError, match="the layout in"):
        layout.select(np.zeros((1, 12)), key="image/base")


def test_partly_recorded_grid_stays_flat():
    layout = small_layout(keys=(1, 2, 3))
    assert layout.select(np.zeros((12, 3)), key="image/base").shape == (12, 3)


def test_membership_and_fractions():
    layout = small_layout()
    membership = layout.membership()
    assert membership.sum(axis=0).tolist() == [1.0] * 12
    assert np.array_equal(layout.fractions(), membership)


@given(
    st.permutations(list(range(12))),
    st.lists(st.integers(0, 11), unique=True, min_size=1),
    st.lists(st.integers(0, 11), unique=True, min_size=1),
)
def test_json_round_trip(order, queries, keys):
    groups = (
        TokenGroup("a", tuple(order[:5])),
        TokenGroup("b", tuple(order[5:]), labels=("w",) * 7, ids=tuple(order[5:])),
    )
    layout = TokenLayout(12, groups, queries=tuple(queries), keys=tuple(keys))
    assert TokenLayout.from_json(json.loads(json.dumps(layout.to_json()))) == layout


def test_json_of_a_full_layout():
    fractions = {name: tuple(row) for name, row in zip("ab", [[1.0, 0.5], [0, 0.5]], strict=True)}
    layout = TokenLayout(2, (TokenGroup("a", (0,)), TokenGroup("b", (1,))), coverage=fractions)
    assert TokenLayout.from_json(json.loads(json.dumps(layout.to_json()))) == layout
    with pytest.raises(LayoutError, match="malformed"):
        TokenLayout.from_json({"length": 2})
    for field, value in (("length", "x"), ("length", -1), ("coverage", "x"), ("queries", ["x"])):
        with pytest.raises(LayoutError, match="malformed"):
            TokenLayout.from_json({**layout.to_json(), field: value})


def test_common_keeps_what_layouts_agree_on():
    image, pad = TokenGroup("image", (0, 1)), TokenGroup("pad", (4,), valid=False)
    word = TokenGroup("word", (2,))
    first = TokenLayout(5, (image, TokenGroup("text", (2, 3)), pad), (word,), keys=(0, 1))
    second = TokenLayout(
        5,
        (image, TokenGroup("text", (2,)), TokenGroup("state", (3,)), pad),
        (word,),
        keys=(0, 2),
    )
    assert common([first, first]) is first
    found = common([first, second])
    assert found.names == ("image", "pad", "varying") and found.group("varying").indices == (2, 3)
    assert found.aliases == (word,) and found.keys is None
    with pytest.raises(LayoutError, match="lengths differ"):
        common([first, TokenLayout(2, (image,))])


def test_ids_do_not_tell_groups_apart():
    def text(*ids):
        return TokenLayout(
            3, (TokenGroup("bos", (0,), ids=(2,)), TokenGroup("text", (1, 2), ids=ids))
        )

    found = common([text(5, 6), text(5, 7)])
    assert found.names == ("bos", "text")
    assert found.group("bos").ids == (2,) and found.group("text").ids == ()
    assert text(5, 6).without_ids() == text().without_ids()


def test_json_of_earlier_versions_has_no_ids():
    data = small_layout().to_json()
    for group in (*data["groups"], *data["aliases"]):
        del group["ids"]
    assert TokenLayout.from_json(data) == small_layout()


if __name__ == "__main__":
    testing.main()
