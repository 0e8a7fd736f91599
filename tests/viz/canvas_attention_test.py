"""Tests of attn_jax.viz.canvas_attention."""

import dataclasses

import numpy as np
import pytest

from attn_jax.core.record import AttentionRecord
from attn_jax.viz import canvas_attention
from attn_jax.viz.report import Picture, plain
from tests import testing
from tests.viz import canvas_runs


@pytest.fixture(scope="module")
def run():
    return canvas_runs.run(attention_layers=2)


@pytest.fixture(scope="module")
def findings(run):
    return canvas_attention.examine(run)


def _only(run, stream, record):
    return dataclasses.replace(run, records={stream: record})


def test_the_decoder_is_asked_about_the_predicted_frame(findings):
    assert list(findings.budgets) == ["decoder", "encoder"]
    assert findings.budgets["decoder"].query == "target"
    assert findings.budgets["encoder"].query == "valid"
    assert canvas_attention.stripes(findings.budgets["decoder"]) == ("sep0", "sep1")


def test_stripe_mass_is_what_the_record_holds(run, findings):
    numbers = canvas_attention.numbers(findings)
    layout = run.records["decoder"].layout
    rows = layout.positions("target", "query")
    columns = layout.positions("stripes", "key")
    values = run.records["decoder"].values.astype(np.float64)
    expected = values[..., rows[:, None], columns].sum(-1).mean((0, 1, 4))
    np.testing.assert_allclose(numbers["decoder"]["stripe_mass"], expected, rtol=1e-6)
    np.testing.assert_allclose(numbers["decoder"]["stripe_lift"], expected / (8 / 57), rtol=1e-6)
    assert numbers["decoder"]["last_stripe_mass"].shape == (2, 4)
    assert plain(numbers)["encoder"]["cls_mass"] is not None


def test_sentences_name_the_head_that_looks_most(run):
    layout = run.records["decoder"].layout
    logits = np.zeros((3, 1, 2, 4, 57, 57))
    logits[:, :, 1, 2, :, layout.positions("sep1", "key")] = 20.0
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    record = AttentionRecord("decoder", weights, layout, (4, 7), (0, 1, 2, 3))
    (sentence,) = canvas_attention.summary(canvas_attention.examine(_only(run, "decoder", record)))
    assert "layer 7, head 2, with 100\u202f%" in sentence
    assert "14\u202f% of the patches" in sentence
    assert "The predicted frame" in sentence


def test_all_figures_are_there_and_say_what_they_show(run, findings):
    blocks = canvas_attention.blocks(run, findings)
    figures = [block for block in blocks if isinstance(block, Picture)]
    assert [figure.name for figure in figures] == [
        "attention-overlay",
        "attention-lines",
        "attention-matrix",
        "stripe-mass",
        "attention-budget",
    ]
    for figure in figures:
        assert len(figure.alt) > 40 and len(figure.caption) > 80
        assert figure.pixels.dtype == np.uint8 and figure.pixels.std() > 0


def test_a_record_of_masked_queries_only_is_enough(run):
    full = run.records["decoder"]
    layout = canvas_runs.GEOMETRY.decoder_layout(canvas_runs.GEOMETRY.target_patches())
    rows = full.layout.positions("target", "query")
    part = AttentionRecord("decoder", full.values[..., rows, :], layout, full.layers, full.heads)
    kept = canvas_attention.examine(_only(run, "decoder", part))
    whole = canvas_attention.examine(_only(run, "decoder", full))
    np.testing.assert_allclose(
        kept.budgets["decoder"].mass, whole.budgets["decoder"].mass, rtol=1e-6
    )
    assert len(canvas_attention.blocks(_only(run, "decoder", part), kept)) == 6


def test_an_encoder_alone_still_has_a_table_and_a_budget(run):
    alone = _only(run, "encoder", run.records["encoder"])
    blocks = canvas_attention.blocks(alone, canvas_attention.examine(alone))
    assert [type(block).__name__ for block in blocks] == ["Text", "Picture", "Picture"]


def test_averaged_heads_are_not_named(run):
    full = run.records["decoder"]
    mean = AttentionRecord(
        "decoder", full.values.mean(3, keepdims=True), full.layout, full.layers, ()
    )
    shown = _only(run, "decoder", mean)
    findings = canvas_attention.examine(shown)
    assert "head " not in canvas_attention.summary(findings)[0].split("is layer")[1]
    canvas_attention.blocks(shown, findings)


if __name__ == "__main__":
    testing.main()
