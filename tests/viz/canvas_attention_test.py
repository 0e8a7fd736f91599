"""Tests of attn_jax.viz.canvas_attention."""

import dataclasses

import numpy as np
import pytest

from attn_jax.core.errors import ConfigError
from attn_jax.core.record import AttentionRecord
from attn_jax.viz import canvas_attention
from attn_jax.viz.report import Picture, Text, plain
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
        "attention-overlay-encoder",
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


def test_titles_say_who_asks(run, findings):
    assert findings.titles["decoder"] == "decoder, predicted patches"
    assert findings.titles["encoder"] == "encoder, all visible patches"
    full = run.records["encoder"]
    rows = full.layout.positions("frame1", "query")
    layout = full.layout.restrict(queries="frame1")
    part = AttentionRecord("encoder", full.values[..., rows, :], layout, full.layers, full.heads)
    asked = canvas_attention.examine(_only(run, "encoder", part))
    assert asked.titles == {"encoder": "encoder, recorded patches"}


def test_an_encoder_alone_still_has_a_table_and_a_budget(run):
    alone = _only(run, "encoder", run.records["encoder"])
    blocks = canvas_attention.blocks(alone, canvas_attention.examine(alone))
    assert [type(block).__name__ for block in blocks] == ["Text", *["Picture"] * 3]
    assert "patches of frame1 that are outlined" in blocks[1].caption


def _weights(view, run, call=0):
    """What an overlay shows, by the definition: (layer, key)."""
    record = run.records["decoder"]
    layout = record.layout
    tokens = layout.tokens(view.queries or "target")[[0, 5]]
    rows = [list(layout.axis_tokens("query")).index(t) for t in tokens]
    heads = [record.heads.index(h) for h in view.heads or record.heads]
    join = {"mean": np.mean, "max": np.max, "sum": np.sum}
    values = np.asarray(record.values[call], np.float64)[0][:, heads][..., rows, :]
    return join[view.join_patches](join[view.join_heads](values, axis=1), axis=1)


@pytest.mark.parametrize(
    "view",
    [
        canvas_attention.View(patches="0,5"),
        canvas_attention.View((2,), patches="0,5", queries="frame0"),
        canvas_attention.View((0, 3), "max", "sum", patches="0,5"),
        canvas_attention.View((1, 2), "sum", "max", patches="0,5"),
    ],
)
def test_a_view_chooses_what_is_drawn(run, findings, view, monkeypatch):
    drawn, lines = [], []
    panel = canvas_attention.panels.attention_panel
    line = canvas_attention.attention_plots.attention_lines

    def seen(pictures, maps, *rest, **named):
        drawn.append(maps)
        return panel(pictures, maps, *rest, **named)

    def also_seen(picture, maps, *rest, **named):
        lines.append((maps, named["quantile"]))
        return line(picture, maps, *rest, **named)

    monkeypatch.setattr(canvas_attention.panels, "attention_panel", seen)
    monkeypatch.setattr(canvas_attention.attention_plots, "attention_lines", also_seen)
    view = dataclasses.replace(view, quantile=0.9)
    found = {b.name: b for b in canvas_attention.blocks(run, findings, view) if hasattr(b, "name")}
    np.testing.assert_allclose(drawn[0][0], _weights(view, run), rtol=1e-6)
    np.testing.assert_allclose(drawn[0][1], _weights(view, run, call=2), rtol=1e-6)
    ((maps, quantile),) = lines
    assert maps.shape == (2, 2, 57) and quantile == 0.9
    assert "strongest 10\u202f%" in found["attention-lines"].caption
    assert len(found["attention-matrix"].data["queries"]) == 2
    overlay = found["attention-overlay"]
    assert overlay.data["join_heads"] == view.join_heads and overlay.data["heads"]
    assert ("yellow is a sum" in overlay.caption) == ("sum" in (view.join_heads, view.join_patches))
    assert f"of {view.queries or 'the predicted frame'} that are outlined" in overlay.caption
    assert "(numbers 0,5)" in overlay.caption
    assert ("attention-overlay-encoder" in found) and len(drawn) == 2


def test_frames_that_a_stream_did_not_record_are_named(run, findings):
    view = canvas_attention.View(queries="target")
    blocks = canvas_attention.blocks(run, findings, view)
    (text,) = [b for b in blocks[1:] if isinstance(b, Text)]
    assert text.paragraphs == ("No patch of target asks in the encoder.",)


@pytest.mark.parametrize(
    ("view", "said"),
    [
        ({"heads": (1, 9)}, r"stream decoder: heads \[9\] were not recorded.*0, 1, 2, 3"),
        ({"queries": "frame7"}, "no frame is called 'frame7'.*target or one of frame0"),
        ({"patches": "3,16"}, r"patches 16 are outside 0\.\.15"),
        ({"join_heads": "median"}, "cannot join by 'median'.*mean, max, sum"),
        ({"quantile": 1.5}, "quantile 1.5"),
    ],
)
def test_views_that_ask_for_what_is_not_there(run, findings, view, said):
    with pytest.raises(ConfigError, match=said):
        canvas_attention.blocks(run, findings, canvas_attention.View(**view))


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
