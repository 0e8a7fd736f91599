"""Our Pi0.5 against LeRobot's PI05Policy, both with the weights of one saved checkpoint."""

from __future__ import annotations

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attn_jax.bridge.checkpoint_folder import open_checkpoint
from attn_jax.bridge.pi05 import read_pi05
from attn_jax.bridge.pi05_table import EMBEDDING, LM_HEAD
from attn_jax.bridge.pi05_write import write_pi05
from attn_jax.bridge.safetensors_reader import open_safetensors
from attn_jax.bridge.text_head import stored_heads
from attn_jax.core import taps
from attn_jax.models.pi05 import Architecture, Pi05, Pi05Inputs, flow_matching_errors, sample
from attn_jax.models.pi05.compact import compact
from tests import testing
from tests.models.pi05 import lerobot_reference as reference
from tests.models.pi05.lerobot_inputs import our_inputs
from tests.models.pi05.lerobot_reference import SMALL, Case

testing.require_module("torch", "lerobot")

pytestmark = pytest.mark.bridge

GQA = Architecture(48, 96, 24, 48, 2, 4, 2, 12, 300, 32, 2, 2, 64, 42)
CASES = {
    "mqa": Case(),
    "mqa_batch": Case(lengths=(17, 9), empty_cameras=0, steps=4, seed=3),
    "gqa": Case(GQA, cameras=3, empty_cameras=0, lengths=(5, 24), chunk=6, steps=5, raw=(42, 42)),
    "one_camera": Case(cameras=1, empty_cameras=2, lengths=(24, 1, 7), steps=3, seed=5),
}
BFLOAT16 = {
    "bfloat16_mqa": Case(lengths=(17, 9), dtype="bfloat16"),
    "bfloat16_gqa": Case(GQA, dtype="bfloat16", lengths=(12,), raw=(42, 42), seed=7),
}
# Three camera slots of 256 tokens and a prompt of 200: 968 prefix tokens, as at full size.
LONG = {
    f"long_{dtype}": Case(
        dataclasses.replace(SMALL, image_size=224, depth=2),
        dtype=dtype,
        lengths=(144,),
        prompt=200,
        chunk=50,
        raw=(224, 224),
        seed=11,
    )
    for dtype in ("float32", "bfloat16")
}
ALL = CASES | BFLOAT16 | LONG


def _inputs(case: Case, batch) -> Pi05Inputs:
    return jax.tree.map(jnp.asarray, our_inputs(case, batch))


def _maps(sown, stack: str, depth: int) -> np.ndarray:
    """Sown probabilities with the layers stacked in front."""
    layers = sown[taps.COLLECTION][stack]
    return np.stack([np.asarray(layers[f"layer_{i}"][taps.PROBS]) for i in range(depth)])


@pytest.fixture(scope="module")
def compare(tmp_path_factory):
    """Name of a case -> (case, batch, LeRobot's results, our checkpoint, folder); each once."""
    return functools.cache(lambda name: _compare(ALL[name], tmp_path_factory.mktemp(name)))


def _compare(case: Case, folder):
    policy = reference.make_policy(case)
    reference.save(policy, case, folder)
    batch = reference.make_batch(case)
    expected = reference.run(policy, case, batch)
    checkpoint = read_pi05(folder, architecture=case.sizes)
    checkpoint.report.require(folder)
    return case, batch, expected, checkpoint, folder


@pytest.fixture(scope="module", params=CASES)
def compared(request, compare):
    return compare(request.param)[:4]


@pytest.fixture(scope="module", params=BFLOAT16)
def compared_bfloat16(request, compare):
    return compare(request.param)[:4]


def _close(found, expected, tolerance: float) -> None:
    np.testing.assert_allclose(np.asarray(found, np.float32), expected, rtol=0, atol=tolerance)


def test_a_whole_prediction_in_float32(compared):
    case, batch, expected, checkpoint = compared
    inputs = _inputs(case, batch)
    run = jax.jit(functools.partial(sample, checkpoint.config, watch=True))
    result, sown = run(checkpoint.params, inputs, batch["noise"])
    assert np.ptp(expected.actions) > 1.0  # otherwise the tolerances below mean nothing
    assert expected.suffix.max() > 3 * expected.suffix.mean()
    _close(result.actions[..., : case.action_dim], expected.actions, 1e-5)
    _close(result.v_t, expected.velocity, 1e-5)
    np.testing.assert_array_equal(result.prefix_valid, expected.prefix_valid)
    _close(_maps(sown["prefix"], "backbone", case.sizes.depth), expected.prefix, 2e-6)
    suffix = _maps(sown["suffix"], "expert", case.sizes.depth).swapaxes(0, 1)
    _close(suffix, expected.suffix, 2e-6)


def test_the_key_value_cache_in_float32(compared):
    case, batch, expected, checkpoint = compared
    _close_cache(checkpoint, _inputs(case, batch), expected)


def _close_cache(checkpoint, inputs, expected) -> None:
    encode = jax.jit(functools.partial(Pi05(checkpoint.config).apply, method="encode"))
    cache, _ = encode({"params": checkpoint.params}, inputs)
    _close(np.stack([keys for keys, _ in cache.layers]), expected.keys, 1e-5)
    _close(np.stack([values for _, values in cache.layers]), expected.values, 1e-5)


def test_the_training_error_of_every_element(compared):
    case, batch, expected, checkpoint = compared
    if not expected.errors.size:
        assert case.sizes.heads != 8  # upstream's joint pass knows 8 heads only
        return
    errors = jax.jit(functools.partial(flow_matching_errors, checkpoint.config))(
        checkpoint.params, _inputs(case, batch), batch["actions"], batch["noise"], batch["time"]
    )
    # Elements reach 40, where neighbouring float32 numbers are 4e-6 apart.
    np.testing.assert_allclose(
        errors, expected.errors[..., : case.action_dim], rtol=1e-6, atol=1e-5
    )


def test_a_compact_prediction_is_the_same(compared):
    case, batch, expected, checkpoint = compared
    inputs, kept = compact(checkpoint.config, _inputs(case, batch))
    assert inputs.images.shape[1] == case.cameras
    assert inputs.tokens.shape[1] == max(case.lengths)
    run = jax.jit(functools.partial(sample, checkpoint.config, watch=True))
    result, sown = run(checkpoint.params, inputs, batch["noise"])
    _close(result.actions[..., : case.action_dim], expected.actions, 1e-5)
    prefix = kept.expand_prefix(_maps(sown["prefix"], "backbone", case.sizes.depth))
    suffix = kept.expand_suffix(_maps(sown["suffix"], "expert", case.sizes.depth))
    _close(prefix, expected.prefix, 2e-6)
    _close(suffix.swapaxes(0, 1), expected.suffix, 2e-6)


def test_a_whole_prediction_in_bfloat16(compared_bfloat16):
    case, batch, expected, checkpoint = compared_bfloat16
    assert checkpoint.config.precision == "bfloat16_lerobot"
    run = jax.jit(functools.partial(sample, checkpoint.config, watch=True))
    result, sown = run(checkpoint.params, _inputs(case, batch), batch["noise"])
    _close(result.actions[..., : case.action_dim], expected.actions, 2e-2)
    _close(_maps(sown["prefix"], "backbone", case.sizes.depth), expected.prefix, 2e-2)
    suffix = _maps(sown["suffix"], "expert", case.sizes.depth).swapaxes(0, 1)
    _close(suffix, expected.suffix, 2e-2)


def test_the_openpi_mode_stays_near(compared_bfloat16):
    case, batch, expected, checkpoint = compared_bfloat16
    config = dataclasses.replace(checkpoint.config, precision="bfloat16_openpi")
    run = jax.jit(functools.partial(sample, config))
    result, _ = run(checkpoint.params, _inputs(case, batch), batch["noise"])
    _close(result.actions[..., : case.action_dim], expected.actions, 0.2)


@pytest.mark.slow
def test_a_long_prediction_in_float32(compare):
    case, batch, expected, checkpoint, _ = compare("long_float32")
    inputs = _inputs(case, batch)
    run = jax.jit(functools.partial(sample, checkpoint.config, watch=True))
    result, sown = run(checkpoint.params, inputs, batch["noise"])
    assert expected.prefix.shape[-1] == 968
    _close(result.actions[..., : case.action_dim], expected.actions, 1e-5)
    suffix = _maps(sown["suffix"], "expert", case.sizes.depth).swapaxes(0, 1)
    _close(suffix, expected.suffix, 2e-6)
    _close(_maps(sown["prefix"], "backbone", case.sizes.depth), expected.prefix, 2e-6)
    _close_cache(checkpoint, inputs, expected)


@pytest.mark.slow
def test_a_long_prediction_in_bfloat16_needs_the_rounded_rope_table(compare):
    case, batch, expected, checkpoint, _ = compare("long_bfloat16")
    inputs = _inputs(case, batch)

    def key_error(config) -> float:
        encode = jax.jit(functools.partial(Pi05(config).apply, method="encode"))
        cache, _ = encode({"params": checkpoint.params}, inputs)
        found = np.asarray(cache.layers[0][0], np.float32)
        return float(np.max(np.abs(found - expected.keys[0])))

    plain = dataclasses.replace(checkpoint.config, rope_table="float32")
    assert key_error(checkpoint.config) < 0.1 < key_error(plain)
    run = jax.jit(functools.partial(sample, checkpoint.config))
    result, _ = run(checkpoint.params, inputs, batch["noise"])
    _close(result.actions[..., : case.action_dim], expected.actions, 2e-2)


@pytest.mark.parametrize("name", ["mqa", "bfloat16_mqa"])
def test_what_we_write_lerobot_loads(name, compare, tmp_path):
    case, batch, expected, checkpoint, folder = compare(name)
    opened = open_checkpoint(folder)
    heads = stored_heads(dataclasses.replace(opened, config=checkpoint.config))
    write_pi05(
        tmp_path / "ours",
        checkpoint.config,
        checkpoint.params,
        settings=checkpoint.settings,
        heads=heads,
    )
    policy, printed = reference.load(case, tmp_path / "ours")
    assert "All keys loaded successfully" in printed and "Warning" not in printed, printed
    again = reference.run(policy, case, batch)
    np.testing.assert_array_equal(again.actions, expected.actions)
    theirs = open_safetensors(folder / "model.safetensors")
    ours = open_safetensors(tmp_path / "ours" / "model.safetensors")
    assert set(ours) == set(theirs)
    assert not np.array_equal(theirs[LM_HEAD], theirs[EMBEDDING])  # not tied
    for tensor in theirs:
        assert ours.dtype(tensor) == theirs.dtype(tensor), tensor
        np.testing.assert_array_equal(ours[tensor], theirs[tensor], err_msg=tensor)


def test_a_folder_written_without_a_model_to_follow(compare, tmp_path):
    case, batch, expected, checkpoint, _ = compare("mqa")
    write_pi05(tmp_path / "ours", checkpoint.config, checkpoint.params, state_dim=8)
    settings = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert settings["input_features"]["observation.state"]["shape"] == [8]
    policy, _ = reference.load(case, tmp_path / "ours")
    again = reference.run(policy, case, batch)
    np.testing.assert_array_equal(again.actions, expected.actions)
    assert read_pi05(tmp_path / "ours").config == checkpoint.config


if __name__ == "__main__":
    testing.main()
