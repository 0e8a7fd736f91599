from __future__ import annotations

import weakref

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest

from attn_jax.bridge import keymap
from attn_jax.bridge.keymap import Ignored, MisShaped, Rule, convert
from attn_jax.core.errors import CheckpointError
from tests import testing


def struct(*shape):
    return jax.ShapeDtypeStruct(shape, np.float32)


def arange(*shape):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


RULES = [
    Rule("layers.{i}.fc.weight", "block_{i}/fc/kernel", keymap.transpose),
    Rule("norm.weight", "norm/scale"),
    Ignored("unused.{i}", "not needed"),
]
TEMPLATE = {
    "block_0": {"fc": {"kernel": struct(3, 2)}},
    "block_1": {"fc": {"kernel": struct(3, 2)}},
    "norm": {"scale": struct(3)},
}
TENSORS = {
    "layers.0.fc.weight": arange(2, 3),
    "layers.1.fc.weight": arange(2, 3) + 10,
    "norm.weight": arange(3),
}


def test_a_lazy_source_is_let_go_before_the_next_tensor_is_read():
    alive: list[weakref.ref] = []

    class Lazy(dict):
        def __getitem__(self, name):
            assert all(reference() is None for reference in alive)
            array = super().__getitem__(name).copy()
            alive.append(weakref.ref(array))
            return array

    params, report = convert(RULES, Lazy(TENSORS), TEMPLATE)
    report.require()
    assert len(alive) == len(TENSORS)
    np.testing.assert_array_equal(params["norm"]["scale"], arange(3))


def test_every_tensor_goes_where_its_rule_says():
    params, report = convert(RULES, {**TENSORS, "unused.7": arange(1)}, TEMPLATE)
    assert report.complete
    report.require()
    np.testing.assert_array_equal(params["block_1"]["fc"]["kernel"], arange(2, 3).T + 10)
    np.testing.assert_array_equal(params["norm"]["scale"], arange(3))
    assert report.loaded["layers.0.fc.weight"] == ("block_0/fc/kernel",)
    assert report.ignored == {"unused.7": "not needed"}
    assert report.to_json()["complete"] is True


def test_dtype_is_that_of_the_template():
    tensors = {name: x.astype(np.float16) for name, x in TENSORS.items()}
    params, _ = convert(RULES, tensors, TEMPLATE)
    assert params["norm"]["scale"].dtype == np.float32


def test_missing_unexpected_and_mis_shaped_tensors_are_named_together():
    tensors = {
        "layers.0.fc.weight": arange(2, 4),
        "norm.weight": arange(3),
        "surprise": arange(1),
        "layers.2.fc.weight": arange(2, 3),
    }
    params, report = convert(RULES, tensors, TEMPLATE)
    assert report.missing == ("block_1/fc/kernel",)
    assert report.unexpected == ("surprise", "layers.2.fc.weight")
    assert report.mis_shaped == (
        MisShaped("layers.0.fc.weight", "block_0/fc/kernel", (4, 2), (3, 2)),
    )
    assert list(report.loaded) == ["norm.weight"]
    assert "block_0" not in params
    with pytest.raises(CheckpointError) as error:
        report.require("file.pth")
    for text in ("file.pth", "surprise", "block_1/fc/kernel", "(4, 2)", "(3, 2)"):
        assert text in str(error.value)


def test_layers_are_stacked_in_order_for_a_scanned_stack():
    rules = [Rule("layers.{i}.fc.weight", "blocks/fc/kernel", keymap.transpose)]
    tensors = {f"layers.{i}.fc.weight": arange(2, 3) + i for i in (10, 2, *range(2), *range(3, 10))}
    params, report = convert(rules, tensors, {"blocks": {"fc": {"kernel": struct(11, 3, 2)}}})
    assert report.complete
    np.testing.assert_array_equal(params["blocks"]["fc"]["kernel"][10], arange(2, 3).T + 10)
    np.testing.assert_array_equal(params["blocks"]["fc"]["kernel"][2], arange(2, 3).T + 2)


@pytest.mark.parametrize("numbers", [(0, 2), (0,), (0, 1, 2)])
def test_a_stack_with_other_layers_than_the_model_is_refused(numbers):
    rules = [Rule("layers.{i}.w", "blocks/w")]
    tensors = {f"layers.{i}.w": arange(3) for i in numbers}
    params, report = convert(rules, tensors, {"blocks": {"w": struct(2, 3)}})
    assert not report.complete
    assert not params


def test_split_heads_is_the_packed_projection_cut_in_parts():
    rng = np.random.default_rng(0)
    weight, bias, x = rng.normal(size=(24, 5)), rng.normal(size=24), rng.normal(size=5)
    packed = (weight @ x + bias).reshape(3, 2, 4)
    kernels = keymap.split_heads(3, 4)(weight)
    biases = keymap.split_heads(3, 4)(bias)
    for part in range(3):
        ours = np.einsum("i,ihd->hd", x, kernels[part]) + biases[part]
        np.testing.assert_allclose(ours, packed[part])


def test_merge_heads_is_the_output_projection():
    rng = np.random.default_rng(0)
    weight, x = rng.normal(size=(5, 8)), rng.normal(size=(2, 4))
    (kernel,) = keymap.merge_heads(4)(weight)
    np.testing.assert_allclose(np.einsum("hd,hdo->o", x, kernel), weight @ x.reshape(-1))


@hypothesis.given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))
def test_patch_projection_equals_the_convolution_on_one_patch(channels, patch, dim):
    rng = np.random.default_rng(channels * 100 + patch * 10 + dim)
    weight = rng.normal(size=(dim, channels, patch, patch))
    image = rng.normal(size=(channels, patch, patch))
    (kernel,) = keymap.patch_projection(weight)
    ours = image.transpose(1, 2, 0).reshape(-1) @ kernel
    np.testing.assert_allclose(ours, np.einsum("dcij,cij->d", weight, image), atol=1e-9)


def test_convolution_moves_channels_last():
    (kernel,) = keymap.convolution(arange(4, 3, 2, 5))
    assert kernel.shape == (2, 5, 3, 4)
    assert kernel[1, 4, 2, 3] == arange(4, 3, 2, 5)[3, 2, 1, 4]


def test_a_tensor_that_a_transform_cannot_take_is_mis_shaped():
    rules = [Rule("qkv", ("q", "k", "v"), keymap.split_heads(3, 4))]
    template = dict.fromkeys("qkv", struct(2, 2, 4))
    _, report = convert(rules, {"qkv": arange(25, 2)}, template)
    assert report.mis_shaped[0].got == (25, 2)
    assert not report.loaded


def test_text_counts_and_lists():
    _, report = convert(RULES, TENSORS, TEMPLATE)
    assert "loaded: 3" in report.text()
    assert "layers.0.fc.weight -> block_0/fc/kernel" in report.text()
    assert "layers.0.fc.weight" not in report.text(loaded=False)


if __name__ == "__main__":
    testing.main()
