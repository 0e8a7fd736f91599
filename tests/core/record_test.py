"""AttentionRecord: labels must fit values, and answer by name."""

from __future__ import annotations

import numpy as np
import pytest

from attn_jax.core.errors import RecordError
from attn_jax.core.layout import TokenGroup, TokenLayout
from attn_jax.core.record import AttentionRecord
from tests import testing

LAYOUT = TokenLayout(
    5, (TokenGroup("image", (0, 1, 2, 3), (2, 2)), TokenGroup("action", (4,), labels=("0",)))
)


def test_shape_must_fit_the_labels():
    with pytest.raises(RecordError, match="its labels say"):
        AttentionRecord("suffix", np.zeros((1, 1, 2, 1, 5, 4)), LAYOUT, (0, 1), (0,))
    with pytest.raises(RecordError, match="unknown reduction"):
        AttentionRecord("suffix", np.zeros((1, 1, 1, 1, 5, 5)), LAYOUT, (0,), (0,), reduction="x")


def test_select_by_token_group():
    values = np.arange(2 * 25.0).reshape(2, 1, 1, 1, 5, 5)
    record = AttentionRecord("suffix", values, LAYOUT, (17,), (0,))
    out = record.select(query="action", key="image")
    assert out.shape == (2, 1, 1, 1, 1, 2, 2)
    assert out[1, 0, 0, 0, 0, 1, 0] == values[1, 0, 0, 0, 4, 2]


def test_select_by_group_name_of_a_reduction():
    values = np.arange(10.0).reshape(1, 1, 1, 1, 5, 2)
    record = AttentionRecord(
        "suffix", values, LAYOUT, (0,), (0,), reduction="group_mass", key_names=("image", "action")
    )
    assert record.select(query="action", key="image").ravel().tolist() == [8.0]
    with pytest.raises(RecordError, match="unknown name 'text'"):
        record.select(key="text")


def test_patch_map_unfolds_keys():
    record = AttentionRecord(
        "suffix",
        np.arange(4.0).reshape(1, 1, 1, 1, 1, 4),
        LAYOUT.restrict(keys="image"),
        (0,),
        (0,),
        reduction="patch_map",
        query_names=("action",),
    )
    out = record.select(query="action", key="image")
    assert out.shape == (1, 1, 1, 1, 1, 2, 2)
    assert out.ravel().tolist() == [0, 1, 2, 3]


def test_averaged_heads_have_no_numbers():
    record = AttentionRecord(
        "suffix", np.zeros((1, 1, 1, 1, 5, 5)), LAYOUT, (0,), (), reduction="head_mean"
    )
    assert record.shape == (1, 1, 1, 1, 5, 5)


if __name__ == "__main__":
    testing.main()
