"""Edits act where they say: in loops, in scans over layers, under capture; else errors say why."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attn_jax.core import taps
from attn_jax.core.errors import ConfigError, RecordError
from attn_jax.core.layout import TokenGroup, TokenLayout
from attn_jax.nn import fast_attention
from attn_jax.nn.transformer import Transformer
from attn_jax.probe.capture import capture, discover
from attn_jax.probe.edits import InnerTap, donate, intervened, sweep
from attn_jax.probe.intervene import (
    AblateHeads,
    KnockOut,
    Nothing,
    Patch,
    ScaleValues,
    Steer,
    Temper,
    Together,
    resolve_edits,
)
from attn_jax.probe.select import Selection, resolve
from tests import testing

LAYOUT = TokenLayout(
    6,
    (TokenGroup("image", (0, 1, 2, 3), (2, 2)), TokenGroup("text", (4,)), TokenGroup("act", (5,))),
)
LAYERS, HEADS = 3, 2
LOOP = Transformer(LAYERS, HEADS, 4, 16, stream="encoder")
SCAN = Transformer(LAYERS, HEADS, 4, 16, stream="encoder", scan=True)


def applied(module):
    return lambda params, x: module.apply({"params": params}, x, mutable=["attn"])


@pytest.fixture(scope="module")
def x():
    return jax.random.normal(jax.random.key(1), (2, 6, 8))


@pytest.fixture(scope="module")
def params(x):
    made = LOOP.init(jax.random.key(0), x)["params"]
    # Larger than at initialisation, so that attention is far from uniform.
    return jax.tree.map(lambda leaf: leaf * 2.0 if leaf.ndim > 1 else leaf, made)


@pytest.fixture(scope="module")
def stacked(params):
    layers = [params[f"block_{n}"] for n in range(LAYERS)]
    return {"blocks": jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)}


@pytest.fixture(scope="module")
def streams(params, x):
    return discover(applied(LOOP), {"encoder": LAYOUT}, params, x)


def maps_of(streams, params, x, *interventions):
    """Whole maps (n, b, l, h, q, k) under each intervention."""
    plan = resolve(Selection.parse("layers=all;reduce=full;dtype=float32"), streams)

    def one(edit, params, x):
        under = capture(lambda *args: intervened(applied(LOOP))(edit, *args), plan)
        return under(params, x)[1]["encoder"]["full"][:, 0]

    edits = resolve_edits(interventions, streams)
    return np.asarray(jax.jit(jax.vmap(one, in_axes=(0, None, None)))(edits, params, x))


def test_every_effect_is_its_formula(streams, params, x):
    first = {"layers": (0,)}
    plain, cut, zeroed, scaled, heads, steered, warmed = maps_of(
        streams,
        params,
        x,
        Nothing(),
        KnockOut("act", "image", **first),
        KnockOut("act", "image", renormalise=False, **first),
        ScaleValues("image", 1.5, "act", **first),
        AblateHeads(heads=(1,), **first),
        Steer("act", "image", 0.7, **first),
        Temper("act", 2.0, **first),
    )[:, :, 0]
    expected = np.array(plain)
    expected[:, :, 5, :4] = 0
    np.testing.assert_allclose(zeroed, expected, atol=1e-6)
    expected /= expected.sum(-1, keepdims=True)
    np.testing.assert_allclose(cut, expected, atol=1e-6)
    assert not cut[:, :, 5, :4].any()
    expected = np.array(plain)
    expected[:, :, 5, :4] *= 1.5
    np.testing.assert_allclose(scaled, expected, atol=1e-6)
    expected = np.array(plain)
    expected[:, 1] = 0
    np.testing.assert_allclose(heads, expected, atol=1e-6)
    expected = np.array(plain)
    expected[:, :, 5, :4] *= np.exp(0.7)
    expected /= expected.sum(-1, keepdims=True)
    np.testing.assert_allclose(steered, expected, atol=1e-6)
    expected = np.array(plain)
    expected[:, :, 5] = np.sqrt(expected[:, :, 5])
    expected /= expected.sum(-1, keepdims=True)
    np.testing.assert_allclose(warmed, expected, atol=1e-6)


def test_scaling_columns_is_scaling_values(streams, params, x):
    """What one layer's attention adds, against its product with scaled values written out."""
    one, few = (
        applied(Transformer(1, HEADS, 4, 16, stream="encoder")),
        {"block_0": params["block_0"]},
    )
    edits = resolve_edits([Nothing(), ScaleValues("text", 3.0, layers=(0,))], streams)
    shape = {"encoder": dataclasses.replace(streams["encoder"], num_layers=1)}
    wanted = {"encoder": ("attention_out",)}
    base, found = (
        jax.jit(donate(functools.partial(intervened(one), edit), shape, wanted))(few, x)[1][
            "encoder"
        ]
        for edit in (edits[0], edits[1])
    )
    part, norm = few["block_0"]["attention"], few["block_0"]["norm1"]
    y = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-6)
    y = y * norm["scale"] + norm["bias"]
    values = jnp.einsum("bnd,dhe->bnhe", y, part["value"]["kernel"]) + part["value"]["bias"]
    added = jnp.zeros_like(values).at[:, 4].set(2.0 * values[:, 4])  # 3 v is v and 2 v more
    probs = one(few, x)[1]["attn"]["block_0"]["attention"]["probs"]
    expected = jnp.einsum("bhqk,bkhd,hdo->bqo", probs, added, part["out"]["kernel"])
    difference = found["attention_out"] - base["attention_out"]
    np.testing.assert_allclose(difference[0, 0], expected, atol=1e-5)
    assert np.abs(expected).max() > 1e-2


def test_a_row_of_which_nothing_is_left_is_zero(streams, params, x):
    maps = maps_of(streams, params, x, KnockOut("act", "all"), KnockOut("act", ("image", "text")))
    assert not maps[0][..., 5, :].any()
    np.testing.assert_array_equal(maps[1][..., 5, :5], 0)
    np.testing.assert_array_equal(maps[1][..., 5, 5], 1)
    np.testing.assert_allclose(maps[..., :5, :].sum(-1), 1, atol=1e-6)


def test_scanned_layers_are_told_apart(streams, params, stacked, x):
    interventions = [
        Nothing(),
        *(KnockOut("act", "image", layers=(n,)) for n in range(LAYERS)),
        Together((AblateHeads(layers=(0,), heads=(1,)), Steer("text", "image", 1.0, layers=(2,)))),
    ]
    edits = resolve_edits(interventions, streams)
    loop = sweep(applied(LOOP))(edits, None, params, x)[0]
    scan = sweep(applied(SCAN), chunk=2)(edits, None, stacked, x)[0]
    np.testing.assert_allclose(loop, scan, atol=1e-4)
    assert len({np.asarray(out).tobytes() for out in loop}) == len(interventions)


def test_donors_of_loops_and_scans_are_the_same(streams, params, stacked, x):
    wanted = {"encoder": ("residual", "mlp_out")}
    out, loop = jax.jit(donate(applied(LOOP), streams, wanted))(params, x)
    _, scan = jax.jit(donate(applied(SCAN), streams, wanted))(stacked, x)
    assert loop["encoder"]["residual"].shape == (1, LAYERS, 2, 6, 8)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), loop, scan)
    np.testing.assert_allclose(loop["encoder"]["residual"][0, -1], out, atol=1e-6)
    other = x + 1.0
    patch = Patch(activation="residual", token="act", layers=(LAYERS - 1,))
    edits = resolve_edits([patch], streams)
    found, _ = jax.jit(intervened(applied(LOOP), loop))(edits[0], params, other)
    plain, _ = jax.jit(applied(LOOP))(params, other)
    np.testing.assert_array_equal(found[:, 5], out[:, 5])
    np.testing.assert_allclose(found[:, :5], plain[:, :5], atol=1e-5)


def test_layers_that_no_intervention_touches_stay_on_the_fast_path(streams, params, x, monkeypatch):
    edits = resolve_edits([KnockOut("act", "image", layers=(2,))], streams)
    assert edits.rules["encoder"].touched == (2,)
    assert edits.rules["encoder"].uses == ("cut",)
    quick, calls = fast_attention.attend, []

    def counted(*args):
        calls.append(1)
        return quick(*args)

    monkeypatch.setattr(fast_attention, "attend", counted)
    closed = intervened(lambda params, x: LOOP.apply({"params": params}, x))
    jax.eval_shape(closed, edits[0], params, x)
    assert len(calls) == LAYERS - 1
    everything = resolve_edits([Nothing()], streams, cover="all").rules["encoder"]
    assert everything.touched == (0, 1, 2) and len(everything.uses) == 4


def test_what_does_not_fit_is_an_error(streams, params, stacked, x):
    edits = resolve_edits([KnockOut("act", "image")], streams)[0]
    with pytest.raises(RecordError, match=r"the edits were made for \(2, 6, 6\)"):
        jax.eval_shape(intervened(applied(LOOP)), edits, params, x[:, :5])
    patch = resolve_edits([Patch(activation="residual")], streams)[0]
    with pytest.raises(ConfigError, match="the donor has no 'residual'"):
        jax.eval_shape(intervened(applied(LOOP)), patch, params, x)
    _, donor = jax.jit(donate(applied(LOOP), streams, {"encoder": ("residual",)}))(params, x)
    with pytest.raises(RecordError, match="the donor's"):
        jax.eval_shape(intervened(applied(LOOP), donor), patch, params, x[:1])
    with pytest.raises(ConfigError, match="unknown activation 'memory'"):
        donate(applied(LOOP), streams, {"encoder": ("memory",)})
    with pytest.raises(ConfigError, match="no stream 'decoder'"):
        donate(applied(LOOP), streams, {"decoder": ("residual",)})
    with pytest.raises(RecordError, match="layer 0 showed no activation 'keys'"):
        jax.eval_shape(donate(applied(LOOP), streams, {"encoder": ("keys",)}), params, x)


def test_loops_that_do_not_say_where_they_are(streams, stacked, x, monkeypatch):
    edits = resolve_edits([KnockOut("act", "image")], streams)[0]
    with monkeypatch.context() as patched:
        patched.setattr(taps, "layer_numbers", lambda depth: None)
        with pytest.raises(RecordError, match="does not say which one runs"):
            jax.eval_shape(intervened(applied(SCAN)), edits, stacked, x)
    steps = {"encoder": dataclasses.replace(streams["encoder"], num_denoise=4)}
    edits = resolve_edits([KnockOut("act", "image", denoise=(1,))], steps)[0]
    with pytest.raises(RecordError, match="4 denoising steps"):
        jax.eval_shape(intervened(applied(SCAN)), edits, stacked, x)


def test_an_inner_tap_without_an_outer_one_keeps_everything():
    tap, site = InnerTap(None), taps.Site("encoder", 0)
    assert isinstance(tap, taps.Editor)
    assert tap.capture(site, 1) == tap.edit_logits(site, 1) == tap.edit_probs(site, 1) == 1
    assert tap.step_inputs(3) is None and tap.keep_activation(site, "residual", 1) is None
    assert tap.activation(site, "residual", 1) == 1 and not tap.edits(site)


if __name__ == "__main__":
    testing.main()
