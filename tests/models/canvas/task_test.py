"""The canvas task: masks, gradients, what counts."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_jax.core.errors import ConfigError
from attn_jax.models.canvas.losses import LossConfig
from attn_jax.models.canvas.task import CanvasTask, sample_plan
from tests import testing
from tests.models.canvas.model_test import GEOMETRY, TINY


def batch_of(seed: int = 0, size: int = 4):
    rng = np.random.default_rng(seed)
    canvas = rng.integers(0, 256, (size, *GEOMETRY.canvas_size, 3), np.uint8)
    return {"canvas": canvas, "index": np.arange(size, dtype=np.int32)}


def test_a_few_steps_of_descent_lower_the_loss():
    task = CanvasTask(TINY)
    params, batch = task.init(jax.random.key(0)), batch_of()
    grad = jax.jit(jax.value_and_grad(task.loss, has_aux=True))
    first = None
    for _ in range(30):
        (loss, _), grads = grad(params, batch, jax.random.key(0))
        first = loss if first is None else first
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
    assert float(loss) < 0.7 * float(first)


@given(st.integers(0, 1000), st.sampled_from([(0.25, 1.0), (0.5, 0.75), (0.5, 0.5)]))
def test_sampled_plans_mask_what_they_say(seed, ratio):
    plan = sample_plan(jax.random.key(seed), 3, GEOMETRY, ratio)
    target = set(GEOMETRY.target_patches().tolist())
    for row in range(3):
        visible = np.asarray(plan.visible[row])[np.asarray(plan.visible_valid[row])].tolist()
        masked = np.asarray(plan.masked[row])[np.asarray(plan.masked_valid[row])].tolist()
        assert sorted(visible + masked) == list(range(GEOMETRY.num_patches))
        assert set(masked) <= target
        assert int(4 * ratio[0]) <= len(masked) <= int(4 * ratio[1])


def test_partial_masks_train_and_full_ratio_equals_no_plan():
    batch = batch_of()
    params = CanvasTask(TINY).init(jax.random.key(0))
    whole, _ = CanvasTask(TINY).loss(params, batch, jax.random.key(1))
    partly, aux = CanvasTask(TINY, mask_ratio=(0.5, 1.0)).loss(params, batch, jax.random.key(1))
    assert np.isfinite(partly)
    assert float(whole) != float(partly)
    assert aux.per_sample.shape == (4,)
    plan = sample_plan(jax.random.key(3), 4, GEOMETRY, (1.0, 1.0))
    assert bool(plan.masked_valid.all())


def test_extra_loss_counts_in_the_objective_alone():
    def extra(prediction, target):
        return jnp.asarray(2.0)

    params, batch = CanvasTask(TINY).init(jax.random.key(0)), batch_of()
    plain, plain_aux = CanvasTask(TINY).loss(params, batch, jax.random.key(0))
    task = CanvasTask(TINY, extra_loss=extra, extra_weight=0.5)
    loss, aux = task.loss(params, batch, jax.random.key(0))
    np.testing.assert_allclose(loss, plain + 1.0, rtol=1e-6)
    np.testing.assert_allclose(aux.metrics["plain"], plain_aux.metrics["plain"])


def test_changed_pixels_are_found_across_the_canvas():
    canvas = np.zeros((1, *GEOMETRY.canvas_size, 3), np.uint8)
    for slot in (1, 2):
        start, _ = GEOMETRY.frame_columns(slot)
        canvas[0, 3, start + 2] = 255
    params = CanvasTask(TINY).init(jax.random.key(0))
    for moved, same in ((False, True), (True, False)):
        if moved:
            start, _ = GEOMETRY.frame_columns(2)
            canvas[0, 3, start + 2], canvas[0, 3, start + 5] = 0, 255
        losses = [
            CanvasTask(TINY, LossConfig(weighting="changed", foreground=weight)).loss(
                params, {"canvas": canvas}, jax.random.key(0)
            )[0]
            for weight in (1.0, 50.0)
        ]
        assert (float(losses[0]) == float(losses[1])) is same


def test_mask_ratio_must_fit_the_grid():
    with pytest.raises(ConfigError, match="masks none of the 4 target patches"):
        CanvasTask(TINY, mask_ratio=(0.1, 1.0))
    with pytest.raises(ConfigError, match="sees whole frames"):
        CanvasTask(TINY, mask_ratio=(0.5, 1.0), extra_loss=lambda p, t: p.sum())
    for weight in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=f"weight of the extra loss is {weight}"):
            CanvasTask(TINY, extra_weight=weight)
    with pytest.raises(ConfigError, match="mask_ratio must satisfy"):
        CanvasTask(TINY, mask_ratio=(0.9, 0.5))


def test_bfloat16_stays_close():
    batch = batch_of()
    params = CanvasTask(TINY).init(jax.random.key(0))
    exact, _ = CanvasTask(TINY).loss(params, batch, jax.random.key(0))
    rounded, _ = dataclasses.replace(CanvasTask(TINY), dtype=jnp.bfloat16).loss(
        params, batch, jax.random.key(0)
    )
    assert rounded.dtype == jnp.float32
    np.testing.assert_allclose(rounded, exact, rtol=0.05)


@pytest.mark.parametrize(
    ("positions", "decode"), [("rotary", "last_layer"), ("learned", "slot"), ("compat", "full")]
)
def test_positions_are_added_in_bfloat16(positions, decode):
    config = dataclasses.replace(TINY, positions=positions, decode=decode)
    task = CanvasTask(config, dtype=jnp.bfloat16)
    # Adding a float32 table in place warns while tracing, which is an error in tests.
    params = jax.eval_shape(task.init, jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


if __name__ == "__main__":
    testing.main()
