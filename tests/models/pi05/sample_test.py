from __future__ import annotations

import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attn_jax.core import taps
from attn_jax.core.errors import ConfigError
from attn_jax.models.pi05 import flow_matching_errors, sample
from attn_jax.models.pi05.layout import layouts
from attn_jax.nn import attention, fast_attention, gemma
from attn_jax.probe.capture import SelectionTap, capture, discover, to_records
from attn_jax.probe.select import Selection, resolve
from tests import testing
from tests.models.pi05 import small

LAST = small.SIZES.depth - 1
act = jax.jit(functools.partial(sample, small.CONFIG))
watched = functools.partial(sample, small.CONFIG, watch=True)


def actions(params, inputs=None, noise=None):
    inputs = small.inputs() if inputs is None else inputs
    noise = small.noise() if noise is None else noise
    return np.asarray(act(params, inputs, noise)[0].actions)


@functools.cache
def plain_actions():
    return actions(small.params())


def plan_of(text: str):
    inputs = small.inputs()
    made = layouts(
        small.CONFIG,
        small.CONFIG.cameras,
        *(np.asarray(x)[0] for x in (inputs.image_mask, inputs.tokens, inputs.token_mask)),
    )
    streams = discover(watched, made, small.params(), inputs, small.noise())
    return resolve(Selection.parse(text), streams)


def test_times_run_from_1_to_a_tenth_and_the_steps_add_up():
    result, sown = act(small.params(), small.inputs(), small.noise())
    expected = np.float32([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    np.testing.assert_array_equal(np.asarray(result.time), expected)
    assert sown == {}
    np.testing.assert_array_equal(result.x_t[0], small.noise())
    steps = np.concatenate([result.x_t[1:], result.actions[None]]) - np.asarray(result.x_t)
    np.testing.assert_allclose(steps, np.asarray(result.v_t) * np.float32(-0.1), atol=1e-5)


@pytest.mark.parametrize(
    "path",
    [
        f"backbone/layer_{LAST}/query/kernel",
        f"backbone/layer_{LAST}/out/kernel",
        f"backbone/layer_{LAST}/gate/kernel",
        f"backbone/layer_{LAST}/up/kernel",
        f"backbone/layer_{LAST}/down/kernel",
        f"backbone/layer_{LAST}/mlp_norm/scale",
        "backbone/final_norm/scale",
    ],
)
def test_the_last_prefix_layer_matters_by_keys_and_values_only(path):
    params = small.flat_params()
    params[path] = params[path] + 1.0
    np.testing.assert_array_equal(actions(small.nested(params)), plain_actions())


@pytest.mark.parametrize(
    "path",
    [
        f"backbone/layer_{LAST}/key/kernel",
        f"backbone/layer_{LAST}/value/kernel",
        f"backbone/layer_{LAST - 1}/query/kernel",
        f"expert/layer_{LAST}/down/kernel",
        "vision/position_embedding",
        "time_in/bias",
    ],
)
def test_other_parameters_matter(path):
    params = small.flat_params()
    params[path] = params[path] + np.linspace(0, 1, params[path].size).reshape(params[path].shape)
    assert np.abs(actions(small.nested(params)) - plain_actions()).max() > 1e-4


def test_pixels_of_dummies_and_ids_of_padding_change_nothing():
    inputs = small.inputs()
    other = inputs.replace(
        images=inputs.images.at[:, -1].set(0.5),
        tokens=jnp.where(inputs.token_mask, inputs.tokens, 99999),
    )
    np.testing.assert_array_equal(actions(small.params(), other), plain_actions())
    seen = inputs.replace(images=inputs.images.at[:, 0].set(0.5))
    assert np.abs(actions(small.params(), seen) - plain_actions()).max() > 1e-4


def test_a_sample_does_not_depend_on_its_batch():
    inputs, noise = small.inputs(), small.noise()
    for item in range(2):
        one = jax.tree.map(lambda x, item=item: x[item : item + 1], inputs)
        found = actions(small.params(), one, noise[item : item + 1])
        np.testing.assert_allclose(found[0], plain_actions()[item], atol=1e-5)


def test_without_modulation_time_does_not_matter():
    params = {
        path: np.zeros_like(value) if path.startswith("expert") and "dense" in path else value
        for path, value in small.flat_params().items()
    }
    params["time_in/kernel"] = params["time_in/kernel"] * 2
    one = actions(small.nested(params))
    params["time_in/kernel"] = -params["time_in/kernel"]
    np.testing.assert_array_equal(actions(small.nested(params)), one)


def test_watching_changes_no_action_and_every_row_is_a_distribution():
    inputs = small.inputs()
    result, sown = jax.jit(watched)(small.params(), inputs, small.noise())
    np.testing.assert_allclose(result.actions, plain_actions(), atol=1e-6)
    valid = np.asarray(result.prefix_valid)
    for layer in range(small.SIZES.depth):
        prefix = np.asarray(sown["prefix"]["attn"]["backbone"][f"layer_{layer}"]["probs"])
        suffix = np.asarray(sown["suffix"]["attn"]["expert"][f"layer_{layer}"]["probs"])
        assert suffix.shape == (10, 2, 4, 4, valid.shape[1] + 4)
        np.testing.assert_allclose(suffix.sum(-1), 1.0, atol=1e-5)
        np.testing.assert_allclose(prefix.sum(-1), 1.0, atol=1e-5)
        for item in range(2):
            assert not prefix[item][:, valid[item]][..., ~valid[item]].any()
            assert not suffix[:, item][..., : valid.shape[1]][..., ~valid[item]].any()
            uniform = np.float32(1 / valid.shape[1])
            np.testing.assert_allclose(prefix[item][:, ~valid[item]], uniform, rtol=1e-6)
        assert np.all(suffix[..., valid.shape[1] :] > 0)  # every action looks at every action


def test_capture_keeps_what_was_selected_and_nothing_else():
    plan = plan_of("streams=suffix;layers=1;denoise=0,9;reduce=full;dtype=float32")
    run = jax.jit(capture(watched, plan))
    result, maps = run(small.params(), small.inputs(), small.noise())
    np.testing.assert_allclose(result.actions, plain_actions(), atol=1e-6)
    _, sown = jax.jit(watched)(small.params(), small.inputs(), small.noise())
    whole = sown["suffix"]["attn"]["expert"]["layer_1"]["probs"]
    assert list(maps) == ["suffix"]
    found = np.asarray(maps["suffix"]["full"])  # batch, denoise, layer, head, query, key
    # Two programs, fused differently, ten steps on: the tolerance is the gate of attention.
    np.testing.assert_allclose(found[:, :, 0], np.asarray(whole)[[0, 9]].swapaxes(0, 1), atol=2e-6)
    record = to_records(maps, plan)[1]["suffix"]
    assert record.select(query="action", key="image/wrist").shape == (1, 2, 1, 4, 4, 2, 2)


def test_both_streams_are_captured_and_masses_sum_to_one():
    plan = plan_of("streams=prefix,suffix;layers=all;reduce=group_mass")
    _, maps = jax.jit(capture(watched, plan))(small.params(), small.inputs(), small.noise())
    assert maps["prefix"]["group_mass"].shape[:3] == (2, 1, 2)
    assert maps["suffix"]["group_mass"].shape[:3] == (2, 10, 2)
    np.testing.assert_allclose(maps["suffix"]["group_mass"].sum(-1), 1.0, atol=1e-5)


def test_a_program_without_capture_has_no_output_of_it():
    def outputs(fn):
        return len(jax.make_jaxpr(fn)(small.params(), small.inputs(), small.noise()).out_avals)

    assert outputs(functools.partial(sample, small.CONFIG)) == 5
    assert outputs(watched) == 5 + 2 * small.SIZES.depth + small.SIZES.vision_depth


def bare_attend(module, q, k, v, *, site, mask=None, scale=None, logits_dtype=None):
    """`attention.attend` as it would be if there were neither taps nor sowing."""
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    if mask is None and logits_dtype is None and q.shape[2] == k.shape[2]:
        return fast_attention.attend(q, k, v, factor)
    logits = attention._grouped_logits(q, k, factor, logits_dtype).astype(jnp.float32)
    if mask is not None:
        logits = jnp.where(mask, logits, attention.MASKED_LOGIT)
    return attention._grouped_values(jax.nn.softmax(logits, axis=-1).astype(v.dtype), v)


def test_the_program_without_capture_is_that_of_a_model_without_probes():
    arguments = small.params(), small.inputs(), small.noise()

    def lowered(**options):
        def program(params, inputs, noise):  # a new function at every call: never traced before
            return sample(small.CONFIG, params, inputs, noise, **options)[0]

        return jax.jit(program).lower(*arguments).as_text()

    with taps.tapped(SelectionTap(plan_of("streams=suffix;reduce=full"))):
        held_open = lowered()
    with (
        mock.patch.object(attention, "attend", bare_attend),
        mock.patch.object(gemma, "attend", bare_attend),
    ):
        bare = lowered()
    assert lowered() == bare and held_open == bare


def test_noise_that_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="expected"):
        sample(small.CONFIG, small.params(), small.inputs(), jnp.zeros((2, 4, 7)))


def test_the_training_error_is_that_of_the_velocity_of_sampling():
    """One training pass against the first step of sampling, which is at time 1."""
    data = jnp.asarray(np.random.default_rng(4).standard_normal((2, 4, 5)), jnp.float32)
    result, _ = act(small.params(), small.inputs(), small.noise())
    errors = jax.jit(functools.partial(flow_matching_errors, small.CONFIG))(
        small.params(), small.inputs(), data, small.noise(), jnp.ones(2)
    )
    expected = (small.noise()[..., :5] - data - result.v_t[0][..., :5]) ** 2
    np.testing.assert_allclose(errors, expected, rtol=1e-4, atol=1e-5)


def test_training_gives_no_gradient_to_what_cannot_matter_and_remat_changes_nothing():
    data = jnp.ones((2, 4, 5))

    def loss(params, remat):
        return flow_matching_errors(
            small.CONFIG,
            params,
            small.inputs(),
            data,
            small.noise(),
            jnp.float32([0.3, 0.8]),
            remat=remat,
        ).mean()

    plain = jax.jit(jax.grad(functools.partial(loss, remat=False)))(small.params())
    again = jax.jit(jax.grad(functools.partial(loss, remat=True)))(small.params())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4, rtol=1e-3), plain, again)
    last, first = plain["backbone"][f"layer_{LAST}"], plain["backbone"]["layer_0"]
    for name in ("query", "out", "gate", "up", "down"):
        assert not np.any(last[name]["kernel"]) and np.any(first[name]["kernel"])
    assert np.any(last["key"]["kernel"]) and np.any(last["value"]["kernel"])


def test_more_action_dimensions_than_the_model_has_are_refused():
    with pytest.raises(ConfigError, match="9 dimensions"):
        flow_matching_errors(
            small.CONFIG,
            small.params(),
            small.inputs(),
            jnp.zeros((2, 4, 9)),
            small.noise(),
            jnp.ones(2),
        )


if __name__ == "__main__":
    testing.main()
