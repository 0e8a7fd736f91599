"""Euler integration of a velocity field from noise (time 1) to data (time 0).

Axis names: s steps. The grid of times is static, so what depends on time alone can be made once,
outside the loop, and handed to it step by step.

    times = euler_times(10)                            # 1.0, 0.9, ..., 0.1
    x, trace = euler(velocity, noise, conditions_of(times), num_steps=10)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import numpy as np

from attn_jax.core import taps
from attn_jax.core.typing import Array


@flax.struct.dataclass
class EulerTrace:
    """What happened on the way.

    Attributes:
      x: (s, ...) samples before each step, that is at the step's time.
      v: (s, ...) velocities at these.
      extra: what `velocity` returned besides, stacked on a first axis s.
    """

    x: Array
    v: Array
    extra: Any


def euler_times(num_steps: int) -> np.ndarray:
    """Times of the velocity evaluations, (s,) float32: 1 - k / s. The last is 1 / s, not 0.

    Raises:
      ValueError: for less than one step.
    """
    if num_steps < 1:
        raise ValueError(f"integration needs at least one step, got {num_steps}")
    dt = -1.0 / num_steps
    return np.asarray([1.0 + step * dt for step in range(num_steps)], np.float64).astype(np.float32)


def euler(
    velocity: Callable[[Array, Any], tuple[Array, Any]],
    noise: Array,
    conditions: Any,
    *,
    num_steps: int,
) -> tuple[Array, EulerTrace]:
    """Integrates by `lax.scan`.

    Args:
      velocity: (x, condition) -> (v, extra); v like x, `extra` any pytree of arrays.
      noise: the sample at time 1.
      conditions: pytree of arrays (s, ...), one slice for each step.
      num_steps: s.

    Returns:
      The sample at time 0, and the trace.
    """
    dt = np.asarray(-1.0 / num_steps, noise.dtype)

    def step(x: Array, given: Any) -> tuple[Array, EulerTrace]:
        condition, tap_inputs = given
        with taps.at_step(tap_inputs):
            v, extra = velocity(x, condition)
        return x + dt * v, EulerTrace(x, v, extra)

    given = (conditions, taps.step_inputs(num_steps))
    return jax.lax.scan(step, noise, given, length=num_steps)


def guided(
    conditional: Callable[[Array, Any], tuple[Array, Any]],
    unconditional: Callable[[Array, Any], tuple[Array, Any]],
    weight: Any,
) -> Callable[[Array, Any], tuple[Array, Any]]:
    """A velocity for `euler`: unconditional + weight * (conditional - unconditional).

    Weight 0 is the unconditional field, 1 the conditional one, more exaggerates what the condition
    changes.

    Args:
      conditional: velocity under the condition.
      unconditional: velocity without it.
      weight: a number, static or traced; `extra` is that of `conditional`.
    """

    def velocity(x: Array, condition: Any) -> tuple[Array, Any]:
        with_it, extra = conditional(x, condition)
        without, _ = unconditional(x, condition)
        return without + weight * (with_it - without), extra

    return velocity
