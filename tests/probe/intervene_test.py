"""Names become masks; what names nothing is an error that says so."""

from __future__ import annotations

import numpy as np
import pytest

from attn_jax.core.errors import ConfigError, LayoutError
from attn_jax.core.layout import TokenGroup, TokenLayout
from attn_jax.probe.intervene import (
    AblateHeads,
    KnockOut,
    Nothing,
    Patch,
    RemoveKeys,
    ScaleValues,
    Steer,
    Temper,
    Together,
    patch_sweep,
    resolve_edits,
)
from attn_jax.probe.select import Stream
from tests import testing

PREFIX = (TokenGroup("image/a", (0, 1)), TokenGroup("image/b", (2,)), TokenGroup("text", (3, 4)))
STREAMS = {
    "prefix": Stream(TokenLayout(5, PREFIX), 3, 2),
    "suffix": Stream(
        TokenLayout(7, (*PREFIX, TokenGroup("action", (5, 6))), queries=(5, 6)), 3, 2, 4
    ),
}


def numbers(mask):
    return np.flatnonzero(np.asarray(mask).ravel()).tolist()


def test_a_knock_out_selects_what_it_names():
    part = KnockOut("action", "image/*", layers=(0, 2), denoise=(3,), heads=(1,))
    edits = resolve_edits([part], STREAMS)
    assert len(edits) == 1 and set(edits.rules) == {"suffix"} and not edits.patches
    rules = edits[0].rules["suffix"]
    assert numbers(rules.layers) == [0, 2] and numbers(rules.steps) == [3]
    assert numbers(rules.heads) == [1]
    assert numbers(rules.queries) == [0, 1] and numbers(rules.keys) == [0, 1, 2]
    assert rules.touched == (0, 2) and rules.uses == ("cut",)


def test_a_removal_reaches_every_stream_that_has_the_keys():
    edits = resolve_edits([RemoveKeys("image/b"), KnockOut("text", "text")], STREAMS)
    assert set(edits.rules) == {"prefix", "suffix"}
    assert numbers(edits[0].rules["prefix"].queries) == [0, 1, 2, 3, 4]
    assert numbers(edits[0].rules["suffix"].keys) == [2]
    assert not edits[1].rules["suffix"].layers.any()  # no text on the suffix's query axis
    only = resolve_edits([RemoveKeys("image/b", streams="suffix", layers="last:1")], STREAMS)
    assert set(only.rules) == {"suffix"} and only.rules["suffix"].touched == (2,)


@pytest.mark.parametrize("part", [AblateHeads(denoise=(3,)), RemoveKeys("text", denoise=(0, 3))])
def test_steps_choose_the_streams_that_have_them(part):
    edits = resolve_edits([part], STREAMS)
    assert set(edits.rules) == {"suffix"}
    assert numbers(edits[0].rules["suffix"].steps) == [*part.denoise]
    first = resolve_edits([AblateHeads(denoise=(0,))], STREAMS)
    assert set(first.rules) == {"prefix", "suffix"}


def test_a_stack_is_filled_up_and_can_be_sliced():
    together = Together((AblateHeads(heads=(0,)), Steer("text", "image/a", 2.0)), label="both")
    edits = resolve_edits([Nothing(), together, Temper(temperature=0.5)], STREAMS)
    rules = edits.rules["prefix"]
    assert rules.layers.shape == (3, 2, 3) and not rules.layers[0].any()
    assert rules.uses == ("bias", "temperature", "factor")
    np.testing.assert_array_equal(rules.bias, np.float32([[0, 0], [0, 2], [0, 0]]))
    np.testing.assert_array_equal(rules.factor, np.float32([[1, 1], [0, 1], [1, 1]]))
    np.testing.assert_array_equal(rules.temperature, np.float32([[1, 1], [1, 1], [0.5, 1]]))
    assert len(edits[1:]) == 2
    assert str(together) == "both"
    assert str(KnockOut("action", "text", denoise=(0,))) == (
        "KnockOut(denoise=(0,), query=action, key=text)"
    )


def test_samples_of_a_batch_may_have_other_layouts():
    shorter = (*PREFIX[:2], TokenGroup("text", (3,)), TokenGroup("pad", (4,), valid=False))
    other = {"prefix": Stream(TokenLayout(5, shorter), 3, 2)}
    edits = resolve_edits([RemoveKeys("text")], [{"prefix": STREAMS["prefix"]}, other])
    np.testing.assert_array_equal(
        edits[0].rules["prefix"].keys[0], [[0, 0, 0, 1, 1], [0, 0, 0, 1, 0]]
    )
    longer = {"prefix": Stream(TokenLayout(6, (*PREFIX, TokenGroup("pad", (5,)))), 3, 2)}
    with pytest.raises(LayoutError, match="Pad the samples"):
        resolve_edits([RemoveKeys("text")], [other, longer])


def test_patches_are_kept_by_activation():
    sweep = patch_sweep("suffix", STREAMS["suffix"], "residual", token="action")
    edits = resolve_edits(sweep, STREAMS)
    patches = edits.patches["suffix"]["residual"]
    assert len(edits) == 12 and not edits.rules and patches.tokens.shape == (12, 1, 1, 2)
    assert numbers(edits[7].patches["suffix"]["residual"].layers) == [1]
    assert numbers(edits[7].patches["suffix"]["residual"].steps) == [3]


def test_cover_all_makes_every_stack_the_same_program():
    stacks = [
        resolve_edits([part], STREAMS, cover="all")
        for part in (Nothing(), KnockOut("action", "text"), Temper("text", 2.0))
    ]
    for rules in (stack.rules for stack in stacks):
        assert set(rules) == {"prefix", "suffix"}
        assert {each.touched for each in rules.values()} == {(0, 1, 2)}
        assert len({each.uses for each in rules.values()}) == 1
    assert set(resolve_edits([Nothing()], STREAMS).rules) == {"prefix"}


@pytest.mark.parametrize(
    ("part", "error", "message"),
    [
        (KnockOut("text", "action"), LayoutError, "no stream has the queries 'text'"),
        (RemoveKeys("image/c"), LayoutError, "no stream has"),
        (RemoveKeys("image/c", streams="suffix"), LayoutError, "unknown token group"),
        (RemoveKeys("text", streams="decoder"), ConfigError, "no stream 'decoder'"),
        (RemoveKeys("text", layers=(3,)), ConfigError, "layers: 3 is outside"),
        (RemoveKeys("text", denoise=(4,)), ConfigError, "denoise: 4 is outside 0..0"),
        (AblateHeads(denoise=(1,), streams="prefix"), ConfigError, "denoise: 1 is outside 0..0"),
        (AblateHeads(heads=(2,)), ConfigError, "heads: 2 is outside"),
        (Temper(temperature=0.0), ConfigError, "not above 0"),
        (Steer(bias=float("nan")), ConfigError, "bias is nan"),
        (ScaleValues("text", float("inf")), ConfigError, "factor is inf"),
    ],
)
def test_what_does_not_exist_is_refused(part, error, message):
    with pytest.raises(error, match=message):
        resolve_edits([part], STREAMS)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ConfigError, match="no interventions"):
        resolve_edits([], STREAMS)
    with pytest.raises(ConfigError, match="unknown cover"):
        resolve_edits([Nothing()], STREAMS, cover="some")
    with pytest.raises(ConfigError, match="no heads to choose"):
        Patch(heads=(1,))
    with pytest.raises(ConfigError, match="unknown activation"):
        Patch(activation="logits")
    with pytest.raises(ConfigError, match="layers cannot be"):
        KnockOut("text", "text", layers="first")


if __name__ == "__main__":
    testing.main()
