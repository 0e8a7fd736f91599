"""Does attention matter? Hiding what is looked at against hiding as much, of the same shape, else.

The high set is the top share of a map's patches. The control is the same set moved to other
patches, so both hide the same area in the same shape. Actions are predicted with the same noise for
the clean, the high and the control picture; with several noise seeds the score is their mean. How
patches are hidden (a fill, or removed keys) is the business of whoever runs the model.

Axis names: `*b` any leading axes, s noise seeds, gh gw patch grid, H horizon, A action.

    high = top_patches(maps)                                      # (*b, gh, gw) bool
    control = matched_control(high[0], seed=0)                    # .mask (gh, gw)
    score = fidelity_score(clean, masked_high, masked_control, variance)
"""

from __future__ import annotations

import dataclasses

import numpy as np

from attn_jax.core.errors import ConfigError
from attn_jax.core.typing import Bool, Float, NumpyArray

SHARE = 0.1

Chunks = Float[NumpyArray, "s *b H A"]


@dataclasses.dataclass(frozen=True, eq=False)
class Control:
    """Patches that are hidden instead of the high set.

    Attributes:
      mask: (gh, gw) bool, as many patches as the high set, none of them in it.
      shift: (rows, columns) by which the set was moved, around the border where it must.
      matched: whether all of them have the shape of the high set; False when no move fits and some
        patches had to be drawn one by one.
    """

    mask: Bool[NumpyArray, "gh gw"]
    shift: tuple[int, int]
    matched: bool


def top_patches(
    maps: Float[NumpyArray, "*b gh gw"],
    share: float = SHARE,
    *,
    content: Float[NumpyArray, "gh gw"] | None = None,
) -> Bool[NumpyArray, "*b gh gw"]:
    """The patches with the most attention, ties to the lower raster number.

    Args:
      maps: attention maps.
      share: of the patches that may be chosen, in (0, 1]; at least one patch.
      content: share of every patch that is picture; patches that are all bar are never chosen.
    """
    if not 0 < share <= 1:
        raise ConfigError(f"share {share} is outside (0, 1]")
    flat = np.asarray(maps, np.float64).reshape(*maps.shape[:-2], -1)
    allowed = np.ones(flat.shape[-1], bool) if content is None else content.ravel() > 0
    flat = np.where(allowed, flat, -np.inf)
    k = max(1, round(share * int(allowed.sum())))
    out = np.zeros(flat.shape, bool)
    np.put_along_axis(out, np.argsort(-flat, axis=-1, kind="stable")[..., :k], True, axis=-1)
    return out.reshape(maps.shape)


def matched_control(
    high: Bool[NumpyArray, "gh gw"],
    *,
    seed: int,
    allowed: Bool[NumpyArray, "gh gw"] | None = None,
) -> Control:
    """The high set moved off itself; drawn among the moves that fit.

    Moves that keep the set in one piece come before those that go around the border. When none
    fits, the move that hits fewest wrong patches is taken and those are replaced by others drawn
    at random.

    Args:
      high: the set to match; at most half of the allowed patches.
      seed: seed of the draw.
      allowed: patches that may be hidden, for instance those that are not bar; None allows all.

    Raises:
      ConfigError: an empty high set, or too little room beside it.
    """
    allowed = np.ones(high.shape, bool) if allowed is None else allowed
    count, room = int(high.sum()), int((allowed & ~high).sum())
    if count == 0 or count > room:
        raise ConfigError(
            f"{count} patches are high and {room} others may be hidden",
            fix="Hide a smaller share",
        )
    rng = np.random.default_rng(seed)
    wrong = _correlate(high, high | ~allowed)  # (gh, gw): wrong patches after each move
    rows, columns = (np.flatnonzero(high.any(axis)) for axis in (1, 0))
    dy, dx = np.meshgrid(*(np.arange(n) for n in high.shape), indexing="ij")
    inside = _stays(dy, rows, high.shape[0]) & _stays(dx, columns, high.shape[1])
    fits = (wrong == 0) & inside
    if not fits.any():
        fits = wrong == wrong.min()
    moves = np.argwhere(fits)
    move = moves[rng.integers(len(moves))]
    mask = np.roll(high, tuple(move), (0, 1)) & allowed & ~high
    lacking = count - int(mask.sum())
    if lacking:
        spare = np.flatnonzero(allowed & ~high & ~mask)
        mask.ravel()[rng.choice(spare, lacking, replace=False)] = True
    return Control(mask, (int(move[0]), int(move[1])), lacking == 0)


def _correlate(moved: NumpyArray, fixed: NumpyArray) -> NumpyArray:
    """How many patches of `moved` meet `fixed` after every roll, (gh, gw) integers."""
    spectrum = np.conj(np.fft.rfft2(moved)) * np.fft.rfft2(fixed)
    return np.rint(np.fft.irfft2(spectrum, moved.shape)).astype(np.int64)


def _stays(move: NumpyArray, used: NumpyArray, size: int) -> NumpyArray:
    """Whether positions `used` stay in 0..size-1 in one piece when rolled by `move`."""
    return (used[-1] + move < size) | (used[0] + move >= size)


def squared_error(
    base: Chunks, other: Chunks, variance: Float[NumpyArray, "A"]
) -> Float[NumpyArray, "s *b"]:
    """Mean over horizon and dimensions of the squared difference over its variance, (s, *b).

    Dimensions that do not vary are left out.
    """
    used = variance > 0
    if not used.any():
        return np.full(base.shape[:-2], np.nan)
    d = other[..., used].astype(np.float64) - base[..., used]
    return (d * d / variance[used]).mean((-2, -1))


def mean_over_seeds(
    errors: Float[NumpyArray, "s *b"], used: Bool[NumpyArray, "s *b"] | None = None
) -> Float[NumpyArray, "*b"]:
    """Mean over noise seeds of the pairs that are `used`; NaN where none is."""
    if used is None:
        return np.asarray(errors.mean(0))
    count = used.sum(0)
    total = np.where(used, errors, 0.0).sum(0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def fidelity_score(
    clean: Chunks,
    high: Chunks,
    control: Chunks,
    variance: Float[NumpyArray, "A"],
    used: Bool[NumpyArray, "s *b"] | None = None,
) -> Float[NumpyArray, "*b"]:
    """Mean over seeds of (error when the high set is hidden - error when the control is).

    Errors are mean squared differences from the clean action, in units of the variance of each
    action dimension, so the score has no unit: above 0 the high set matters more.

    Args:
      clean: actions from the whole picture, one per noise seed.
      high: actions without the high set, same noise.
      control: actions without the control, same noise.
      variance: of every action dimension over the run, the square of `shift.action_std`.
      used: pairs that count, for instance those whose control has the shape of the high set; None
        counts all, and NaN is the score where none counts.
    """
    gain = squared_error(clean, high, variance) - squared_error(clean, control, variance)
    return mean_over_seeds(gain, used)


def null_floor(clean: Chunks, variance: Float[NumpyArray, "A"]) -> Float[NumpyArray, "*b"]:
    """Mean squared difference between noise seeds with nothing hidden, the unit of the score.

    NaN with a single seed.
    """
    seeds = len(clean)
    if seeds < 2:
        return np.full(clean.shape[1:-2], np.nan)
    pairs = [
        squared_error(clean[i : i + 1], clean[j : j + 1], variance)[0]
        for i in range(seeds)
        for j in range(i)
    ]
    return np.asarray(np.mean(pairs, axis=0))
