"""Codecs: how attention values are kept in fewer bytes, and the error that each of them states.

Axes are those of a record with the batch or the call first: (call, denoise, layer, head, query,
key). `float32` is lossless, `float16` rounds, `u8row` keeps the square root of every value relative
to its row maximum in 8 bits. `encode` runs inside the compiled program, so that only codes leave
the device; the same arithmetic in NumPy serves arrays that are already on the host.

    outputs, maps = capture(apply_fn, plan)(params, x)
    coded = encode(maps, plan)                       # still inside jit; to_records(coded, plan)
    later np.asarray(coded["decoder"]["full"])             # decoded float32
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attn_jax.core.errors import RecordError
from attn_jax.probe.select import Plan, valid_positions

CODECS = ("float16", "float32", "u8row")

# Reductions that fill memory follow the selected codec; the others are small and stay lossless.
MAP_REDUCTIONS = ("full", "head_mean", "patch_map")

_LAYER = 2  # axis
_ROUNDING = 1e-4  # softmax rows and means of them exceed 1 by rounding only
_HALF_RELATIVE = 2.0**-11
_HALF_ABSOLUTE = 2.0**-25


@dataclasses.dataclass(frozen=True)
class Bound:
    """The stated error of a codec on probabilities.

    Attributes:
      formula: bound on |p' - p| of one value, in words and symbols.
      max_abs: the largest value that the formula takes for p in [0, 1].
    """

    formula: str
    max_abs: float


BOUNDS = {
    "float32": Bound("0", 0.0),
    "float16": Bound("max(p * 2**-11, 2**-25)", _HALF_RELATIVE),
    "u8row": Bound(
        "s * (sqrt(p / s) / 255 + 1 / 260100), s the largest value of the row", 1 / 255 + 1 / 260100
    ),
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Encoded:
    """Encoded values; an array that decodes when it is read. A pytree, so it may leave a jit.

    Attributes:
      data: (call, denoise, layer, head, query, kept key) float16, float32 or uint8.
      scale: (call, denoise, layer, head, query) float32 row maximum of `u8row`, else None.
      stats: (call, 3) float32: smallest value before encoding (of `u8row`, whose codes cannot show
        it, else 0), largest absolute error, measured, largest value that leaving keys out lost.
      codec: one of `CODECS`.
      key_index: positions of the kept keys on the key axis; None when all are kept.
      num_keys: length of the key axis.
      undefined: whether NaN is a value.
      rounded: whether the values came as float16. What the rounding did can no longer be measured;
        `check` then states the most that it can have done to the largest value.
    """

    data: Any
    scale: Any
    stats: Any
    codec: str = dataclasses.field(metadata={"static": True})
    key_index: tuple[int, ...] | None = dataclasses.field(metadata={"static": True})
    num_keys: int = dataclasses.field(metadata={"static": True})
    undefined: bool = dataclasses.field(default=False, metadata={"static": True})
    rounded: bool = dataclasses.field(default=False, metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape after decoding."""
        return (*self.data.shape[:-1], self.num_keys)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.data.ndim

    @property
    def dtype(self) -> np.dtype:
        """Dtype after decoding."""
        return np.dtype(np.float32)

    def call(self, number: int) -> Encoded:
        """One call (or batch item) with its axis kept; a copy, so that it holds no other call."""

        def one(x: Any) -> Any:
            return None if x is None else _copied(x[number : number + 1])

        return dataclasses.replace(
            self, data=one(self.data), scale=one(self.scale), stats=one(self.stats)
        )

    def on_host(self) -> Encoded:
        """The same with NumPy arrays; waits for the device."""
        scale = None if self.scale is None else np.asarray(self.scale)
        return dataclasses.replace(
            self, data=np.asarray(self.data), scale=scale, stats=np.asarray(self.stats)
        )

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        values = decode(
            np.asarray(self.data),
            None if self.scale is None else np.asarray(self.scale),
            self.codec,
        )
        return scatter_keys(values, self.key_index, self.num_keys).astype(dtype or np.float32)

    def __getitem__(self, index: Any) -> np.ndarray | np.floating:
        return np.asarray(self)[index]


def concatenated(parts: Sequence[Encoded]) -> Encoded:
    """One array from those of consecutive layers, all encoded alike."""
    stats = [part.stats for part in parts]
    xp: Any = np if isinstance(stats[0], np.ndarray) else jnp
    lowest, error, dropped = xp.moveaxis(xp.stack(stats), -1, 0)
    return dataclasses.replace(
        parts[0],
        data=layers_joined([part.data for part in parts]),
        scale=None if parts[0].scale is None else layers_joined([part.scale for part in parts]),
        stats=xp.stack([lowest.min(0), error.max(0), dropped.max(0)], axis=-1),
    )


def layers_joined(parts: Sequence[Any]) -> Any:
    """Arrays (call, denoise, layer, ...) one behind the other; on the device where they are."""
    xp: Any = np if isinstance(parts[0], np.ndarray) else jnp
    return xp.concatenate(parts, axis=_LAYER)


def _copied(x: Any) -> Any:
    return x.copy() if isinstance(x, np.ndarray) else x


def encode_array(
    values: Any,
    codec: str,
    *,
    key_index: Sequence[int] | None = None,
    checked_queries: Sequence[int] | None = None,
    undefined: bool = False,
) -> Encoded:
    """Encodes one array, in NumPy when it is NumPy, else in JAX.

    Args:
      values: (call, denoise, layer, head, query, key) floating.
      codec: one of `CODECS`.
      key_index: positions of the keys to keep; None keeps all.
      checked_queries: rows whose left-out keys must be exactly 0; None means all. A row without any
        valid key attends uniformly and is meaningless, so rows of invalid queries are left out.
      undefined: whether NaN is a value (the entropy of a group without mass).
    """
    xp = np if isinstance(values, np.ndarray) else jnp
    rounded = codec == "float16" and values.dtype == np.float16
    if not rounded:
        values = xp.asarray(values, xp.float32)
    if xp is jnp and values.dtype == np.float32:
        # One array for the codes and the statistics, or XLA assembles the maps again for each.
        values = jax.lax.optimization_barrier(values)
    num_keys = values.shape[-1]
    over = tuple(range(1, values.ndim))
    dropped = xp.zeros(values.shape[0], xp.float32)
    if key_index is not None:
        left_out = np.setdiff1d(np.arange(num_keys), np.asarray(key_index))
        rows = values if checked_queries is None else values[..., np.asarray(checked_queries), :]
        if left_out.size and rows.shape[-2]:
            dropped = abs(rows[..., left_out]).max(axis=over)
        values = values[..., np.asarray(key_index)]
    # `check` finds NaN and values outside the range; here they must not stop the program.
    with np.errstate(invalid="ignore", over="ignore"):
        data, scale = _quantise(values, codec, xp)
        lowest = error = xp.zeros(values.shape[0], xp.float32)
        if codec == "u8row":
            lowest = values.min(axis=over)
        if data.dtype != values.dtype:
            error = _largest_error(values, data, scale, codec)
    stats = xp.stack([lowest, error, dropped], axis=-1)
    kept = None if key_index is None else tuple(int(i) for i in key_index)
    return Encoded(data, scale, stats, codec, kept, num_keys, undefined, rounded)


def _largest_error(values: Any, data: Any, scale: Any, codec: str) -> Any:
    """(call,) float32 largest |decoded - value|; NaN where a value is NaN."""
    if not isinstance(values, np.ndarray):
        if codec == "float16":
            # XLA may take a narrowing and a widening that follow each other for nothing.
            data = jax.lax.optimization_barrier(data)
        # XLA takes the differences on all cores, and reduces on one: a reduction that has to take
        # them itself is several times slower, and so is one that ends within a row.
        off = jax.lax.optimization_barrier(abs(_restore(data, scale, codec, jnp) - values))
        return off.max(axis=tuple(range(1, off.ndim - 1))).max(axis=-1)
    error = np.zeros(values.shape[0], np.float32)
    for place in np.ndindex(values.shape[:3]):  # one map at a time: no second copy of a call
        part = None if scale is None else scale[place]
        off = abs(_restore(data[place], part, codec, np) - values[place])
        error[place[0]] = np.maximum(error[place[0]], off.max(initial=0))
    return error


def _quantise(values: Any, codec: str, xp: Any) -> tuple[Any, Any]:
    if codec == "float32":
        return values, None
    if codec == "float16":
        return values.astype(xp.float16), None
    if codec != "u8row":
        raise RecordError(f"unknown codec {codec!r}", fix=f"Use one of {', '.join(CODECS)}")
    scale = values.max(axis=-1)
    # Clipping also turns NaN into a code; `check` refuses the array by its statistics.
    share = xp.nan_to_num(values / xp.where(scale > 0, scale, xp.float32(1))[..., None])
    return xp.rint(255 * xp.sqrt(xp.clip(share, 0, 1))).astype(xp.uint8), scale


def _restore(data: Any, scale: Any, codec: str, xp: Any) -> Any:
    data = data.astype(xp.float32)
    return data if codec != "u8row" else scale[..., None] * xp.square(data / 255)


def decode(data: np.ndarray, scale: np.ndarray | None, codec: str) -> np.ndarray:
    """Float32 values of the kept keys; `scale` has the axes of `data` without the last."""
    return _restore(data, scale, codec, np)


def scatter_keys(
    values: np.ndarray, key_index: Sequence[int] | np.ndarray | None, num_keys: int
) -> np.ndarray:
    """Puts kept keys back to their positions on the key axis, with exact zeros between them."""
    if key_index is None:
        return values
    out = np.zeros((*values.shape[:-1], num_keys), values.dtype)
    out[..., np.asarray(key_index)] = values
    return out


def row_sum_tolerance(
    data: np.ndarray, scale: np.ndarray | None, codec: str, base: float = 1e-5
) -> np.ndarray:
    """How far encoding may move the sum of each row, (..., query) float32, added to `base`.

    Sums the codec's bound over the row, as a function of the codes instead of the unknown
    originals.
    """
    if codec == "u8row":
        assert scale is not None
        # |sqrt(p / s) * 255 - c| <= 1/2 gives |p' - p| <= s (c + 1/4) / 255**2.
        return base + scale * (data.astype(np.float32) + 0.25).sum(axis=-1) / 255**2
    if codec == "float16":
        values = np.abs(data.astype(np.float32))
        return base + np.maximum(values * 1.001 * _HALF_RELATIVE, _HALF_ABSOLUTE).sum(axis=-1)
    return np.full(data.shape[:-1], base, np.float32)


def check(encoded: Encoded, where: str, *, probability: bool = True, signed: bool = False) -> float:
    """Checks encoded values and returns the largest absolute error of them.

    It is measured, but for values that came rounded to float16: half a unit in the last place of
    the largest value is added for these.

    Args:
      encoded: values on the host.
      where: what the values are, for the message.
      probability: whether 1 is the largest value allowed; entropies may be larger.
      signed: whether any finite value is allowed, as relevances are.

    Raises:
      RecordError: NaN, a value outside the range, or left-out keys that were not 0.
    """
    if not len(encoded.stats):
        return 0.0
    low, high = _range(encoded)
    lost = float(encoded.stats[:, 2].max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise RecordError("attention has NaN or infinite values", where=where)
    if not signed and (low < 0 or (probability and high > 1 + _ROUNDING)):
        raise RecordError(f"values from {low:.3g} to {high:.3g} are no probabilities", where=where)
    if not lost == 0:
        raise RecordError(
            f"keys of invalid groups would be left out but hold up to {lost:.3g} of a row",
            where=where,
            fix="Store all keys, or mark the groups as valid in the token layout",
        )
    error = float(encoded.stats[:, 1].max())
    return error + _half_unit(max(-low, high)) if encoded.rounded else error


def _half_unit(value: float) -> float:
    """Half the distance of a positive half-precision number to the next."""
    return float(np.spacing(np.float16(value))) / 2


def _range(encoded: Encoded) -> tuple[float, float]:
    """Smallest and largest value, NaN where one is NaN (and not allowed to be)."""
    if encoded.codec == "u8row":
        return float(encoded.stats[:, 0].min()), float(encoded.scale.max())
    data = encoded.data
    if encoded.codec == "float16" and not encoded.undefined:
        # Non-negative halves sort like their bits; NaN, infinities and negatives lie above 1.
        top = data.view(np.uint16).max()
        if top <= np.float16(1 + _ROUNDING).view(np.uint16):
            return 0.0, float(top.view(np.float16))
    if encoded.undefined:
        data = data[~np.isnan(data)]
        if not data.size:
            return 0.0, 0.0
    return float(data.min()), float(data.max())


def encode(captured: Mapping[str, Mapping[str, Any]], plan: Plan) -> dict[str, dict[str, Any]]:
    """Encodes what `capture` returned as its selection says; call it inside the jitted function.

    Returns:
      {stream: {reduction: Encoded, or a tuple of them where layers came apart}}.
    """
    out: dict[str, dict[str, Any]] = {}
    for stream, reductions in captured.items():
        chosen = plan.streams[stream]
        out[stream] = {}
        for name, values in reductions.items():
            compact = chosen.compact_keys if name in ("full", "head_mean") else None
            coded = functools.partial(
                encode_array,
                codec=plan.selection.dtype if name in MAP_REDUCTIONS else "float32",
                key_index=compact,
                checked_queries=valid_positions(chosen.layout, "query") if compact else None,
                undefined=name == "entropy",
            )
            apart = isinstance(values, tuple)
            out[stream][name] = tuple(map(coded, values)) if apart else coded(values)
    return out
