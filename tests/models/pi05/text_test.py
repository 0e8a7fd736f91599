from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attn_jax.core.errors import ConfigError
from attn_jax.models.pi05 import Pi05
from attn_jax.models.pi05.layout import layouts, text_layout
from attn_jax.models.pi05.text import EOS_ID, PAD_ID, generate
from attn_jax.probe.capture import capture, discover, to_records
from attn_jax.probe.select import Selection, resolve
from tests import testing
from tests.models.pi05 import small

COUNT = 5
SCALE = 0.1  # of the head, so that sampling has a choice


def head(seed: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((small.SIZES.vocab, small.SIZES.width)).astype(np.float32) * SCALE
    rows[EOS_ID] = 0  # never the likeliest
    return rows


@functools.cache
def _program(temperature):
    options = {"max_tokens": COUNT, "temperature": temperature, "keep_logits": True}
    return jax.jit(functools.partial(generate, small.CONFIG, **options))


def answer(rows=None, inputs=None, rng=None, temperature=0.0):
    inputs = small.inputs() if inputs is None else inputs
    rows = head() if rows is None else rows
    return _program(temperature)(small.params(), jnp.asarray(rows), inputs, rng)[0]


def apply(method, *arguments):
    model = Pi05(small.CONFIG)
    return jax.jit(functools.partial(model.apply, method=method))(
        {"params": small.params()}, *arguments
    )


def test_every_token_is_the_likeliest_after_those_before_it():
    """Each token anew, from a pass without a cache in which all before it is prompt."""
    found = answer()
    assert found.mask.all()
    inputs = small.inputs()
    cache, hidden = apply("encode", inputs)
    lengths = np.asarray(cache.valid).sum(1)
    for item in range(2):
        tokens = np.asarray(found.tokens)[item]
        # The prompt alone decides the first token; its last real token is at 12 + length - 9 - 1.
        last = 12 + int(inputs.token_mask[item].sum()) - 1
        logits = np.asarray(hidden)[item, last] @ head().T
        np.testing.assert_allclose(found.logits[item, 0], logits, atol=1e-4)
        assert tokens[0] == logits.argmax()
        # The rest: one causal pass over all of them.
        causal = np.tril(np.ones((COUNT, COUNT), bool))
        prefix = np.tile(np.asarray(cache.valid)[item], (COUNT, 1))
        states, _ = apply(
            "read_text",
            jnp.asarray(tokens)[None],
            jnp.arange(COUNT)[None] + int(lengths[item]),
            jnp.asarray(np.concatenate([prefix, causal], 1))[None, None],
            jax.tree.map(lambda x, item=item: x[item : item + 1], cache.layers),
        )
        after = np.asarray(states)[0] @ head().T
        np.testing.assert_allclose(found.logits[item, 1:], after[:-1], atol=1e-4)
        np.testing.assert_array_equal(tokens[1:], after[:-1].argmax(-1))


def test_it_ends_at_the_end_token():
    plain = np.asarray(answer().tokens)
    rows = head()
    # What was the second token of the first sample now means the end.
    rows[EOS_ID] = rows[plain[0, 1]]
    found = answer(rows)
    assert plain[0, 0] != plain[0, 1] and plain[0, 1] not in plain[1]
    assert found.tokens[0].tolist() == [plain[0, 0], EOS_ID, *[PAD_ID] * (COUNT - 2)]
    assert found.mask[0].tolist() == [True, True, *[False] * (COUNT - 2)]
    np.testing.assert_array_equal(found.tokens[1], plain[1])  # the other sample goes on


def test_a_prompt_does_not_depend_on_its_place_or_padding():
    inputs, plain = small.inputs(), np.asarray(answer().tokens)
    turned = answer(inputs=jax.tree.map(lambda x: x[::-1], inputs))
    np.testing.assert_array_equal(turned.tokens, plain[::-1])
    other = inputs.replace(tokens=jnp.where(inputs.token_mask, inputs.tokens, 7))
    np.testing.assert_array_equal(answer(inputs=other).tokens, plain)


def test_sampling_follows_the_key():
    key = jax.random.key(0)
    hot = answer(rng=key, temperature=100.0)
    np.testing.assert_array_equal(hot.tokens, answer(rng=key, temperature=100.0).tokens)
    assert np.any(hot.tokens != answer(rng=jax.random.key(1), temperature=100.0).tokens)


def test_attention_of_generated_tokens_is_captured():
    inputs = small.inputs(lengths=(6,))
    watched = functools.partial(generate, small.CONFIG, max_tokens=COUNT, watch=True)
    prefix = layouts(
        small.CONFIG,
        small.CONFIG.cameras,
        *(np.asarray(x)[0] for x in (inputs.image_mask, inputs.tokens, inputs.token_mask)),
    )["prefix"]
    streams = {"text": text_layout(prefix, COUNT)}
    arguments = small.params(), jnp.asarray(head()), inputs
    plan = resolve(
        Selection.parse("layers=all;reduce=full,group_mass;dtype=float32"),
        discover(watched, streams, *arguments),
    )
    found, maps = jax.jit(capture(watched, plan))(*arguments)
    np.testing.assert_array_equal(found.tokens, answer(inputs=inputs).tokens)
    full = np.asarray(maps["text"]["full"])  # batch, denoise, layer, head, query, key
    assert full.shape == (1, 1, small.SIZES.depth, 4, COUNT, 21 + COUNT)
    np.testing.assert_allclose(full.sum(-1), 1, atol=1e-5)
    own = full[..., 21:]
    causal = np.tril(np.ones((COUNT, COUNT), bool))
    assert np.all(own[..., causal] > 0) and not np.any(own[..., ~causal])
    assert not full[..., ~np.append(np.asarray(_valid(inputs)), np.ones(COUNT, bool))].any()
    np.testing.assert_allclose(maps["text"]["group_mass"].sum(-1), 1, atol=1e-5)
    record = to_records(maps, plan)[0]["text"]
    assert record.select(query="generated", key="image/wrist").shape[-2:] == (2, 2)


def _valid(inputs):
    return np.append(np.repeat(np.asarray(inputs.image_mask)[0], 4), np.asarray(inputs.token_mask))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 0}, "at least 1"),
        ({"max_tokens": 1, "temperature": -1.0}, "at least 0"),
        ({"max_tokens": 1, "temperature": float("inf")}, "finite, got inf"),
        ({"max_tokens": 1, "temperature": 1.0}, "random key"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        generate(small.CONFIG, small.params(), jnp.asarray(head()), small.inputs(), **options)


def test_bfloat16_runs():
    config = dataclasses.replace(small.CONFIG, precision="bfloat16_lerobot")
    rows = jnp.asarray(head(), jnp.bfloat16)
    found, _ = jax.jit(functools.partial(generate, config, max_tokens=2, keep_logits=True))(
        small.params(config), rows, small.inputs()
    )
    assert found.logits.dtype == jnp.float32 and np.isfinite(found.logits).all()


if __name__ == "__main__":
    testing.main()
