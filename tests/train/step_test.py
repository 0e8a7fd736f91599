"""One step: golden numbers, micro-batches, precision, guard, keys, lowering."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attn_jax.core.errors import ConfigError
from attn_jax.train.optim import OptimConfig
from attn_jax.train.step import (
    CompiledStep,
    abstract_state,
    init_state,
    make_train_step,
    nonfinite_report,
)
from attn_jax.train.task import Aux
from tests import testing
from tests.train import toy

PLAIN = OptimConfig(learning_rate=0.1, weight_decay=0.0, clip_norm=None)
QUIET_TASK = toy.ToyTask(noise=0.0)


def batch():
    return next(toy.ToyData())


def assert_close(first, second, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), first, second)


class Line:
    """y = w x: gradients that fit on a napkin."""

    evaluations: ClassVar = {}

    def init(self, rng):
        return {"w": jnp.array([2.0])}

    def loss(self, params, batch, rng):
        error = jnp.square(params["w"][0] * batch["x"] - batch["y"])
        return jnp.mean(error), Aux(metrics={"w": params["w"][0]}, per_sample=error)


def test_one_step_by_hand():
    line = {"x": np.array([1.0, 2.0], np.float32), "y": np.array([1.0, 1.0], np.float32)}
    optim = OptimConfig(learning_rate=0.1, weight_decay=0.5, clip_norm=None, ema=0.5)
    state, out = make_train_step(Line(), optim)(init_state(Line(), optim, 0), line)
    # Errors 1 and 3: loss (1 + 9) / 2, gradient 2 * (1 * 1 + 3 * 2) / 2 = 7.
    assert float(out.loss) == pytest.approx(5.0)
    assert float(out.grad_norm) == pytest.approx(7.0)
    np.testing.assert_allclose(out.per_sample, [1.0, 9.0])
    assert float(out.metrics["w"]) == 2.0
    assert float(out.learning_rate) == pytest.approx(0.1)
    # The first step of Adam is the sign of the gradient; decay adds 0.5 * 2.
    after = 2.0 - 0.1 * (1.0 + 0.5 * 2.0)
    assert float(state.params["w"][0]) == pytest.approx(after, rel=1e-6)
    assert float(state.ema["w"][0]) == pytest.approx(2.0 + 0.9 * (after - 2.0), rel=1e-6)
    assert (int(state.step), int(state.skipped)) == (1, 0)


def test_golden_step():
    """Numbers of this code on the toy.

    When you change what a step computes on purpose, put the new numbers here and say so in the
    changelog: runs can then not be continued across the change.
    """
    state = init_state(toy.ToyTask(), toy.OPTIM, 0)
    step = make_train_step(toy.ToyTask(), toy.OPTIM)
    data = toy.ToyData()
    losses = []
    for _ in range(3):
        state, out = step(state, next(data))
        losses.append(float(out.loss))
    total = float(sum(jnp.sum(jnp.abs(x)) for x in jax.tree.leaves(state.params)))
    assert losses == pytest.approx(GOLDEN_LOSSES, rel=1e-5)
    assert total == pytest.approx(GOLDEN_TOTAL, rel=1e-5)


GOLDEN_LOSSES = [0.4916432, 0.1288856, 0.0887669]
GOLDEN_TOTAL = 12.729359


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_micro_batches_equal_one_batch(parts):
    whole_state, whole = make_train_step(QUIET_TASK, PLAIN)(
        init_state(QUIET_TASK, PLAIN, 0), batch()
    )
    optim = dataclasses.replace(PLAIN, micro_batches=parts)
    state, out = make_train_step(QUIET_TASK, optim)(init_state(QUIET_TASK, optim, 0), batch())
    assert_close(whole_state.params, state.params, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(whole.per_sample, out.per_sample, rtol=1e-5)  # and in this order
    np.testing.assert_allclose(whole.loss, out.loss, rtol=1e-5)
    np.testing.assert_allclose(whole.grad_norm, out.grad_norm, rtol=1e-5)
    np.testing.assert_allclose(whole.metrics["mse"], out.metrics["mse"], rtol=1e-5)


def test_micro_batches_must_divide():
    optim = dataclasses.replace(PLAIN, micro_batches=3)
    with pytest.raises(ConfigError, match=r"'index'.*3 parts.*multiple of micro_batches"):
        make_train_step(QUIET_TASK, optim)(init_state(QUIET_TASK, optim, 0), batch())


def test_bfloat16_computes_in_bfloat16_and_keeps_float32():
    seen = {}

    class Task(toy.ToyTask):
        def loss(self, params, batch, rng):
            seen["params"] = params["out"]["kernel"].dtype
            seen["x"] = batch["x"].dtype
            seen["index"] = batch["index"].dtype
            return super().loss(params, batch, rng)

    optim = dataclasses.replace(PLAIN, precision="bfloat16", ema=0.9)
    state, out = make_train_step(Task(), optim)(init_state(Task(), optim, 0), batch())
    assert seen == {"params": jnp.bfloat16, "x": jnp.bfloat16, "index": jnp.int32}
    assert {x.dtype for x in jax.tree.leaves((state.params, state.ema))} == {jnp.dtype("float32")}
    assert {out.loss.dtype, out.per_sample.dtype, out.metrics["mse"].dtype} == {
        jnp.dtype("float32")
    }
    exact = make_train_step(Task(), PLAIN)(init_state(Task(), PLAIN, 0), batch())[1]
    assert float(out.loss) == pytest.approx(float(exact.loss), rel=0.05)
    assert float(out.loss) != float(exact.loss)


def test_a_step_is_a_function_of_seed_and_number():
    task = toy.ToyTask()
    step = make_train_step(task, PLAIN)
    first = step(init_state(task, PLAIN, 0), batch())[1].loss
    again = step(init_state(task, PLAIN, 0), batch())[1].loss
    assert float(first) == float(again)
    later = dataclasses.replace(init_state(task, PLAIN, 0), step=jnp.asarray(1, jnp.int32))
    assert float(step(later, batch())[1].loss) != float(first)


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_guard_changes_nothing_but_the_counters(micro_batches):
    optim = dataclasses.replace(PLAIN, ema=0.9, micro_batches=micro_batches)
    step = make_train_step(QUIET_TASK, optim)
    state, _ = step(init_state(QUIET_TASK, optim, 0), batch())
    before = jax.device_get(state)
    bad = {**batch(), "x": np.full((8, 3), np.inf, np.float32)}
    state, out = step(state, bad)
    assert not bool(out.finite)
    for name in ("params", "ema", "opt_state", "seed_key"):
        jax.tree.map(np.testing.assert_array_equal, getattr(before, name), getattr(state, name))
    assert (int(state.step), int(state.skipped), int(state.consecutive_skips)) == (2, 1, 1)
    state, out = step(state, batch())
    assert bool(out.finite)
    assert (int(state.step), int(state.skipped), int(state.consecutive_skips)) == (3, 1, 0)


def test_non_finite_gradient_with_finite_loss_is_skipped_and_named():
    class Root:
        evaluations: ClassVar = {}

        def init(self, rng):
            return {"encoder": {"w": jnp.zeros(1)}, "head": {"w": jnp.ones(1)}}

        def loss(self, params, batch, rng):
            root = jnp.sqrt(params["encoder"]["w"][0])  # gradient at 0 is infinite
            return root + params["head"]["w"][0] * jnp.mean(batch["x"]), Aux()

    step = make_train_step(Root(), PLAIN)
    _, out = step(init_state(Root(), PLAIN, 0), {"x": np.ones(2, np.float32)})
    assert np.isfinite(out.loss) and not bool(out.finite)
    error = nonfinite_report(jax.device_get(out), 1, [(1, np.array([4, 2]))], [])
    assert "not finite in: encoder;" in str(error)
    assert "{1: [4, 2]}" in str(error)


def test_lowers_from_shapes_alone():
    state = abstract_state(toy.ToyTask(), toy.OPTIM)
    shapes = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in batch().items()}
    compiled = make_train_step(toy.ToyTask(), toy.OPTIM).lower(state, shapes).compile()
    new, out = compiled(init_state(toy.ToyTask(), toy.OPTIM, 0), batch())
    assert jax.tree.structure(new) == jax.tree.structure(state)
    assert np.isfinite(out.loss)


def test_compiles_once_per_shape():
    step = CompiledStep(make_train_step(Line(), PLAIN))
    state = init_state(Line(), PLAIN, 0)
    small = {"x": np.ones(2, np.float32), "y": np.ones(2, np.float32)}
    large = {"x": np.ones(4, np.float32), "y": np.ones(4, np.float32)}
    program = step.prepare(state, small)
    seconds = step.seconds
    assert seconds > 0
    assert step.prepare(state, small) is program and step.seconds == seconds
    assert step.prepare(state, large) is not program and step.seconds > seconds


def test_loss_must_be_a_scalar():
    class Task(Line):
        def loss(self, params, batch, rng):
            return jnp.ones(3), Aux()

    with pytest.raises(ConfigError, match=r"shape \(3,\)"):
        make_train_step(Task(), PLAIN)(init_state(Task(), PLAIN, 0), {"x": np.ones(2)})


def test_given_parameters_are_copied():
    params = {"w": jnp.array([5.0])}
    state = init_state(Line(), PLAIN, 0, params=params)
    line = {"x": np.ones(2, np.float32), "y": np.ones(2, np.float32)}
    make_train_step(Line(), PLAIN)(state, line)
    assert float(params["w"][0]) == 5.0


if __name__ == "__main__":
    testing.main()
