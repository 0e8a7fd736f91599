"""Relevance against finite differences, through scans over layers, and in the store."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attn_jax.core.errors import ConfigError, RecordError
from attn_jax.core.layout import TokenGroup, TokenLayout
from attn_jax.flow.sampler import euler
from attn_jax.nn.transformer import Transformer
from attn_jax.probe.capture import discover
from attn_jax.probe.edits import intervened
from attn_jax.probe.intervene import ScaleValues, resolve_edits
from attn_jax.probe.relevance import relevance, relevance_records
from attn_jax.probe.select import Selection, resolve
from attn_jax.probe.store import RecordReader, RecordWriter
from attn_jax.probe.verify import verify
from tests import testing

LAYOUT = TokenLayout(
    6,
    (TokenGroup("image", (0, 1, 2, 3), (2, 2)), TokenGroup("text", (4,)), TokenGroup("act", (5,))),
)
LAYERS, HEADS, STEPS = 2, 2, 3
LOOP = Transformer(LAYERS, HEADS, 4, 16, stream="suffix")
SCAN = Transformer(LAYERS, HEADS, 4, 16, stream="suffix", scan=True)


def denoised(module):
    def apply(params, x):
        def velocity(x, _):
            return module.apply({"params": params}, x, mutable=["attn"])

        out, trace = euler(velocity, x, None, num_steps=STEPS)
        return out, trace.extra

    return apply


def objective(out):
    return out[:, 5, 1] - 2.0 * out[:, 5, 3]


@pytest.fixture(scope="module")
def x():
    return jax.random.normal(jax.random.key(1), (2, 6, 8))


@pytest.fixture(scope="module")
def params(x):
    made = LOOP.init(jax.random.key(0), x)["params"]
    return jax.tree.map(lambda leaf: leaf * 1.5 if leaf.ndim > 1 else leaf, made)


def plan_of(text, module, params, x):
    streams = discover(denoised(module), {"suffix": LAYOUT}, params, x)
    return resolve(Selection.parse(text), streams), streams


@pytest.fixture(scope="module")
def found(params, x):
    plan, _ = plan_of("layers=all;reduce=full,group_mass,patch_map", LOOP, params, x)
    outputs, maps = jax.jit(relevance(denoised(LOOP), plan, objective))(params, x)
    return plan, outputs, maps["suffix"]


def test_it_is_the_slope_of_scaling_an_edge(found, params, x):
    """Central differences by interventions at one step, layer and head."""
    plan, _, maps = found
    _, streams = plan_of("all", LOOP, params, x)
    step = 0.05
    places = [("act", "image", 0, 0, 1), ("image", "text", 1, 1, 0), ("act", "act", 1, 0, 0)]
    edits = resolve_edits(
        [
            ScaleValues(key, factor, query, denoise=(s,), layers=(layer,), heads=(head,))
            for query, key, s, layer, head in places
            for factor in (1 + step, 1 - step)
        ],
        streams,
    )

    def explained(edit):
        return objective(intervened(denoised(LOOP))(edit, params, x)[0])

    values = np.asarray(jax.jit(jax.vmap(explained))(edits), np.float64)
    slopes = (values[0::2] - values[1::2]) / (2 * step)
    groups = plan.streams["suffix"].key_groups
    for slope, (query, key, s, layer, head) in zip(slopes, places, strict=True):
        rows = LAYOUT.positions(query, "query")
        mass = np.asarray(maps["group_mass"])[:, s, layer, head][..., groups.index(key)]
        np.testing.assert_allclose(mass[:, rows].sum(-1), slope, rtol=0.02, atol=2e-3)
        assert np.abs(slope).max() > 1e-2


def test_outputs_are_those_of_the_model_and_reductions_add_up(found, params, x):
    _, outputs, maps = found
    np.testing.assert_allclose(outputs, denoised(LOOP)(params, x)[0], atol=1e-4)
    assert maps["full"].shape == (2, STEPS, LAYERS, HEADS, 6, 6)
    full = np.asarray(maps["full"])
    sums = np.stack([full[..., LAYOUT.tokens(name)].sum(-1) for name in LAYOUT.names], -1)
    np.testing.assert_allclose(maps["group_mass"], sums, atol=1e-5)
    np.testing.assert_allclose(maps["patch_map"][..., 2, :], full[..., 5, :4], atol=1e-6)
    assert full.min() < -1e-3 and full.max() > 1e-3
    # After the last layer of the last step only the action's row reaches the objective.
    assert not full[:, -1, -1, :, :5].any() and full[:, -1, -1, :, 5].any()


def test_scanned_layers_give_the_same(found, params, x):
    _, _, maps = found
    layers = [params[f"block_{n}"] for n in range(LAYERS)]
    stacked = {"blocks": jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)}
    plan, _ = plan_of("layers=all;reduce=full", SCAN, stacked, x)
    _, scanned = jax.jit(relevance(denoised(SCAN), plan, objective))(stacked, x)
    np.testing.assert_allclose(scanned["suffix"]["full"], maps["full"], atol=1e-4)
    some, _ = plan_of("layers=0;reduce=full", SCAN, stacked, x)
    with pytest.raises(RecordError, match="layers=all"):
        jax.eval_shape(relevance(denoised(SCAN), some, objective), stacked, x)


def test_records_are_stored_and_found_whole(found, tmp_path):
    plan, _, maps = found
    records = relevance_records({"suffix": maps}, plan)[1]
    assert set(records) == {
        "suffix.relevance",
        "suffix.relevance_map",
        "suffix.relevance_mass",
    }
    with RecordWriter(tmp_path / "run") as writer:
        writer.append(records, env_step=0)
    read = RecordReader(tmp_path / "run").record("suffix.relevance")
    np.testing.assert_array_equal(read.values[:], np.asarray(maps["full"])[1:])
    image = read.select(query="act", key="image")
    np.testing.assert_array_equal(
        image[0, ..., 0, :, :].ravel(), maps["full"][1, ..., 5, :4].ravel()
    )
    assert verify(tmp_path / "run").ok


def test_entropy_has_no_relevance_and_loops_must_say_their_step(params, x):
    plan, streams = plan_of("layers=all;reduce=entropy", LOOP, params, x)
    with pytest.raises(ConfigError, match="no relevance of the reduction 'entropy'"):
        relevance(denoised(LOOP), plan, objective)

    def silent(params, x):
        def step(x, _):
            return LOOP.apply({"params": params}, x, mutable=["attn"])

        return jax.lax.scan(step, x, None, length=STEPS)

    plan = resolve(Selection.parse("reduce=full"), streams)
    with pytest.raises(RecordError, match="does not say which one runs"):
        jax.eval_shape(functools.partial(relevance(silent, plan, objective), params), x)


if __name__ == "__main__":
    testing.main()
