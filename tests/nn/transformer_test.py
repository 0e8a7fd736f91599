from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attn_jax.core import taps
from attn_jax.nn import positions
from attn_jax.nn.transformer import Block, Mlp, QueryTransformer, Transformer, take_tokens
from tests import testing

SIZES = {"depth": 3, "num_heads": 2, "head_dim": 4, "mlp_dim": 16}


def tokens(seed: int, *shape: int):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@functools.cache
def params(scan: bool = False):
    stack = Transformer(**SIZES, scan=scan)
    return jax.jit(stack.init)(jax.random.key(0), tokens(0, 1, 3, 8))["params"]


def stacked():
    """The parameters of the loop as those of the scan."""
    layers = [params()[f"block_{i}"] for i in range(SIZES["depth"])]
    return {"blocks": jax.tree.map(lambda *xs: jnp.stack(xs), *layers)}


def run(stack, weights, *args, **kwargs):
    return jax.jit(functools.partial(stack.apply, **kwargs))({"params": weights}, *args)


def test_block_is_two_residual_steps():
    block = Block(2, 4, 16)
    x = tokens(0, 2, 5, 8)
    weights = block.init(jax.random.key(0), x)["params"]
    silent = jax.tree.map(jnp.array, weights)
    for part in (silent["attention"]["out"], silent["mlp"]["fc2"]):
        part["kernel"] = jnp.zeros_like(part["kernel"])
    np.testing.assert_array_equal(run(block, silent, x), x)
    assert np.abs(run(block, weights, x) - x).max() > 0.1


def test_norm_epsilon_is_used():
    x = tokens(0, 1, 3, 8) * 1e-3
    weights = params()["block_0"]
    outs = [run(Block(2, 4, 16, norm_eps=eps), weights, x) for eps in (1e-6, 1e-1)]
    assert np.abs(outs[0] - outs[1]).max() > 1e-2


@pytest.mark.parametrize("exact", [True, False])
def test_mlp(exact):
    x = tokens(0, 1, 3, 8)
    mlp = Mlp(16, exact_gelu=exact)
    weights = mlp.init(jax.random.key(0), x)["params"]
    hidden = jax.nn.gelu(x @ weights["fc1"]["kernel"], approximate=not exact)
    np.testing.assert_allclose(run(mlp, weights, x), hidden @ weights["fc2"]["kernel"], atol=1e-5)


@pytest.mark.parametrize("remat", [False, True])
def test_scan_and_loop_agree_in_values_gradients_and_maps(remat):
    x = tokens(1, 2, 5, 8)
    loop, scan = Transformer(**SIZES, remat=remat), Transformer(**SIZES, scan=True, remat=remat)

    def results(stack, weights):
        def loss(weights):
            out, sown = stack.apply({"params": weights}, x, mutable=[taps.COLLECTION])
            return jnp.sum(jnp.sin(out)), (out, sown[taps.COLLECTION])

        return jax.jit(jax.grad(loss, has_aux=True))(weights)

    loop_grads, (loop_out, loop_maps) = results(loop, params())
    scan_grads, (scan_out, scan_maps) = results(scan, stacked())
    np.testing.assert_allclose(scan_out, loop_out, atol=1e-5)
    maps = scan_maps["blocks"]["attention"][taps.PROBS]
    assert maps.shape == (3, 2, 2, 5, 5)
    for i in range(3):
        np.testing.assert_allclose(
            maps[i], loop_maps[f"block_{i}"]["attention"][taps.PROBS], atol=1e-6
        )
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b, atol=1e-4),
            scan_grads["blocks"],
            loop_grads[f"block_{i}"],
        )


def test_scan_has_the_parameters_of_the_loop_stacked():
    shapes = jax.tree.map(jnp.shape, params(scan=True))
    assert shapes == jax.tree.map(jnp.shape, stacked())


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("rotary", [False, True])
def test_last_rows_changes_no_value(per_sample, rotary):
    x = tokens(1, 2, 6, 8)
    rows = jnp.asarray([[4, 1, 5], [0, 2, 3]]) if per_sample else jnp.asarray([4, 1, 5])
    stack = Transformer(**SIZES, rotary=positions.axial_rotary if rotary else None)
    where = jnp.abs(tokens(2, 2, 6, 2)) * 5 if rotary else None
    mask = jnp.arange(6) != 2
    options = {"positions": where, "mask": jnp.broadcast_to(mask, (1, 1, 1, 6))}
    whole = run(stack, params(), x, **options)
    part = run(stack, params(), x, last_rows=rows, **options)
    np.testing.assert_allclose(part, take_tokens(whole, rows), atol=1e-5)


def test_last_rows_needs_a_loop():
    with pytest.raises(ValueError, match="without scan"):
        Transformer(**SIZES, scan=True).apply(
            {"params": stacked()}, tokens(1, 1, 3, 8), last_rows=jnp.asarray([0])
        )


def test_masked_tokens_do_not_reach_the_others():
    x = tokens(1, 1, 5, 8)
    mask = jnp.broadcast_to(jnp.arange(5) < 3, (1, 1, 1, 5))
    outs = [run(Transformer(**SIZES), params(), y, mask=mask) for y in (x, x.at[:, 3:].add(5))]
    np.testing.assert_array_equal(outs[0][:, :3], outs[1][:, :3])


def test_without_positions_order_does_not_matter():
    x = tokens(1, 1, 5, 8)
    order = jnp.asarray([3, 0, 4, 1, 2])
    out = run(Transformer(**SIZES), params(), x)
    shuffled = run(Transformer(**SIZES), params(), x[:, order])
    np.testing.assert_allclose(shuffled, out[:, order], atol=1e-5)


def test_query_transformer_with_one_block_equals_the_full_stack_on_its_queries():
    sizes = {**SIZES, "depth": 1}
    context, queries = tokens(1, 2, 4, 8), tokens(2, 2, 3, 8)
    weights = {"block_0": params()["block_0"]}
    whole = run(Transformer(**sizes), weights, jnp.concatenate([context, queries], 1))
    out = run(QueryTransformer(**sizes), weights, queries, context)
    np.testing.assert_allclose(out, whole[:, 4:], atol=1e-5)


def test_query_transformer_never_updates_its_context():
    context, queries = tokens(1, 1, 4, 8), tokens(2, 1, 3, 8)
    stack = QueryTransformer(**SIZES)
    assert jax.tree.map(jnp.shape, stack.init(jax.random.key(0), queries, context)["params"]) == (
        jax.tree.map(jnp.shape, params())
    )
    out = queries
    for i in range(3):
        one = QueryTransformer(**{**SIZES, "depth": 1})
        out = run(one, {"block_0": params()[f"block_{i}"]}, out, context)
    np.testing.assert_allclose(run(stack, params(), queries, context), out, atol=1e-5)


def test_every_layer_shows_its_site():
    seen = []

    class Spy:
        def capture(self, site, probs):
            seen.append(site)
            return None

        def edit_logits(self, site, logits):
            return logits

        def edit_probs(self, site, probs):
            return probs

        def edits(self, site):
            return False

    with taps.tapped(Spy()):
        Transformer(**SIZES, stream="decoder").apply(
            {"params": params()}, tokens(1, 1, 3, 8), mutable=[taps.COLLECTION]
        )
    assert list(dict.fromkeys(seen)) == [taps.Site("decoder", i) for i in range(3)]


def test_take_tokens():
    x = tokens(1, 2, 5, 3)
    np.testing.assert_array_equal(take_tokens(x, jnp.asarray([4, 0])), x[:, [4, 0]])
    picked = take_tokens(x, jnp.asarray([[1, 2], [3, 0]]))
    np.testing.assert_array_equal(picked[1], x[1, [3, 0]])


if __name__ == "__main__":
    testing.main()
