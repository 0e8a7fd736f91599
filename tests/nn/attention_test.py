from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attn_jax.core import taps
from attn_jax.nn.attention import Attention, attend
from tests import testing


def arrays(seed: int, *shapes):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


class Site(nn.Module):
    """Calls `attend` once."""

    @nn.compact
    def __call__(self, q, k, v, mask=None, scale=None):
        return attend(self, q, k, v, site=taps.Site("stream", 3), mask=mask, scale=scale)


def reference(q, k, v, mask=None, scale=None):
    """Attention in float64, one head at a time; (output, probabilities)."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    group = q.shape[2] // k.shape[2]
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    out = np.zeros((*q.shape[:3], v.shape[-1]))
    probs = np.zeros((q.shape[0], q.shape[2], q.shape[1], k.shape[1]))
    for b in range(q.shape[0]):
        for h in range(q.shape[2]):
            logits = scale * q[b, :, h] @ k[b, :, h // group].T
            if mask is not None:
                allowed = np.broadcast_to(mask, probs.shape)[b, h]
                logits = np.where(allowed, logits, -1e300)
            weights = np.exp(logits - logits.max(-1, keepdims=True))
            probs[b, h] = weights / weights.sum(-1, keepdims=True)
            out[b, :, h] = probs[b, h] @ v[b, :, h // group]
    return out, probs


@pytest.mark.parametrize("kv_heads", [6, 3, 1], ids=["mha", "gqa", "mqa"])
@pytest.mark.parametrize("masked", [False, True])
def test_attend_equals_the_definition(kv_heads, masked):
    q, k, v = arrays(0, (2, 5, 6, 4), (2, 7, kv_heads, 4), (2, 7, kv_heads, 4))
    mask = None
    if masked:
        mask = jnp.asarray(np.random.default_rng(1).random((2, 1, 5, 7)) < 0.6)
    out, sown = Site().apply({}, q, k, v, mask, mutable=[taps.COLLECTION])
    expected, probs = reference(q, k, v, mask)
    np.testing.assert_allclose(out, expected, atol=1e-6)
    np.testing.assert_allclose(sown[taps.COLLECTION][taps.PROBS], probs, atol=1e-6)
    np.testing.assert_allclose(Site().apply({}, q, k, v, mask), expected, atol=1e-6)


def test_query_heads_of_a_group_share_its_keys_and_values():
    q, k, v = arrays(0, (1, 3, 4, 2), (1, 5, 2, 2), (1, 5, 2, 2))
    grouped = Site().apply({}, q, k, v)
    repeated = Site().apply({}, q, jnp.repeat(k, 2, axis=2), jnp.repeat(v, 2, axis=2))
    np.testing.assert_allclose(grouped, repeated, atol=1e-6)


@pytest.mark.parametrize("kv_heads", [2, 1])
@pytest.mark.parametrize("masked", [False, True])
def test_logits_are_rounded_only_where_asked_for(kv_heads, masked):
    q, k, v = arrays(0, (1, 3, 2, 4), (1, 5, kv_heads, 4), (1, 5, kv_heads, 4))
    q, k, v = (x.astype(jnp.bfloat16) for x in (q, k, v))
    mask = jnp.ones((1, 1, 3, 5), bool) if masked else None

    class Watched(nn.Module):
        dtype: Any

        @nn.compact
        def __call__(self):
            site = taps.Site("stream", 0)
            return attend(self, q, k, v, site=site, mask=mask, logits_dtype=self.dtype)

    def probs(dtype):
        _, sown = jax.jit(lambda: Watched(dtype).apply({}, mutable=[taps.COLLECTION]))()
        return np.asarray(sown[taps.COLLECTION][taps.PROBS])

    exact = np.einsum(
        "bqhd,bkhd->bhqk",
        np.asarray(q, np.float64) * 0.5,
        np.repeat(np.asarray(k, np.float64), 2 // kv_heads, axis=2),
    )
    rounded = np.asarray(jnp.asarray(exact, jnp.bfloat16), np.float32)
    assert np.abs(rounded - exact).max() > 1e-3
    np.testing.assert_allclose(probs(jnp.bfloat16), jax.nn.softmax(rounded), atol=1e-6)
    np.testing.assert_allclose(probs(jnp.float32), jax.nn.softmax(exact), atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 0.01, 30.0])
def test_scale(scale):
    q, k, v = arrays(0, (1, 3, 2, 4), (1, 5, 2, 4), (1, 5, 2, 4))
    expected, _ = reference(q, k, v, scale=scale)
    np.testing.assert_allclose(Site().apply({}, q, k, v, None, scale), expected, atol=1e-5)


def probs_of(q, k, v, mask=None):
    _, sown = Site().apply({}, q, k, v, mask, mutable=[taps.COLLECTION])
    return np.asarray(sown[taps.COLLECTION][taps.PROBS])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_rows_sum_to_one_even_with_huge_logits(dtype):
    q, k, v = (x.astype(dtype) for x in arrays(0, (2, 5, 2, 4), (2, 7, 2, 4), (2, 7, 2, 4)))
    probs = probs_of(q * 1e4, k, v)
    assert probs.dtype == np.float32
    np.testing.assert_allclose(probs.sum(-1), 1, atol=1e-6)
    assert Site().apply({}, q, k, v).dtype == dtype


def test_a_fully_masked_row_is_uniform_and_masked_keys_get_nothing():
    q, k, v = arrays(0, (1, 3, 2, 4), (1, 5, 2, 4), (1, 5, 2, 4))
    mask = np.ones((1, 1, 3, 5), bool)
    mask[..., 0, :] = False
    mask[..., 1, 3:] = False
    mask = jnp.asarray(mask)
    probs = probs_of(q, k, v, mask)
    np.testing.assert_array_equal(probs[:, :, 0], np.full((1, 2, 5), 0.2, np.float32))
    np.testing.assert_array_equal(probs[:, :, 1, 3:], 0)
    gradient = jax.grad(lambda q: jnp.sum(Site().apply({}, q, k, v, mask) ** 2))(q)
    assert np.isfinite(gradient).all()


def test_values_under_the_mask_have_no_influence():
    q, k, v = arrays(0, (1, 3, 2, 4), (1, 5, 2, 4), (1, 5, 2, 4))
    mask = jnp.broadcast_to(jnp.arange(5) < 3, (1, 1, 3, 5))
    changed = Site().apply({}, q, k.at[:, 3:].add(9), v.at[:, 3:].add(9), mask)
    np.testing.assert_array_equal(changed, Site().apply({}, q, k, v, mask))


def test_nothing_is_sown_unless_the_collection_is_opened():
    (x,) = arrays(0, (1, 4, 8))
    layer = Attention(2, 4)
    variables = layer.init(jax.random.key(0), x)
    assert set(variables) == {"params"}
    closed = jax.jit(layer.apply).lower(variables, x).as_text()
    out, sown = layer.apply(variables, x, mutable=[taps.COLLECTION])
    assert sown[taps.COLLECTION][taps.PROBS].shape == (1, 2, 4, 4)
    np.testing.assert_allclose(out, layer.apply(variables, x), atol=1e-6)
    with taps.tapped(EditTap("other")):
        assert jax.jit(layer.apply).lower(variables, x).as_text() == closed


@dataclasses.dataclass(frozen=True)
class EditTap:
    """Forbids key 0 by its logits, or replaces the probabilities by key 1; keeps one head."""

    stream: str
    what: str = "logits"

    def capture(self, site, probs):
        return probs[:, :1] if site.stream == self.stream else None

    def edit_logits(self, site, logits):
        return logits.at[..., 0].set(-1e30) if self.what == "logits" else logits

    def edit_probs(self, site, probs):
        if self.what != "probs":
            return probs
        return jnp.zeros_like(probs).at[..., 1].set(1)

    def edits(self, site):
        return site.stream == self.stream


def test_a_tap_edits_logits():
    q, k, v = arrays(0, (1, 3, 2, 4), (1, 5, 2, 4), (1, 5, 2, 4))
    with taps.tapped(EditTap("stream")):
        out, sown = Site().apply({}, q, k, v, mutable=[taps.COLLECTION])
    np.testing.assert_allclose(out, reference(q, k[:, 1:], v[:, 1:])[0], atol=1e-6)
    probs = sown[taps.COLLECTION][taps.PROBS]
    assert probs.shape == (1, 1, 3, 5)
    np.testing.assert_array_equal(probs[..., 0], 0)


def test_a_tap_edits_probabilities_with_the_collection_closed():
    q, k, v = arrays(0, (1, 3, 2, 4), (1, 5, 2, 4), (1, 5, 2, 4))
    with taps.tapped(EditTap("stream", "probs")):
        out = Site().apply({}, q, k, v)
    np.testing.assert_allclose(out, jnp.broadcast_to(v[:, 1:2], out.shape), atol=1e-6)


def test_a_tap_that_keeps_nothing_here_leaves_the_program_as_it_was():
    q, k, v = arrays(0, (1, 3, 2, 4), (1, 5, 2, 4), (1, 5, 2, 4))

    def program(opened, tap, q, k, v):
        with taps.tapped(tap):
            if not opened:
                return Site().apply({}, q, k, v)
            return Site().apply({}, q, k, v, mutable=[taps.COLLECTION])[0]

    texts = [
        jax.jit(functools.partial(program, opened, EditTap("other"))).lower(q, k, v).as_text()
        for opened in (False, True)
    ]
    assert texts[0] == texts[1]


def test_layer_is_its_projections_around_attend():
    x, context = arrays(0, (2, 3, 8), (2, 5, 6))
    layer = Attention(4, 2, num_kv_heads=2, out_features=10)
    params = layer.init(jax.random.key(0), x, context)["params"]
    params = jax.tree.map(lambda p: jax.random.normal(jax.random.key(p.size), p.shape), params)
    assert params["query"]["kernel"].shape == (8, 4, 2)
    assert params["key"]["kernel"].shape == (6, 2, 2)
    assert params["out"]["kernel"].shape == (4, 2, 10)

    def project(name, inputs):
        return np.einsum("bnd,dhe->bnhe", inputs, params[name]["kernel"]) + params[name]["bias"]

    out, _ = reference(project("query", x), project("key", context), project("value", context))
    expected = np.einsum("bqhd,hdo->bqo", out, params["out"]["kernel"]) + params["out"]["bias"]
    np.testing.assert_allclose(layer.apply({"params": params}, x, context), expected, atol=1e-4)


def test_without_biases_there_are_none():
    (x,) = arrays(0, (1, 3, 8))
    layer = Attention(2, 4, qkv_bias=False, out_bias=False)
    params = layer.init(jax.random.key(0), x)["params"]
    assert all(set(part) == {"kernel"} for part in params.values())


def test_heads_must_be_a_multiple_of_key_heads():
    (x,) = arrays(0, (1, 3, 8))
    with pytest.raises(ValueError, match="4 query heads are no multiple of 3"):
        Attention(4, 2, num_kv_heads=3).init(jax.random.key(0), x)


def test_rotary_is_applied_to_queries_and_keys_with_their_positions():
    x, context = arrays(0, (1, 2, 8), (1, 3, 8))

    def shift(x, positions):
        return x + positions[..., None, None]

    positions, context_positions = jnp.ones((1, 2)), jnp.arange(3.0)[None]
    plain, turned = Attention(2, 4), Attention(2, 4, rotary=shift)
    variables = plain.init(jax.random.key(0), x)
    by_bias = jax.tree.map(jnp.array, variables)
    by_bias["params"]["query"]["bias"] += 1.0
    same = turned.apply(
        variables, x, context, positions=positions, context_positions=jnp.zeros((1, 3))
    )
    np.testing.assert_allclose(same, plain.apply(by_bias, x, context), atol=1e-6)
    other = turned.apply(
        variables, x, context, positions=positions, context_positions=context_positions
    )
    assert np.abs(other - same).max() > 1e-4


if __name__ == "__main__":
    testing.main()
