"""Definitions of two earlier systems, kept as they were so that their numbers can be reproduced.

`seed1` draws what an action token looks at; `seed2` measures what text looks at. They differ from
the definitions of this package, and each docstring says how. Use them to compare with old results,
not to measure.

Axis names: (call, denoise, layer, head, query, key), see `core.record`; gh gw patch grid.

    old = seed2_object_metrics(seed2_maps(record, "image/wrist")[0, 0, 5], mask224)
"""

from __future__ import annotations

import cv2
import numpy as np

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


def seed2_focus(patch_map: Float[NumpyArray, "gh gw"]) -> float:
    """seed2: variance of the map scaled to 1, largest when half of the patches are hot.

    One hot patch of 256 gives .004 and 128 give .25, so the sharpest heads rank low. (It was
    computed from grey JPEG files, at 255 times 255 of this.)
    """
    return float(np.var(patch_map.astype(np.float64) / (patch_map.max() or 1.0)))


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
