"""Selections: text form, refusals and what they resolve to."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_jax.core.canvas import CanvasGeometry
from attn_jax.core.errors import ConfigError, LayoutError
from attn_jax.core.layout import TokenGroup, TokenLayout
from attn_jax.probe.select import Selection, Stream, resolve
from tests import testing

LAYOUT = TokenLayout(
    10,
    (
        TokenGroup("image/wrist", (0, 1, 2, 3), grid=(2, 2)),
        TokenGroup("image/dummy", (4, 5), grid=(1, 2), valid=False),
        TokenGroup("task", (6, 7)),
        TokenGroup("action", (8, 9)),
    ),
    aliases=(TokenGroup("word/cube", (7,)), TokenGroup("prompt", (6, 7))),
)
STREAMS = {"suffix": Stream(LAYOUT, num_layers=4, num_heads=3, num_denoise=5)}


def plan_of(text: str, streams=STREAMS):
    return resolve(Selection.parse(text), streams)


def test_parse_reads_every_field():
    text = (
        "streams=decoder; layers=last:2; heads=0,3; denoise=all; queries=target; keys=frame*,sep0;"
        "every_n=4; reduce=full,group_mass; dtype=u8row; valid_keys_only"
    )
    assert Selection.parse(text) == Selection(
        streams=("decoder",),
        layers="last:2",
        heads=(0, 3),
        denoise="all",
        queries=("target",),
        keys=("frame*", "sep0"),
        every_n=4,
        reduce=("full", "group_mass"),
        dtype="u8row",
        valid_keys_only=True,
    )


def test_parse_all_keeps_every_full_map():
    selection = Selection.parse("all")
    assert (selection.layers, selection.reduce, selection.streams) == ("all", ("full",), ("all",))


def test_query_groups_of_another_stream_make_no_mean():
    layout = dataclasses.replace(LAYOUT, queries=(8, 9))
    streams = {"suffix": Stream(layout, num_layers=1, num_heads=1)}
    plan = plan_of("layers=all;queries=action,task;reduce=patch_map", streams).streams["suffix"]
    assert plan.query_groups == ("action",)
    np.testing.assert_allclose(plan.query_weights(), [[0.5, 0.5]])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("layer=2", "layers"),
        ("layers", "cannot read"),
        ("layers=first:2", "last:n"),
        ("layers=last:0", "last:n"),
        ("layers=1,1", "cannot be"),
        ("heads=last:1", "all or numbers"),
        ("reduce=max", "group_mass"),
        ("reduce=", "one or more"),
        ("dtype=bfloat16", "u8row"),
        ("every_n=0", "at least 1"),
        ("every_n=often", "whole number"),
        ("valid_keys_only=maybe", "true or false"),
        ("dtype=float16;dtype=float32", "twice"),
    ],
)
def test_parse_refuses_and_says_what_is_allowed(text, said):
    with pytest.raises(ConfigError, match=said):
        Selection.parse(text)


@given(st.integers(1, 9), st.integers(0, 50))
def test_every_nth_call_from_the_first(every_n, call):
    kept = [c for c in range(call + 1) if Selection(every_n=every_n).wants(c)]
    assert kept == list(range(0, call + 1, every_n))


def test_resolve_all():
    plan = plan_of("all").streams["suffix"]
    assert plan.layers == (0, 1, 2, 3) and plan.heads == (0, 1, 2) and len(plan.denoise) == 5
    assert plan.query_positions == plan.key_positions == tuple(range(10))
    assert plan.complete_rows and plan.complete_masses and plan.compact_keys is None


def test_last_n_is_every_layer_of_a_shallower_stream():
    assert plan_of("layers=last:9").streams["suffix"].layers == (0, 1, 2, 3)


def test_resolve_names_to_positions():
    plan = plan_of("layers=last:2;heads=2;denoise=4,0;queries=action;keys=image/*;reduce=full")
    plan = plan.streams["suffix"]
    assert plan.layers == (2, 3) and plan.heads == (2,) and plan.denoise == (0, 4)
    assert plan.query_positions == (8, 9) and plan.key_positions == (0, 1, 2, 3, 4, 5)
    assert plan.layout.queries == (8, 9) and not plan.complete_rows
    # patch maps never show a dummy camera
    assert plan.patch_layout.keys == (0, 1, 2, 3)


def test_valid_keys_keep_rows_complete():
    plan = plan_of("keys=valid;reduce=full,group_mass").streams["suffix"]
    assert plan.complete_rows and plan.complete_masses
    assert plan.key_groups == ("image/wrist", "task", "action")
    assert not plan_of("keys=task;reduce=full").streams["suffix"].complete_rows


def test_compaction_drops_invalid_keys_and_nothing_else():
    plan = plan_of("reduce=full;valid_keys_only").streams["suffix"]
    assert plan.compact_keys == (0, 1, 2, 3, 6, 7, 8, 9)
    assert len(plan.key_positions) == 10
    assert plan_of("keys=task;reduce=full;valid_keys_only").streams["suffix"].compact_keys is None


def test_pattern_prefers_groups_to_aliases_and_exact_alias_is_kept():
    assert plan_of("keys=*s*;reduce=group_mass").streams["suffix"].key_groups == (
        "image/wrist",
        "task",
    )
    plan = plan_of("keys=word/*,task;reduce=group_mass").streams["suffix"]
    assert plan.key_groups == ("word/cube", "task")
    assert plan.members(plan.key_groups, "key")[0].tolist() == [0] * 7 + [1, 0, 0]


def test_patch_map_groups_skip_invalid_queries():
    plan = plan_of("reduce=patch_map").streams["suffix"]
    assert plan.query_groups == ("image/wrist", "task", "action")


def test_mass_weights_are_exact_shares_of_straddling_patches():
    layout = CanvasGeometry((32, 40), separator=12, patch=16).layout
    streams = {"decoder": Stream(layout, 1, 1)}
    plan = plan_of("reduce=group_mass", streams).streams["decoder"]
    weights = plan.mass_weights()
    np.testing.assert_allclose(weights.sum(axis=0), 1.0, atol=1e-6)
    assert ((weights > 0) & (weights < 1)).any()  # this canvas has patches that straddle
    stripes = plan_of("keys=stripes;reduce=group_mass", streams).streams["decoder"]
    rows = [plan.key_groups.index(name) for name in ("sep0", "sep1")]
    np.testing.assert_allclose(stripes.mass_weights()[0], weights[rows].sum(axis=0), atol=1e-6)
    assert not stripes.complete_masses


def test_streams_without_images_have_no_patch_map():
    text_only = Stream(TokenLayout(2, (TokenGroup("task", (0, 1)),)), 1, 1)
    plan = plan_of("layers=all;reduce=patch_map,group_mass", {**STREAMS, "text": text_only})
    assert plan.streams["suffix"].reductions == ("patch_map", "group_mass")
    assert plan.streams["text"].reductions == ("group_mass",)
    with pytest.raises(ConfigError, match="patch_map"):
        plan_of("layers=all;reduce=patch_map", {"text": text_only})


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("streams=decoder", ConfigError, "all, suffix"),
        ("layers=4", ConfigError, r"outside 0\.\.3"),
        ("heads=3", ConfigError, r"outside 0\.\.2"),
        ("denoise=7", ConfigError, r"outside 0\.\.4"),
        ("queries=gripper", LayoutError, "Known groups: image/wrist"),
        ("keys=frame*", LayoutError, "no token group matches"),
    ],
)
def test_resolve_refuses_what_the_model_does_not_have(text, error, said):
    with pytest.raises(error, match=said):
        plan_of(text)


def test_resolve_refuses_queries_that_are_not_on_the_axis():
    layout = dataclasses.replace(LAYOUT, queries=(8, 9))
    with pytest.raises(LayoutError, match=r"stream 'suffix'.*Limit `streams`"):
        plan_of("queries=task", {"suffix": Stream(layout, 4, 3)})


def test_groups_of_another_stream_are_left_to_it():
    prefix = TokenLayout(2, (TokenGroup("words", (0,)), TokenGroup("rest", (1,))))
    streams = {"prefix": Stream(prefix, 2, 1), **STREAMS}
    plans = plan_of("queries=action,words;keys=rest,image/*", streams).streams
    assert plans["prefix"].query_positions == (0,) and plans["prefix"].key_positions == (1,)
    assert plans["suffix"].query_positions == (8, 9)
    with pytest.raises(LayoutError, match="unknown token group 'nobody'"):
        plan_of("queries=action,nobody", streams)
    # A stream that would keep nothing says so instead of keeping everything.
    with pytest.raises(LayoutError, match=r"stream 'prefix'.*token group 'action'"):
        plan_of("queries=action", streams)


def test_a_reduction_may_be_of_one_stream():
    streams = {"prefix": Stream(LAYOUT, 2, 1), **STREAMS}
    plans = plan_of("reduce=patch_map,suffix.head_mean", streams).streams
    assert plans["prefix"].reductions == ("patch_map",)
    assert plans["suffix"].reductions == ("patch_map", "head_mean")
    assert set(plan_of("reduce=suffix.head_mean", streams).streams) == {"suffix"}
    with pytest.raises(ConfigError, match="not captured"):
        plan_of("streams=prefix;reduce=patch_map,suffix.head_mean", streams)
    with pytest.raises(ConfigError, match=r"unknown reduction 'suffix\.mean'"):
        plan_of("reduce=suffix.mean", streams)


def test_selection_survives_json():
    selection = Selection.parse("layers=0,2;queries=action")
    data = selection.to_json()
    assert data["layers"] == [0, 2] and data["queries"] == ["action"]
    restored = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
    assert Selection(**restored) == selection


if __name__ == "__main__":
    testing.main()
