"""Do attention maps lie on objects? Every measure of a map against the patches an object covers.

A map `a` holds the probability of each patch of one camera, not renormalised. An object is the
share `f` of every patch that its mask covers, by exact area through the letterbox; nothing is drawn
at another size. Overlap, lift, concentration and the means inside and outside use these shares. The
set measures (IoU, top-k, AUROC, pointing game, NSS) take a patch as inside when at least half of
its picture is covered. What is undefined (no mass, no such patch, an object out of sight) is NaN.

With `content`, the share of every patch that is picture and not letterbox bar, all measures are of
the picture alone: mass on bars does not count, and chance is an even spread over the picture.

Axis names: t frames, `*m` any axes of maps, o objects, gh gw patch grid.

    f = patch_coverage(masks, (16, 16), (224, 224))               # (t, o, gh, gw)
    scores = object_metrics(maps, f)                              # maps (t, layer, head, gh, gw)
    scores["lift"]                                                # (t, layer, head, o)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy

from attn_jax.core import geometry
from attn_jax.core.errors import ConfigError
from attn_jax.core.typing import Bool, Float, NumpyArray

METRICS = (
    "overlap",
    "area_fraction",
    "lift",
    "concentration",
    "mean_inside",
    "mean_outside",
    "iou",
    "topk_precision",
    "topk_recall",
    "topk_iou",
    "auroc",
    "pointing",
    "nss",
)
TAU = 0.3  # of the largest value: threshold of the IoU
TOP_SHARE = 0.1  # of the patches: the top k
_SETS = METRICS[6:]
_EMPTY = 1e-12  # summed coverage below this is none


def patch_coverage(
    masks: Bool[NumpyArray, "*b h w"], grid: geometry.Size, target: geometry.Size
) -> Float[NumpyArray, "*b gh gw"]:
    """Share of every patch that each mask covers, in [0, 1], by exact area.

    Args:
      masks: masks in the space of the picture before the letterbox.
      grid: rows and columns of patches.
      target: (height, width) of the model's input, pixels.
    """
    box = geometry.letterbox((masks.shape[-2], masks.shape[-1]), target)
    flat = masks.reshape(-1, *masks.shape[-2:])
    out = np.empty((len(flat), *grid))
    for number, mask in enumerate(flat):  # one at a time: a mask as float64 is eight times larger
        out[number] = box.coverage(mask, grid)
    return out.reshape(*masks.shape[:-2], *grid)


def in_sight(coverage: Float[NumpyArray, "*b gh gw"]) -> Bool[NumpyArray, "*b"]:
    """Whether any patch shows an object at all."""
    return coverage.sum((-2, -1)) > _EMPTY


def content_share(
    picture: geometry.Size, grid: geometry.Size, target: geometry.Size
) -> Float[NumpyArray, "gh gw"]:
    """Share of every patch that is picture and not bar, in [0, 1]."""
    return 1.0 - geometry.letterbox(picture, target).bar_share(grid)


def bar_mass(
    maps: Float[NumpyArray, "*b gh gw"], content: Float[NumpyArray, "gh gw"]
) -> Float[NumpyArray, "*b"]:
    """Probability on the letterbox bars; a patch that is half bar gives half of its mass."""
    return np.asarray(np.einsum("...yx,yx->...", maps.astype(np.float64), 1.0 - content))


def object_metrics(
    maps: Float[NumpyArray, "t *m gh gw"],
    coverage: Float[NumpyArray, "_ o _ _"],
    *,
    content: Float[NumpyArray, "gh gw"] | None = None,
    names: Sequence[str] = METRICS,
    tau: float = TAU,
    top_share: float = TOP_SHARE,
) -> dict[str, Float[NumpyArray, "t *m o"]]:
    """Every measure of every map against every object of its frame, float64.

    | name | definition |
    |---|---|
    | overlap | sum(a f) / sum(a); NaN where the object is out of sight |
    | area_fraction, lift | sum(f) / patches; overlap over it, 1 is chance |
    | concentration | mean_inside / mean_outside |
    | mean_inside, mean_outside | sum(a f) / sum(f), sum(a (1 - f)) / sum(1 - f) |
    | iou | of {a > tau max(a)} and the inside |
    | topk_precision, topk_recall, topk_iou | of the k largest patches and the inside |
    | auroc | chance that a patch inside has more than one outside; ties count half |
    | pointing | 1 when the largest patch is inside; ties share |
    | nss | mean z-score of the patches inside |

    Args:
      maps: probabilities, one map per frame and whatever else.
      coverage: share of every patch that each object covers, (t, o, gh, gw).
      content: share of every patch that is picture; None counts bars as picture.
      names: which of `METRICS`.
      tau: threshold of `iou`, in [0, 1).
      top_share: k as a share of the patches, at least one patch.

    Raises:
      ConfigError: an unknown name, a threshold outside its range, or shapes that do not fit.
    """
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise ConfigError(f"unknown metric {unknown[0]!r}", fix=f"Use any of {METRICS}")
    if not 0 <= tau < 1 or not 0 < top_share <= 1:
        raise ConfigError(f"tau {tau} or top_share {top_share} is out of range")
    grid, frames, objects = maps.shape[-2:], maps.shape[0], coverage.shape[1]
    if coverage.shape[-2:] != grid or coverage.shape[0] != frames:
        raise ConfigError(f"coverage {coverage.shape} does not fit maps {maps.shape}")
    middle = maps.shape[1:-2]
    a = np.asarray(maps, np.float64).reshape(frames, -1, grid[0] * grid[1])
    c = np.ones(a.shape[-1]) if content is None else content.astype(np.float64).ravel()
    f = np.minimum(coverage.astype(np.float64).reshape(frames, objects, -1), c)
    out = _area_measures(a, f, c)
    if set(names) & set(_SETS):
        picture = c > _EMPTY
        inside = f[..., picture] >= 0.5 * c[picture] - 1e-9  # half, up to rounding
        out |= _set_measures(a[..., picture], inside, tau, top_share, names)
    empty = ~(a @ c > 0)[..., None]
    return {
        name: np.where(empty & (name != "area_fraction"), np.nan, out[name]).reshape(
            frames, *middle, objects
        )
        for name in names
    }


def ratio(over: NumpyArray, under: NumpyArray) -> NumpyArray:
    """Quotient, NaN where the divisor is not above zero."""
    good = under > _EMPTY
    return np.where(good, over / np.where(good, under, 1.0), np.nan)


def _area_measures(a: NumpyArray, f: NumpyArray, c: NumpyArray) -> dict[str, NumpyArray]:
    """`a` (t, m, patch), `f` (t, o, patch), `c` (patch,) -> (t, m, o) each."""
    mass_in = a @ f.swapaxes(1, 2)
    mass_out = a @ (c - f).swapaxes(1, 2)
    total = (a @ c)[..., None]
    size_in, size_out = (x.sum(-1)[:, None, :] for x in (f, c - f))
    share = np.broadcast_to(size_in / c.sum(), mass_in.shape)
    # An object that no patch shows is out of sight. That nothing lies on it says nothing of a map.
    overlap = np.where(size_in > _EMPTY, mass_in / np.where(total > 0, total, np.nan), np.nan)
    mean_in, mean_out = ratio(mass_in, size_in), ratio(mass_out, size_out)
    return {
        "overlap": overlap,
        "area_fraction": share,
        "lift": ratio(overlap, share),
        "mean_inside": mean_in,
        "mean_outside": mean_out,
        "concentration": mean_in / np.where(mean_out > 0, mean_out, np.nan),
    }


def _set_measures(
    a: NumpyArray, inside: NumpyArray, tau: float, top_share: float, names: Sequence[str]
) -> dict[str, NumpyArray]:
    """`a` (t, m, patch), `inside` (t, o, patch) bool -> (t, m, o) each."""
    patches = a.shape[-1]
    columns = inside.astype(np.float64).swapaxes(1, 2)  # (t, patch, o)
    size = columns.sum(1)[:, None, :]
    peak = a.max(-1, keepdims=True)
    out: dict[str, NumpyArray] = {}
    if "iou" in names:
        hot = (a > tau * peak).astype(np.float64)
        both = hot @ columns
        out["iou"] = np.where(
            size > 0, both / np.maximum(hot.sum(-1)[..., None] + size - both, 1), np.nan
        )
    if {"topk_precision", "topk_recall", "topk_iou"} & set(names):
        k = max(1, round(top_share * patches))
        top = np.zeros_like(a)
        np.put_along_axis(top, np.argsort(-a, axis=-1, kind="stable")[..., :k], 1.0, axis=-1)
        both = top @ columns
        defined = np.where(size > 0, 1.0, np.nan)
        out["topk_precision"] = both / k * defined
        out["topk_recall"] = ratio(both, size)
        out["topk_iou"] = both / (k + size - both) * defined
    if "auroc" in names:
        ranks = scipy.stats.rankdata(a, axis=-1) @ columns
        out["auroc"] = ratio(ranks - size * (size + 1) / 2, size * (patches - size))
    if "pointing" in names:
        at_peak = (a == peak).astype(np.float64)
        shared = ratio(at_peak @ columns, at_peak.sum(-1)[..., None])  # a map of NaN has no peak
        out["pointing"] = np.where(size > 0, shared, np.nan)
    if "nss" in names:
        mean, deviation = a.mean(-1)[..., None], a.std(-1)[..., None]
        spread = deviation > 1e-12 * np.maximum(peak, 1e-300)  # an even map differs by rounding
        out["nss"] = np.where(
            spread, (ratio(a @ columns, size) - mean) / np.where(spread, deviation, 1.0), np.nan
        )
    return out
