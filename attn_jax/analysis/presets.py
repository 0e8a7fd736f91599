"""Definitions of two earlier systems, kept as they were so that their numbers can be reproduced.

`seed1` draws what an action token looks at; `seed2` measures what text looks at. They differ from
the definitions of this package, and each docstring says how. Use them to compare with old results,
not to measure.

Axis names: (call, denoise, layer, head, query, key), see `core.record`; gh gw patch grid.

    old = seed2_object_metrics(seed2_maps(record, "image/wrist")[0, 0, 5], mask224)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
import scipy

from attn_jax.analysis import reduce
from attn_jax.core.errors import RecordError
from attn_jax.core.record import AttentionRecord
from attn_jax.core.typing import Bool, Float, NumpyArray

_EPS = 1e-8


def seed1_maps(
    record: AttentionRecord, camera: str, action: int = 0
) -> Float[NumpyArray, "call denoise layer gh gw"]:
    """seed1: mean over heads of one action token (its default: the first) on one camera.

    Its defaults for the other axes were denoising step 9 and layer 17.
    """
    return reduce.reduce_record(record, query="action", key=camera, span=(action, action + 1))


def seed2_maps(
    record: AttentionRecord, camera: str, *, heads: str = "mean", queries: str = "max"
) -> Float[NumpyArray, "call denoise layer gh gw"]:
    """seed2: heads joined, then every row behind the second camera, dummies and padding included.

    Rows of tokens that nothing may attend to were uniform there, 1 over the number of tokens, and
    are so here. With `queries="max"` that is a floor under the map; with "mean", a constant over
    most of it. `heads="max"` is the order of its fidelity test.

    Args:
      record: full maps of a prefix.
      camera: one of the first two camera groups.
      heads: how heads are joined.
      queries: how rows are joined.

    Raises:
      RecordError: no full maps, or a layout with fewer than two cameras.
    """
    cameras = [group for group in record.layout.groups if group.grid]
    if record.reduction != "full" or len(cameras) < 2:
        raise RecordError(
            f"{record.reduction} of {record.stream!r} with {len(cameras)} cameras",
            fix="Capture with streams=prefix;reduce=full and at least two cameras",
        )
    start = max(max(group.indices) for group in cameras[:2]) + 1
    tokens = record.layout.axis_tokens("query")
    rows = np.flatnonzero(tokens >= start)
    real = np.isin(tokens[rows], record.layout.tokens("valid"))
    columns = record.layout.positions(camera, "key")
    grid = record.layout.group(camera).grid
    out = []
    for values in reduce.calls(record):
        picked = values[..., rows[:, None], columns].astype(np.float64)
        picked[..., ~real, :] = 1.0 / record.layout.length
        out.append(reduce.join(reduce.join(picked, heads, axis=2), queries, axis=-2))
    maps = np.stack(out)
    return maps.reshape(*maps.shape[:-1], *(grid or ()))


def seed2_object_metrics(
    patch_map: Float[NumpyArray, "gh gw"], mask: Bool[NumpyArray, "h w"]
) -> dict[str, float]:
    """seed2: measures on the map enlarged by cubic interpolation and divided by its maximum.

    Interpolation changes the masses (12 % in the mean on speckled maps), the means are not
    probabilities, the epsilon biases small values, and an empty mask gives 0. The IoU compares with
    every pixel of the mask at 224 x 224.
    """
    size = (mask.shape[1], mask.shape[0])
    big = cv2.resize(patch_map.astype(np.float64), size, interpolation=cv2.INTER_CUBIC)
    big = np.maximum(big, 0)
    norm = big / big.max() if big.max() > 0 else big
    inside = float(norm[mask].mean()) if mask.any() else 0.0
    outside = float(norm[~mask].mean()) if (~mask).any() else 0.0
    hot = norm > 0.3
    return {
        "overlap_ratio": float(norm[mask].sum() / (norm.sum() + _EPS)),
        "attention_concentration": inside / (outside + _EPS),
        "iou": float((hot & mask).sum() / ((hot | mask).sum() + _EPS)),
        "mean_attn_inside": inside,
        "mean_attn_outside": outside,
    }


def seed2_shift(
    base: Float[NumpyArray, "gh gw"], other: Float[NumpyArray, "gh gw"]
) -> dict[str, float]:
    """seed2: counterfactual statistics; `l2_distance` grows with the scale of the maps."""
    diff = other.astype(np.float64) - base
    return {
        "mean_diff": float(diff.mean()),
        "abs_mean_diff": float(np.abs(diff).mean()),
        "max_increase": float(diff.max()),
        "max_decrease": float(diff.min()),
        "l2_distance": float(np.linalg.norm(diff)),
        "correlation": float(np.corrcoef(base.ravel(), other.ravel())[0, 1]),
    }


def seed2_fidelity(
    clean: Float[NumpyArray, "H A"], high: Float[NumpyArray, "H A"], low: Float[NumpyArray, "H A"]
) -> float:
    """seed2: plain difference of mean squared errors, in squared units of the action."""
    return float(np.mean((clean - high) ** 2) - np.mean((clean - low) ** 2))


def seed2_masks(
    patch_map: Float[NumpyArray, "gh gw"],
    *,
    rng: np.random.Generator,
    percentile: float = 90.0,
) -> tuple[Bool[NumpyArray, "gh gw"], Bool[NumpyArray, "gh gw"]]:
    """seed2: (high, low) patches of one camera that its fidelity test hid.

    High is what exceeds a percentile of the map, bars included; low is as many of the other patches
    drawn one by one. A set of attended patches is compact and drawn ones are scattered, so the two
    differ in shape as well; and a map with equal values may have fewer than its share above.

    Args:
      patch_map: `seed2_maps(record, camera, heads="max")` of one call and layer.
      rng: of the draw; theirs had no seed.
      percentile: in [0, 100].
    """
    high = patch_map > np.percentile(patch_map, percentile)
    low = np.zeros_like(high)
    others = np.flatnonzero(~high)
    low.ravel()[rng.choice(others, min(int(high.sum()), len(others)), replace=False)] = True
    return high, low


def seed2_occlusion(
    infer: Callable[[dict[str, NumpyArray]], Float[NumpyArray, "H A"]],
    pictures: Mapping[str, NumpyArray],
    maps: Mapping[str, Float[NumpyArray, "gh gw"]],
    *,
    seed: int,
    percentile: float = 90.0,
) -> dict[str, float]:
    """seed2: its whole fidelity test of one frame and layer, both cameras covered at once.

    Which camera mattered cannot be told, and the two masks differ in shape (`seed2_masks`). Its
    policy drew other noise in each of the three inferences; that is the business of `infer` here.

    Args:
      infer: pictures by camera -> actions.
      pictures: (h, w, 3) of every camera, whole patches; covered ones become 0, black.
      maps: map of every camera.
      seed: of the low masks.
      percentile: of `seed2_masks`.

    Returns:
      `mse_high`, `mse_low` and `fidelity`, their difference.
    """
    rng = np.random.default_rng(seed)
    hidden: list[dict[str, NumpyArray]] = [{}, {}]
    for camera, patch_map in maps.items():
        for out, patches in zip(
            hidden, seed2_masks(patch_map, rng=rng, percentile=percentile), strict=True
        ):
            sides = [n // m for n, m in zip(pictures[camera].shape, patches.shape, strict=False)]
            pixels = np.kron(patches, np.ones(sides, bool)).astype(bool)
            out[camera] = np.where(pixels[..., None], 0, pictures[camera])
    clean, high, low = (infer({**pictures, **one}) for one in ({}, *hidden))
    return {
        "mse_high": float(np.mean((clean - high) ** 2)),
        "mse_low": float(np.mean((clean - low) ** 2)),
        "fidelity": seed2_fidelity(clean, high, low),
    }


def seed2_focus(patch_map: Float[NumpyArray, "gh gw"]) -> float:
    """seed2: variance of the grey values of its picture of a head, in JET colours at 224 x 224.

    The picture is made by cubic interpolation, scaled to 255 and cast to eight bits, where negative
    overshoot wraps around; only its JPEG compression is left out. JET has its darkest grey at both
    ends, so this is no measure of focus: a map half of which is hot has a larger one than a single
    hot patch, and so the sharpest heads rank low.
    """
    big = cv2.resize(patch_map.astype(np.float64), (224, 224), interpolation=cv2.INTER_CUBIC)
    scaled = 255 * big / (np.max(big) + _EPS)
    wrapped = scaled.astype(np.int64).astype(np.uint8)
    return float(np.asarray(cv2.cvtColor(_jet()[wrapped], cv2.COLOR_BGR2GRAY)).var())


@functools.cache
def _jet() -> NumpyArray:
    """(256, 3) BGR. OpenCV makes this table anew on every call, which would be most of the time."""
    return cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_JET)[:, 0]


def seed2_entropy(patch_map: Float[NumpyArray, "gh gw"]) -> float:
    """seed2: entropy in nats with an epsilon inside the logarithm."""
    p = patch_map.astype(np.float64).ravel() / patch_map.sum(dtype=np.float64)
    return float(-np.sum(p * np.log(p + _EPS)))


def seed2_stability(maps: Float[NumpyArray, "t gh gw"]) -> float:
    """seed2: one over the mean distance of consecutive frames; has the unit of 1 / probability."""
    steps = np.diff(maps.astype(np.float64), axis=0).reshape(len(maps) - 1, -1)
    return float(1.0 / (np.linalg.norm(steps, axis=-1).mean() + _EPS))


def seed2_roi_mass(
    patch_map: Float[NumpyArray, "gh gw"],
    box: tuple[int, int, int, int],
    size: tuple[int, int] = (224, 224),
) -> float:
    """seed2: mass in a box (x1, y1, x2, y2) of the picture stretched to the grid, no letterbox.

    A patch counts whole when its centre is in the box; `size` is (height, width) of the picture.
    The gripper was the fixed box (80, 80, 64, 144) of 224 x 224 pixels, as (x, y, width, height).
    """
    rows, columns = patch_map.shape
    y = (np.arange(rows) + 0.5) * size[0] / rows
    x = (np.arange(columns) + 0.5) * size[1] / columns
    x1, y1, x2, y2 = box
    inside = ((y >= y1) & (y < y2))[:, None] & ((x >= x1) & (x < x2))[None]
    return float(patch_map.astype(np.float64)[inside].sum())


def seed2_student_t(x: Float[NumpyArray, "n"], y: Float[NumpyArray, "m"]) -> tuple[float, float]:
    """seed2: (t, two-sided p) of Student's test, which takes the variances as equal.

    It was given frames of all episodes as independent samples.
    """
    found: Any = scipy.stats.ttest_ind(x, y)
    return float(found.statistic), float(found.pvalue)


def seed2_cohens_d(x: Float[NumpyArray, "n"], y: Float[NumpyArray, "m"]) -> float:
    """seed2: mean difference over the root mean of the population variances (ddof 0, unweighted).

    For equal sizes n it exceeds the sample effect size by sqrt(n / (n - 1)).
    """
    spread = np.sqrt((np.std(x) ** 2 + np.std(y) ** 2) / 2)
    return float((np.mean(x) - np.mean(y)) / spread) if spread > 0 else float("nan")


def seed2_interval(
    x: Float[NumpyArray, "n"], *, seed: int, resamples: int = 1000, confidence: float = 0.95
) -> tuple[float, float]:
    """seed2: percentile bootstrap interval of the mean; theirs was drawn without a seed."""
    draws = np.random.default_rng(seed).choice(x, size=(resamples, len(x)), replace=True)
    tail = (1 - confidence) / 2 * 100
    low, high = np.percentile(draws.mean(1), (tail, 100 - tail))
    return float(low), float(high)
