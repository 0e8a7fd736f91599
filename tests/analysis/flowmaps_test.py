"""Tests of attn_jax.analysis.flowmaps."""

import numpy as np
import pytest

from attn_jax.analysis import flowmaps
from attn_jax.core.canvas import CanvasGeometry
from attn_jax.core.errors import LayoutError, RecordError
from attn_jax.core.record import AttentionRecord
from tests import testing
from tests.analysis import records

LAYOUT = records.GEOMETRY.layout
#: Stripes of 8 px between 32 px frames on 16 px patches: columns that are half frame, half stripe.
STRADDLING = CanvasGeometry((32, 32), history=3, separator=8, patch=8).layout
HALF = CanvasGeometry((48, 48), history=3, separator=8, patch=16).layout


def test_uniform_attention_has_lift_one():
    record = records.record(LAYOUT, logits=0.0)
    flow = flowmaps.budget(record, query="target")
    assert flow.names == ("cls", "frame0", "sep0", "frame1", "sep1", "frame2")
    np.testing.assert_allclose(flow.mass, np.broadcast_to(flow.area, flow.mass.shape), rtol=1e-6)
    stripes = flow.of("sep0", "sep1")
    np.testing.assert_allclose(stripes, 8 / 57, rtol=1e-6)
    np.testing.assert_allclose(flowmaps.lift(stripes, flow.area_of("sep0", "sep1")), 1.0, rtol=1e-6)


@pytest.mark.parametrize("layout", [LAYOUT, STRADDLING, HALF], ids=["whole", "aligned", "half"])
def test_budgets_sum_to_one(layout):
    flow = flowmaps.budget(records.record(layout), query="target")
    np.testing.assert_allclose(flow.mass.sum(-1), 1.0, atol=1e-6)
    np.testing.assert_allclose(flow.area.sum(), 1.0, atol=1e-6)


def test_attention_on_one_group_is_found_there():
    logits = np.zeros((1, 1, 1, 1, 57, 57))
    logits[..., LAYOUT.positions("sep1", "key")] = 50.0
    record = records.record(LAYOUT, calls=1, layers=1, heads=1, logits=logits)
    flow = flowmaps.budget(record, query="target")
    np.testing.assert_allclose(flow.of("sep1"), 1.0, atol=1e-6)
    mass = flowmaps.group_mass(record, ["stripes", "cls"], query="target")
    np.testing.assert_allclose(mass[0, 0, 0, 0], [1.0, 0.0], atol=1e-6)


def test_a_straddling_patch_is_shared_out():
    shares = flowmaps.membership(HALF, ["stripes"])[0]
    np.testing.assert_allclose(shares, HALF.fractions(["sep0", "sep1"]).sum(0))
    half = np.flatnonzero(np.isclose(shares, 0.5))
    assert len(half)
    logits = np.zeros((1, 1, 1, 1, HALF.length, HALF.length))
    logits[..., half] = 50.0  # everything on patches that are half stripe
    record = records.record(HALF, calls=1, layers=1, heads=1, logits=logits)
    mass = flowmaps.group_mass(record, ["stripes"], query="target")
    np.testing.assert_allclose(mass, 0.5, atol=1e-6)


def test_an_alias_that_is_no_union_of_groups_counts_whole():
    layout = records.padded_layout()
    shares = flowmaps.membership(layout, ["text/word/cube", "image/*"])
    assert np.flatnonzero(shares[0]).tolist() == [9]
    assert np.flatnonzero(shares[1]).tolist() == list(range(8))


def test_query_rows_are_averaged_by_hand():
    record = records.record(LAYOUT)
    mass = flowmaps.group_mass(record, ["sep0"], query="target")
    by_hand = record.select(query="target", key="sep0").reshape(2, 1, 2, 3, 16, 4)
    np.testing.assert_allclose(mass[..., 0], by_hand.sum(-1).mean(-1), rtol=1e-5)


def test_padding_rows_do_not_count():
    layout = records.padded_layout()
    record = records.record(layout)
    spoilt = record.values.copy()
    spoilt[..., 10, :] = 0
    spoilt[..., 10, 0] = 1
    other = AttentionRecord("suffix", spoilt, layout, record.layers, record.heads)
    np.testing.assert_array_equal(flowmaps.budget(record).mass, flowmaps.budget(other).mass)


def test_mass_on_keys_that_were_left_out_is_named():
    full = records.record(LAYOUT)
    layout = LAYOUT.restrict(keys=["history", "cls"])
    kept = full.values[..., layout.axis_tokens("key")]
    flow = flowmaps.budget(
        AttentionRecord("decoder", kept, layout, full.layers, full.heads), query="target"
    )
    assert flow.names == ("cls", "frame0", "frame1", flowmaps.UNRECORDED)
    np.testing.assert_allclose(flow.mass.sum(-1), 1.0, atol=1e-6)
    with pytest.raises(LayoutError, match="sep0"):
        flow.of("sep0")


def test_encoder_records_have_no_target():
    record = records.record(records.GEOMETRY.encoder_layout(), stream="encoder")
    flow = flowmaps.budget(record)
    assert "frame2" not in flow.names
    np.testing.assert_allclose(flow.mass.sum(-1), 1.0, atol=1e-6)
    with pytest.raises(LayoutError, match="target"):
        flowmaps.budget(record, query="target")


def test_reduced_records_answer_by_name():
    full = records.record(LAYOUT)
    names = LAYOUT.names
    values = np.einsum("cdlhqk,gk->cdlhqg", full.values, LAYOUT.membership())
    reduced = AttentionRecord(
        "decoder", values, LAYOUT, full.layers, full.heads, reduction="group_mass",
        key_names=names,
    )  # fmt: skip
    np.testing.assert_allclose(
        flowmaps.group_mass(reduced, ["sep1", "cls"], query="target"),
        flowmaps.group_mass(full, ["sep1", "cls"], query="target"),
        rtol=1e-5,
    )
    np.testing.assert_allclose(flowmaps.budget(reduced).mass, flowmaps.budget(full).mass, rtol=1e-5)
    with pytest.raises(RecordError, match="stripes"):
        flowmaps.group_mass(reduced, ["stripes"])


def test_an_empty_record_is_refused():
    record = records.record(LAYOUT)
    empty = AttentionRecord("decoder", record.values[:0], LAYOUT, record.layers, record.heads)
    with pytest.raises(RecordError, match="no calls"):
        flowmaps.budget(empty)


def test_lift_without_area_is_undefined():
    assert np.isnan(flowmaps.lift(np.ones((2, 2)), 0.0)).all()


if __name__ == "__main__":
    testing.main()
