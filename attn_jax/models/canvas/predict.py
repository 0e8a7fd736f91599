"""Compiled prediction with the canvas model: next frame, counterfactual actions, rollouts.

Axis names: b batch, a actions, t rollout steps. Canvases are (b, H, W, 3), uint8 or float32 in [0,
1]; what the target slot holds is ignored. Frames come back float32 and unclamped unless said
otherwise.

    predict = make_predict(config)
    frames = predict(params, canvases)                        # (b, h, w, 3)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import cast

import jax
import jax.numpy as jnp

from attn_jax.core.canvas import CanvasGeometry, unpatchify
from attn_jax.core.typing import AnyArray, Array, Float, Params
from attn_jax.models.canvas.model import CanvasConfig, CanvasModel


def as_float(canvas: AnyArray) -> Array:
    """Canvas values in [0, 1], float32."""
    values = jnp.asarray(canvas, jnp.float32)
    return values / 255.0 if canvas.dtype == jnp.uint8 else values


def crop_target(images: AnyArray, geometry: CanvasGeometry) -> AnyArray:
    """The target slot of canvases (..., H, W, 3) as frames (..., h, w, 3)."""
    start, stop = geometry.frame_columns(geometry.history - 1)
    return images[..., start:stop, :]


def crop_last_visible(images: AnyArray, geometry: CanvasGeometry) -> AnyArray:
    """The newest visible frame of canvases (..., H, W, 3) as frames (..., h, w, 3)."""
    start, stop = geometry.frame_columns(geometry.history - 2)
    return images[..., start:stop, :]


def target_frames(patches: Float[Array, "b m p"], geometry: CanvasGeometry) -> Array:
    """Frames (b, h, w, 3) out of the predicted patches of the target slot (b, m, p).

    Where a patch of the slot also covers part of a stripe, that part is cut off.
    """
    columns = len(geometry.target_patches()) // geometry.grid[0]
    image = unpatchify(patches, geometry.patch, (geometry.grid[0], columns))
    first_column = int(geometry.target_patches()[0]) * geometry.patch
    start = geometry.frame_columns(geometry.history - 1)[0] - first_column
    return image[:, :, start : start + geometry.frame_size[1]]


def predict_frames(config: CanvasConfig, params: Params, canvas: AnyArray) -> Array:
    """Predicted target frames (b, h, w, 3) float32, unclamped; traceable."""
    patches = CanvasModel(config).apply({"params": params}, as_float(canvas))
    return target_frames(cast(Array, patches), config.geometry)


def make_predict(config: CanvasConfig) -> Callable[[Params, AnyArray], Array]:
    """A compiled (params, canvases (b, H, W, 3)) -> frames (b, h, w, 3)."""
    return jax.jit(lambda params, canvas: predict_frames(config, params, canvas))


def paint_stripe(canvas: Array, geometry: CanvasGeometry, index: int, colour: Array) -> Array:
    """Canvases (..., H, W, 3) with stripe `index` in `colour` (3,), same dtype and value range."""
    start, stop = geometry.separator_columns(index)
    return canvas.at[..., start:stop, :].set(colour.astype(canvas.dtype))


def make_counterfactual(
    config: CanvasConfig,
) -> Callable[[Params, AnyArray, AnyArray], Array]:
    """A compiled (params, canvases (b, H, W, 3) uint8, colours (a, 3) uint8) -> (b, a, h, w, 3).

    Every action is painted into the last stripe of every canvas; all of them run in one call.
    """
    geometry = config.geometry

    @jax.jit
    def counterfactual(params: Params, canvas: Array, colours: Array) -> Array:
        painted = jax.vmap(lambda c: paint_stripe(canvas, geometry, geometry.history - 2, c))(
            colours
        )
        frames = predict_frames(config, params, painted.reshape(-1, *canvas.shape[1:]))
        frames = frames.reshape(len(colours), canvas.shape[0], *frames.shape[1:])
        return frames.swapaxes(0, 1)

    return counterfactual


def make_rollout(config: CanvasConfig) -> Callable[[Params, AnyArray, AnyArray], Array]:
    """A compiled k-step rollout that feeds on its own predictions.

    (params, canvases (b, H, W, 3) uint8, colours (b, t, 3) uint8) -> frames (b, t, h, w, 3) clamped
    to [0, 1]. Step i paints colour i into the last stripe, predicts, and moves the canvas on by one
    frame.
    """
    geometry = config.geometry
    step = geometry.frame_size[1] + geometry.separator

    @jax.jit
    def rollout(params: Params, canvas: Array, colours: Array) -> Array:
        def advance(state: Array, colour: Array):
            start, stop = geometry.separator_columns(geometry.history - 2)
            stripe = jnp.broadcast_to(colour[:, None, None, :], (*state.shape[:2], stop - start, 3))
            state = state.at[:, :, start:stop].set(stripe)
            frame = jnp.clip(predict_frames(config, params, state), 0.0, 1.0)
            blank = jnp.zeros((*state.shape[:2], step, 3), state.dtype)
            seen = state[:, :, step : (geometry.history - 1) * step]
            return jnp.concatenate([seen, frame, blank], axis=2), frame

        steps = colours.astype(jnp.float32).swapaxes(0, 1) / 255.0
        _, frames = jax.lax.scan(advance, as_float(canvas), steps)
        return frames.swapaxes(0, 1)

    return rollout


def recordable(config: CanvasConfig) -> CanvasConfig:
    """The configuration whose attention can be recorded whole: `last_layer` becomes `full`.

    Both compute the same function of the same parameters; `full` also has the last block's maps of
    the visible queries.
    """
    return dataclasses.replace(config, decode="full") if config.decode == "last_layer" else config
