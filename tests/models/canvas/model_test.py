"""The canvas model: sizes, masking, decode modes."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attn_jax.core.canvas import CanvasGeometry
from attn_jax.core.errors import ConfigError
from attn_jax.models import build
from attn_jax.models.canvas.model import CanvasConfig, CanvasModel, MaskPlan, layouts
from tests import testing

GEOMETRY = CanvasGeometry((16, 16), separator=8, patch=8)
TINY = CanvasConfig(
    GEOMETRY, dim=16, encoder_depth=1, decoder_dim=16, decoder_depth=2, head_dim=8, decode="full"
)


def random_params(config: CanvasConfig, seed: int = 0):
    """Parameters without a zero anywhere: tokens and biases start at zero and would hide errors."""
    shapes = jax.eval_shape(
        CanvasModel(config).init,
        jax.random.key(0),
        jax.ShapeDtypeStruct((1, *config.geometry.canvas_size, 3), jnp.float32),
    )["params"]
    leaves, tree = jax.tree.flatten(shapes)
    rng = np.random.default_rng(seed)
    return tree.unflatten(
        [jnp.asarray(rng.normal(0, 0.2, leaf.shape), jnp.float32) for leaf in leaves]
    )


def random_canvas(batch: int = 2, seed: int = 1, geometry: CanvasGeometry = GEOMETRY):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.random((batch, *geometry.canvas_size, 3)), jnp.float32)


def predict(config, params, canvas, plan=None, **kwargs):
    return CanvasModel(config).apply({"params": params}, canvas, plan, **kwargs)


def test_parameter_count_of_the_original_sizes():
    config = CanvasConfig(
        CanvasGeometry((224, 224)),
        dim=256,
        encoder_depth=5,
        decoder_dim=256,
        decoder_depth=5,
        head_dim=64,
        positions="compat",
        decode="full",
    )
    blank = jax.ShapeDtypeStruct((1, 224, 704, 3), jnp.float32)
    shapes = jax.eval_shape(CanvasModel(config).init, jax.random.key(0), blank)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 8_359_168


@pytest.mark.parametrize("positions", ["rotary", "grid", "compat", "learned"])
@pytest.mark.parametrize("architecture", ["encoder_decoder", "decoder_only"])
def test_target_pixels_have_no_influence(positions, architecture):
    config = dataclasses.replace(TINY, positions=positions, architecture=architecture)
    params, canvas = random_params(config), random_canvas()
    start, stop = GEOMETRY.frame_columns(2)
    changed = canvas.at[:, :, start:stop].set(0.123)
    out = predict(config, params, canvas)
    np.testing.assert_array_equal(out, predict(config, params, changed))
    assert out.shape == (2, 4, 192)
    assert float(jnp.std(out)) > 1e-3


def test_history_and_stripes_have_influence():
    params, canvas = random_params(TINY), random_canvas()
    out = predict(TINY, params, canvas)
    for start, _ in (GEOMETRY.frame_columns(0), GEOMETRY.separator_columns(1)):
        changed = canvas.at[:, 0, start].add(0.5)
        assert float(jnp.abs(predict(TINY, params, changed) - out).max()) > 1e-4


@pytest.mark.parametrize("positions", ["rotary", "grid"])
@pytest.mark.parametrize("architecture", ["encoder_decoder", "decoder_only"])
def test_last_layer_decoding_is_exact(positions, architecture):
    full = dataclasses.replace(TINY, positions=positions, architecture=architecture)
    last = dataclasses.replace(full, decode="last_layer")
    params, canvas = random_params(full), random_canvas()
    np.testing.assert_allclose(
        predict(last, params, canvas), predict(full, params, canvas), atol=1e-5
    )


def test_slot_decoding_is_another_function_of_the_same_parameters():
    slot = dataclasses.replace(TINY, decode="slot")
    params, canvas = random_params(TINY), random_canvas()
    shapes = jax.tree.map(jnp.shape, random_params(slot))
    assert shapes == jax.tree.map(jnp.shape, params)
    gap = jnp.abs(predict(slot, params, canvas) - predict(TINY, params, canvas)).max()
    assert float(gap) > 1e-3


def test_all_patches_are_in_raster_order():
    params, canvas = random_params(TINY), random_canvas()
    everything = predict(TINY, params, canvas, all_patches=True)
    assert everything.shape == (2, GEOMETRY.num_patches, 192)
    np.testing.assert_allclose(
        everything[:, GEOMETRY.target_patches()], predict(TINY, params, canvas), atol=1e-6
    )


@pytest.mark.parametrize("decode", ["full", "last_layer", "slot"])
def test_padding_of_a_plan_changes_nothing(decode):
    config = dataclasses.replace(TINY, decode=decode)
    params, canvas = random_params(config), random_canvas(batch=1)
    visible, masked = GEOMETRY.visible_patches(), GEOMETRY.target_patches()
    exact = predict(config, params, canvas)
    plan = MaskPlan(
        jnp.asarray([[*visible, masked[0], masked[1]]]),
        jnp.asarray([[True] * len(visible) + [False, False]]),
        jnp.asarray([[*masked, 0]]),
        jnp.asarray([[True] * len(masked) + [False]]),
    )
    padded = predict(config, params, canvas, plan)
    np.testing.assert_allclose(padded[:, : len(masked)], exact, atol=1e-5)


def plan_arrays(batch: int = 2) -> dict[str, np.ndarray]:
    """The plan that masks the target frame, as arrays that a test may spoil."""
    out = {}
    for name, index in (
        ("visible", GEOMETRY.visible_patches()),
        ("masked", GEOMETRY.target_patches()),
    ):
        out[name] = np.tile(np.asarray(index), (batch, 1))
        out[f"{name}_valid"] = np.ones((batch, len(index)), bool)
    return out


def plan_of(arrays) -> MaskPlan:
    """The plan as it is, past the checks that tests alone make when it is built."""
    plan = object.__new__(MaskPlan)
    for name, value in arrays.items():
        object.__setattr__(plan, name, value)
    return plan


def test_plan_of_the_target_frame_is_the_default():
    params, canvas = random_params(TINY), random_canvas()
    plan = plan_of(plan_arrays())
    for options in ({}, {"all_patches": True}):
        np.testing.assert_allclose(
            predict(TINY, params, canvas, plan, **options),
            predict(TINY, params, canvas, **options),
            atol=1e-6,
        )


@pytest.mark.parametrize(
    ("field", "place", "value", "said"),
    [
        ("masked", (1, 2), GEOMETRY.num_patches, "'masked': sample 1 names patch 16, the canvas"),
        ("visible", (0, 0), -1, "'visible': sample 0 names patch -1, the canvas has patches 0 to"),
        ("visible", (1, 0), 1, "mask plan: sample 1 names patch 1 2 times"),
        ("masked", (0, 1), 0, "mask plan: sample 0 names patch 0 2 times"),
    ],
)
def test_plans_with_wrong_patches_are_refused_before_jit(field, place, value, said):
    arrays = plan_arrays()
    assert arrays[field][place] != value
    arrays[field][place] = value
    with pytest.raises(ConfigError, match=said):
        predict(TINY, random_params(TINY), random_canvas(), plan_of(arrays))
    # Padding may name a patch again, but none that does not exist.
    arrays[f"{field}_valid"][place] = False
    if 0 <= value < GEOMETRY.num_patches:
        predict(TINY, random_params(TINY), random_canvas(), plan_of(arrays))
        with pytest.raises(ConfigError, match="2 times"):
            predict(TINY, random_params(TINY), random_canvas(), plan_of(arrays), all_patches=True)
    else:
        with pytest.raises(ConfigError, match=f"'{field}': sample"):
            predict(TINY, random_params(TINY), random_canvas(), plan_of(arrays))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    ("field", "change", "said"),
    [
        ("masked", lambda x: x[0], r"'masked': has shape \(4,\) for 2 canvases"),
        ("masked", lambda x: x[:1], r"'masked': has shape \(1, 4\) for 2 canvases"),
        ("visible", lambda x: x.astype(np.float32), "'visible': holds float32 instead of whole"),
        ("masked_valid", lambda x: x.astype(np.int32), "'masked_valid': holds int32 instead of"),
        ("visible_valid", lambda x: x[:, 1:], r"'visible_valid': has shape \(2, 11\), visible has"),
    ],
)
def test_plans_of_a_wrong_shape_or_dtype_are_refused_while_tracing(field, change, said, compiled):
    arrays = plan_arrays()
    arrays[field] = change(arrays[field])
    params, canvas = random_params(TINY), random_canvas()

    def run(arrays):
        return predict(TINY, params, canvas, plan_of(arrays))

    with pytest.raises(ConfigError, match=said):
        (jax.jit(run) if compiled else run)(arrays)


def test_plans_that_paint_nothing_or_not_everything_are_refused():
    params, canvas, arrays = random_params(TINY), random_canvas(), plan_arrays()
    nothing = arrays | {name: arrays[name][:, :0] for name in ("masked", "masked_valid")}
    with pytest.raises(ConfigError, match="'masked': names no patch to paint"):
        predict(TINY, params, canvas, plan_of(nothing))
    some = arrays | {name: arrays[name][:, 1:] for name in ("visible", "visible_valid")}
    predict(TINY, params, canvas, plan_of(some))
    with pytest.raises(ConfigError, match="names 15 of 16 patches, padding included"):
        jax.jit(lambda p: predict(TINY, params, canvas, plan_of(p), all_patches=True))(some)


@pytest.mark.parametrize("decode", ["full", "slot"])
def test_layouts_describe_the_sown_maps(decode):
    config = dataclasses.replace(TINY, decode=decode)
    _, sown = CanvasModel(config).apply(
        {"params": random_params(config)}, random_canvas(), mutable=["attn"]
    )
    described = layouts(config)
    for stream, module in (("encoder", "encoder"), ("decoder", "decoder")):
        maps = sown["attn"][module]["block_0"]["attention"]["probs"]
        layout = described[stream]
        assert maps.shape[2:] == (
            len(layout.axis_tokens("query")),
            len(layout.axis_tokens("key")),
        )
        np.testing.assert_allclose(maps.sum(-1), 1.0, atol=1e-5)


def test_bad_sizes_and_choices_are_refused():
    with pytest.raises(ConfigError, match=r"no positions 'polar'.*rotary"):
        dataclasses.replace(TINY, positions="polar")
    with pytest.raises(ConfigError, match="dim 18"):
        dataclasses.replace(TINY, dim=18)
    for field, value in (
        ("dim", -32),
        ("encoder_depth", 0),
        ("decoder_depth", -1),
        ("head_dim", 0),
        ("mlp_ratio", 0.0),
        ("mlp_ratio", float("nan")),
        ("mlp_ratio", float("inf")),
    ):
        with pytest.raises(ConfigError, match=f"{field} is {value}"):
            dataclasses.replace(TINY, **{field: value})
    with pytest.raises(ConfigError, match="slot"):
        dataclasses.replace(TINY, architecture="decoder_only", decode="slot")
    with pytest.raises(ConfigError, match=r"canvas has shape \(16, 16, 3\), this model needs"):
        predict(TINY, random_params(TINY), jnp.zeros((1, 16, 16, 3)))


def test_config_round_trip_and_registry():
    data = TINY.to_json()
    assert CanvasConfig.from_json(data) == TINY
    assert build("canvas", data) == CanvasModel(TINY)
    with pytest.raises(ConfigError, match="unknown model family 'resnet'"):
        build("resnet", {})
    with pytest.raises(ConfigError, match="malformed"):
        CanvasConfig.from_json({**data, "wings": 2})


if __name__ == "__main__":
    testing.main()
