"""One training step: a pure, compiled function over `TrainState` and a batch.

The step draws its randomness from fold_in(seed key, step), cuts the batch into micro-batches,
averages their gradients, guards against non-finite values and applies the update. Nothing is read
back to the host: `StepOutput` holds device arrays.

    state = init_state(task, optim, seed=0)
    step = make_train_step(task, optim)
    state, out = step(state, batch)              # `state` is donated; batch leaves are (b, ...)
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from attn_jax.core.errors import ConfigError, NonFiniteError
from attn_jax.core.typing import Batch
from attn_jax.train.optim import (
    OptimConfig,
    init_ema,
    join_frozen,
    make_optimizer,
    make_schedule,
    plateau_scale,
    split_frozen,
    update_ema,
)
from attn_jax.train.sharding import AXES
from attn_jax.train.task import Aux, Task


@flax.struct.dataclass
class TrainState:
    """Everything on the device that the next step depends on.

    Attributes:
      step: int32 scalar, steps taken, skipped ones included.
      params: parameters, float32.
      ema: averaged parameters, or None when `OptimConfig.ema` is 0.
      opt_state: the optimizer's state.
      seed_key: (2,) uint32 key data; the key of a step is fold_in of it and `step`.
      skipped: int32 scalar, steps whose update was skipped because something was not finite.
      consecutive_skips: int32 scalar, such steps since the last applied update.
    """

    step: Any
    params: Any
    ema: Any
    opt_state: Any
    seed_key: Any
    skipped: Any
    consecutive_skips: Any

    @property
    def eval_params(self) -> Any:
        """The parameters to evaluate: the average when one is kept."""
        return self.params if self.ema is None else self.ema


@flax.struct.dataclass
class StepOutput:
    """What a step reports; every leaf is a device array.

    Attributes:
      loss: float32 scalar, mean over the batch.
      metrics: the task's metrics, float32 scalars averaged over micro-batches.
      per_sample: (b,) float32 in the order of the batch, or None.
      grad_norm: float32 scalar, global norm before clipping.
      group_norms: gradient norm of every top-level parameter group.
      learning_rate: float32 scalar used by this step.
      finite: bool scalar; False when the update was skipped.
      consecutive_skips: int32 scalar, after this step.
    """

    loss: Any
    metrics: Any
    per_sample: Any
    grad_norm: Any
    group_norms: Any
    learning_rate: Any
    finite: Any
    consecutive_skips: Any


TrainStep = Callable[[TrainState, Batch], tuple[TrainState, StepOutput]]


def init_state(
    task: Task, optim: OptimConfig, seed: int, *, params: Any = None, shardings: Any = None
) -> TrainState:
    """Fresh state.

    Args:
      task: gives the parameters unless `params` does.
      optim: decides about the optimizer's state and the average.
      seed: seed of the initial parameters and of every step.
      params: parameters to start from instead (they are copied).
      shardings: `TrainState` of shardings, or None for the default device.
    """
    init_key, step_key = jax.random.split(jax.random.key(seed))

    def build(params: Any) -> TrainState:
        params = task.init(init_key) if params is None else jax.tree.map(jnp.array, params)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            ema=init_ema(params, optim),
            opt_state=make_optimizer(optim).init(split_frozen(params, optim.frozen)[0]),
            seed_key=jax.random.key_data(step_key),
            skipped=jnp.zeros((), jnp.int32),
            consecutive_skips=jnp.zeros((), jnp.int32),
        )

    return jax.jit(build, out_shardings=shardings)(params)


def abstract_state(task: Task, optim: OptimConfig) -> TrainState:
    """`TrainState` of `jax.ShapeDtypeStruct`s; nothing is computed."""
    return jax.eval_shape(lambda: init_state(task, optim, 0))


def make_train_step(task: Task, optim: OptimConfig, *, shardings: Any = None) -> Any:
    """The compiled step; call it, or lower it from `ShapeDtypeStruct`s with `.lower(state, batch)`.

    A non-finite loss or gradient norm leaves parameters, average and optimizer as they were; `step`
    still advances, so the next step sees another batch and another key.

    Args:
      task: its `loss` is differentiated.
      optim: update, micro-batches, precision.
      shardings: `TrainState` of shardings that the new state keeps, or None.

    Returns:
      jit of (state, batch) -> (state, StepOutput); the state is donated.

    Raises:
      ConfigError: while tracing, when the batch does not divide into micro-batches or the loss is
        not a scalar.
    """
    tx, schedule = make_optimizer(optim), make_schedule(optim)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, StepOutput]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.seed_key), state.step)
        loss, aux, grads = _gradients(task, optim, state.params, batch, key)
        groups = _group_norms(grads)
        grad_norm = jnp.sqrt(sum(norm**2 for norm in groups.values()))
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)

        applied = state.step - state.skipped  # updates so far: what the schedule counts
        trained, frozen = split_frozen(state.params, optim.frozen)
        updates, opt_state = tx.update(grads, state.opt_state, trained, value=loss)
        params = join_frozen(optax.apply_updates(trained, updates), frozen)
        new = (params, update_ema(state.ema, params, optim, applied), opt_state)
        old = (state.params, state.ema, state.opt_state)
        # A select per leaf fuses into the update; a branch would not.
        params, ema, opt_state = jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)
        skips = jnp.where(finite, 0, state.consecutive_skips + 1)
        output = StepOutput(
            loss=loss,
            metrics=dict(aux.metrics),
            per_sample=aux.per_sample,
            grad_norm=grad_norm,
            group_norms=groups,
            learning_rate=schedule(applied) * plateau_scale(state.opt_state),
            finite=finite,
            consecutive_skips=skips,
        )
        state = dataclasses.replace(
            state,
            step=state.step + 1,
            params=params,
            ema=ema,
            opt_state=opt_state,
            skipped=state.skipped + jnp.where(finite, 0, 1),
            consecutive_skips=skips,
        )
        return state, output

    out = None if shardings is None else (shardings, _output_shardings(shardings))
    return jax.jit(train_step, donate_argnums=0, out_shardings=out)


class CompiledStep:
    """Compiles a step ahead of time, once per shape of batch, and knows how long that took.

    Attributes:
      seconds: time spent compiling so far.
    """

    def __init__(self, step: Any):
        self._step = step
        self._programs: dict[Any, Any] = {}
        self.seconds = 0.0

    def prepare(self, state: TrainState, batch: Mapping[str, Any]) -> Any:
        """The program (state, batch) -> (state, StepOutput) for batches of this shape."""
        shapes = tuple((name, np.shape(x), str(x.dtype)) for name, x in sorted(batch.items()))
        if shapes not in self._programs:
            started = time.monotonic()
            self._programs[shapes] = self._step.lower(state, batch).compile()
            self.seconds += time.monotonic() - started
        return self._programs[shapes]


def nonfinite_report(
    output: StepOutput, step: int, bad: Sequence[tuple[int, Any]], checkpoints: Sequence[int]
) -> NonFiniteError:
    """The error for too many skipped steps in a row.

    Args:
      output: of the last skipped step, on the host.
      step: its number.
      bad: (step, data indices or None) of the skipped steps that are known.
      checkpoints: steps of the checkpoints there are.
    """
    skips = int(output.consecutive_skips)
    groups = [name for name, norm in output.group_norms.items() if not np.isfinite(norm)]
    data = {number: np.asarray(i).tolist() for number, i in bad[:3] if i is not None}
    good = f"step {checkpoints[-1]}" if checkpoints else "none"
    return NonFiniteError(
        f"{skips} steps in a row gave no finite update, the first of them step {step - skips + 1}; "
        f"loss {float(output.loss)}; gradients not finite in: {', '.join(groups) or 'none'}; "
        f"data indices by step: {data or 'unknown'}; last good checkpoint: {good}",
        fix="Look at these samples, lower optim.learning_rate or set optim.clip_norm",
    )


def _output_shardings(shardings: Any) -> StepOutput:
    """Scalars on every device; `per_sample` split like the batch."""
    mesh = jax.tree.leaves(shardings)[0].mesh
    everywhere = NamedSharding(mesh, PartitionSpec())
    fields = {field.name: everywhere for field in dataclasses.fields(StepOutput)}
    return StepOutput(**{**fields, "per_sample": NamedSharding(mesh, PartitionSpec(AXES))})


def _gradients(
    task: Task, optim: OptimConfig, params: Any, batch: Batch, key: Any
) -> tuple[Any, Aux, Any]:
    """(loss, aux, float32 gradients), averaged over micro-batches; sample order is kept.

    Gradients of frozen parameters are None and are not computed.
    """
    dtype = jnp.dtype(optim.precision)
    params, frozen = split_frozen(params, optim.frozen)

    def loss_fn(params: Any, batch: Any, key: Any) -> tuple[Any, Aux]:
        params = join_frozen(params, frozen)
        loss, aux = task.loss(_cast(params, dtype), _cast(batch, dtype), key)
        if jnp.shape(loss) != ():
            raise ConfigError(f"the task's loss has shape {jnp.shape(loss)}, not a scalar")
        return jnp.asarray(loss, jnp.float32), _cast(aux, jnp.dtype("float32"))

    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    n = optim.micro_batches
    if n == 1:
        (loss, aux), grads = grad_fn(params, batch, jax.random.fold_in(key, 0))
        return loss, aux, grads

    _check_divides(batch, n)

    # Micro-batch i takes samples i, i + n, ...: with the batch sharded over devices every part is
    # spread over all of them and no sample moves.
    def split(x: Any) -> Any:
        return jnp.swapaxes(jnp.reshape(x, (x.shape[0] // n, n, *x.shape[1:])), 0, 1)

    def body(grads: Any, part: Any) -> tuple[Any, Any]:
        index, micro = part
        (loss, aux), new = grad_fn(params, micro, jax.random.fold_in(key, index))
        return jax.tree.map(jnp.add, grads, new), (loss, aux)

    zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)
    parts = (jnp.arange(n), jax.tree.map(split, batch))
    grads, (losses, auxes) = jax.lax.scan(body, zeros, parts)
    per_sample = auxes.per_sample
    if per_sample is not None:
        per_sample = jnp.swapaxes(per_sample, 0, 1).reshape(-1)
    metrics = jax.tree.map(lambda m: jnp.mean(m, axis=0), dict(auxes.metrics))
    grads = jax.tree.map(lambda g: g / n, grads)
    return jnp.mean(losses), Aux(metrics=metrics, per_sample=per_sample), grads


def _cast(tree: Any, dtype: np.dtype) -> Any:
    """Floating leaves of `tree` in `dtype`; others unchanged."""

    def cast(x: Any) -> Any:
        x = jnp.asarray(x)
        return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(cast, tree)


def _group_norms(grads: Any) -> dict[str, Any]:
    """Gradient norm of every top-level group; one group `params` when there is no mapping."""
    groups = grads if isinstance(grads, dict) and grads else {"params": grads}
    # Linen wraps everything in {'params': ...}: look one level deeper then.
    if list(groups) == ["params"] and isinstance(groups["params"], dict):
        groups = groups["params"]
    return {
        str(name): optax.tree_utils.tree_norm(group)
        for name, group in groups.items()
        if jax.tree.leaves(group)  # a frozen group has no gradients
    }


def _check_divides(batch: Batch, n: int) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
        if not leaf.shape or leaf.shape[0] % n:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ConfigError(
                f"batch entry {name!r} of shape {leaf.shape} does not divide into {n} parts",
                fix="Choose batch_size as a multiple of micro_batches",
            )
