"""Sampling and the training loss of Pi0.5, as pure traceable functions.

Axis names: s denoising steps, b batch, H action horizon, A action dimensions inside the model,
p prefix tokens.

    act = jax.jit(lambda params, inputs, noise: sample(config, params, inputs, noise)[0].actions)
    # with attention: the same program, traced under `attn_jax.probe.capture.capture`
    watched = capture(functools.partial(sample, config, watch=True), plan)
    result, maps = jax.jit(watched)(params, inputs, noise)
"""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from attn_jax.core import taps
from attn_jax.core.errors import ConfigError
from attn_jax.core.typing import Array, Float, Params
from attn_jax.flow import path
from attn_jax.flow.sampler import euler, euler_times, guided
from attn_jax.models.pi05.config import Pi05Config
from attn_jax.models.pi05.model import Pi05, Pi05Inputs
from attn_jax.models.pi05.time_embedding import embed_time, time_table


@flax.struct.dataclass
class Sample:
    """One prediction.

    Attributes:
      actions: (b, H, A) float32; the real action dimensions are the first `config.action_dim`.
      x_t: (s, b, H, A) noisy actions at each time, `x_t[0]` being the noise.
      v_t: (s, b, H, A) velocities at these.
      time: (s,) float32, 1.0 ... 1 / s.
      prefix_valid: (b, p), False for dummy cameras and padding.
    """

    actions: Array
    x_t: Array
    v_t: Array
    time: Array
    prefix_valid: Array


def sample(
    config: Pi05Config,
    params: Params,
    inputs: Pi05Inputs,
    noise: Float[Array, "b H A"],
    *,
    num_steps: int | None = None,
    watch: bool = False,
    unconditional: Pi05Inputs | None = None,
    guidance: Any = 1.0,
) -> tuple[Sample, dict[str, Any]]:
    """Predicts an action chunk.

    Args:
      config: the model.
      params: its parameters.
      inputs: what it sees.
      noise: (b, H, A) float32, standard normal.
      num_steps: denoising steps; None is `config.num_inference_steps`.
      watch: open the attention collection; then all of it is sown, or what the open tap keeps.
      unconditional: inputs without what shall be emphasised (another prompt, a masked camera);
        each velocity is then unconditional + guidance * (conditional - unconditional). Its
        attention is not sown, but edited by an open tap that edits.
      guidance: that weight, static or traced.

    Returns:
      The sample, and what was sown: `prefix` of the prefix pass (with `vision` and `prefix` sites),
      `suffix` of the denoising steps with a first axis s. Empty without `watch`.

    Raises:
      ConfigError: noise that does not fit the model.
    """
    if noise.shape[-1] != config.max_action_dim or noise.ndim != 3:
        raise ConfigError(
            f"noise has shape {noise.shape}, expected (b, H, {config.max_action_dim})",
            where="noise",
        )
    model, variables = Pi05(config), {"params": params}
    steps = config.num_inference_steps if num_steps is None else num_steps
    times = euler_times(steps)
    width = config.architecture.expert_width
    table = jnp.asarray(time_table(times, width, config.min_period, config.max_period))
    (cache, _), sown_prefix = _apply(model, variables, watch, inputs, method="encode")
    # The same time for every sample: each leaf is (s, 1, 3 w), read once for all steps.
    modulation = model.apply(variables, table, method="modulate")
    modulation = jax.tree.map(lambda leaf: leaf[:, None], modulation)

    def velocity(x: Array, condition: Any) -> tuple[Array, Any]:
        return _apply(model, variables, watch, cache, x, condition, method="velocity")

    field = velocity
    if unconditional is not None:
        (other, _), _ = _apply(model, variables, False, unconditional, method="encode")

        def without(x: Array, condition: Any) -> tuple[Array, Any]:
            return _apply(model, variables, False, other, x, condition, method="velocity")

        field = guided(velocity, without, guidance)
    actions, trace = euler(field, jnp.asarray(noise), modulation, num_steps=steps)
    result = Sample(actions, trace.x, trace.v, jnp.asarray(times), cache.valid)
    return result, {"prefix": sown_prefix, "suffix": trace.extra} if watch else {}


def _apply(model: Pi05, variables: Any, watch: bool, *args: Any, method: str) -> tuple[Any, Any]:
    if not watch:
        return model.apply(variables, *args, method=method), {}
    return model.apply(variables, *args, method=method, mutable=[taps.COLLECTION])


def flow_matching_errors(
    config: Pi05Config,
    params: Params,
    inputs: Pi05Inputs,
    actions: Float[Array, "b H a"],
    noise: Float[Array, "b H A"],
    times: Float[Array, " b"],
    *,
    remat: bool = False,
) -> Float[Array, "b H a"]:
    """Squared error of the velocity per element, for the dimensions of `actions`.

    The training loss is the mean. Dimensions beyond those of `actions` are padded with zeros and
    do not count (LeRobot's rule; openpi averages over all of them, which is what padded `actions`
    give).

    Args:
      config: the model.
      params: its parameters.
      inputs: what it sees.
      actions: normalised actions, at most `max_action_dim` dimensions.
      noise: standard normal, all `max_action_dim` dimensions.
      times: time of each sample.
      remat: recompute activations in the backward pass.

    Raises:
      ConfigError: more action dimensions than the model has.
    """
    real = actions.shape[-1]
    if real > config.max_action_dim:
        raise ConfigError(
            f"actions have {real} dimensions, the model {config.max_action_dim}", where="actions"
        )
    padded = jnp.pad(actions, ((0, 0), (0, 0), (0, config.max_action_dim - real)))
    width = config.architecture.expert_width
    embedding = embed_time(times, width, config.min_period, config.max_period)
    x_t = path.interpolate(padded, noise, times)
    velocity = Pi05(config, remat).apply({"params": params}, inputs, x_t, embedding)
    target = path.velocity_target(padded, noise)
    return jnp.square(target - jnp.asarray(velocity))[..., :real]


def flow_matching_draws(
    config: Pi05Config,
    params: Params,
    inputs: Pi05Inputs,
    actions: Float[Array, "b H a"],
    noise: Float[Array, "d b H A"],
    times: Float[Array, "d b"],
    *,
    remat: bool = False,
    watch: bool = False,
) -> tuple[Float[Array, "d b H a"], dict[str, Any]]:
    """`flow_matching_errors` for d draws of noise and time of every sample.

    The prefix runs once: it knows neither noise nor time. Arguments as there, with a first axis of
    draws.

    Returns:
      The errors, and with `watch` what was sown, `suffix` with a first axis d; else nothing.
    """
    if noise.shape[0] == 1 and not watch:
        options = {"remat": remat}
        return flow_matching_errors(config, params, inputs, actions, noise[0], times[0], **options)[
            None
        ], {}
    real = actions.shape[-1]
    padded = jnp.pad(actions, ((0, 0), (0, 0), (0, config.max_action_dim - real)))
    model, variables = Pi05(config, remat), {"params": params}
    (cache, _), sown_prefix = _apply(model, variables, watch, inputs, method="encode")

    def errors(noise: Array, times: Array) -> tuple[Array, Any]:
        width = config.architecture.expert_width
        embedding = embed_time(times, width, config.min_period, config.max_period)
        modulation = model.apply(variables, embedding, method="modulate")
        x_t = path.interpolate(padded, noise, times)
        velocity, sown = _apply(model, variables, watch, cache, x_t, modulation, method="velocity")
        target = path.velocity_target(padded, noise)
        return jnp.square(target - jnp.asarray(velocity))[..., :real], sown

    found, sown_suffix = jax.vmap(errors)(noise, times)
    return found, {"prefix": sown_prefix, "suffix": sown_suffix} if watch else {}
