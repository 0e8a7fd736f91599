"""Analysis of an episode against a loop over frames in NumPy and OpenCV.

    python -m benchmarks.analysis_speed [--small] [--json]

One episode: 23 keyframes, 18 layers, 8 heads, 4 objects, 2 cameras, 4 other prompts, 50 actions, 10
denoising steps at full token counts. All metrics of H1.1 (of the whole input and of the picture
without letterbox bars), H2.1 (of maps and of actions), H3 and H4. Both sides start from the same
maps in memory, (frame, layer, head, 16, 16) for text and (frame, layer, action, image patches) for
actions, so what is compared is arithmetic, not files or the size of what was kept.

The loop does what the earlier system describes: for every frame, layer and object it enlarges the
map to 224 x 224 with cubic interpolation and takes overlap, concentration and IoU there, and again
of the rows that are picture (which that system does not do); for every prompt it takes the six
differences of maps and the distance of the actions; for every action the sums over regions; for
every head a colour picture, turned grey, and its variance (without writing and reading the files).
Ours computes more: 13 measures of objects instead of 5, both times, 9 of change instead of 6, 8 of
heads instead of 1.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import statistics
import subprocess
import sys
import time
from typing import Any

import cv2
import numpy as np
from absl import flags

from attn_jax.analysis import focus, heads, overlap, presets, shift, temporal
from launch import app

SMALL = flags.DEFINE_bool(
    "small", False, "A small episode, one round, for tests.", allow_override=True
)
ROUNDS = flags.DEFINE_integer(
    "rounds", 3, "Rounds whose median is printed.", lower_bound=1, allow_override=True
)
RSS = flags.DEFINE_bool("rss", False, "Internal: run ours in this process, print its memory.")

BOX = (0, 0, 224, 224)
GRID = (16, 16)
PICTURE = (126, 224)  # rows and columns of a 16:9 picture in the model's input
ROWS = slice(49, 175)  # of the input that are picture
ACTION_SIZE = 8


@dataclasses.dataclass(frozen=True)
class Size:
    """Sizes of the episode."""

    frames: int = 23
    layers: int = 18
    heads: int = 8
    objects: int = 4
    prompts: int = 4
    actions: int = 50


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """Maps and masks in memory.

    Attributes:
      base: (frame, layer, head, 16, 16) float32, text on the wrist camera.
      prompts: (prompt, frame, layer, head, 16, 16) float32.
      action: (frame, layer, action, 16, 16) float32, heads joined.
      masks: (frame, object, 224, 224) bool.
      chunks: (1 + prompt, frame, action, A) float32, predicted actions; the base comes first.
    """

    base: np.ndarray
    prompts: np.ndarray
    action: np.ndarray
    masks: np.ndarray
    chunks: np.ndarray


def make(size: Size) -> Data:
    """Random maps and rectangular objects."""
    rng = np.random.default_rng(0)

    def maps(*shape: int) -> np.ndarray:
        values = rng.exponential(size=(*shape, *GRID)).astype(np.float32) ** 2
        return values / values.sum((-2, -1), keepdims=True) * 0.3

    masks = np.zeros((size.frames, size.objects, 224, 224), bool)
    for frame, item in np.ndindex(size.frames, size.objects):
        top, left = rng.integers(ROWS.start, ROWS.stop - 60), rng.integers(0, 160)
        height, width = rng.integers(20, 60, 2)
        masks[frame, item, top : top + height, left : left + width] = True
    stack = (size.frames, size.layers, size.heads)
    return Data(
        maps(*stack),
        maps(size.prompts, *stack),
        maps(size.frames, size.layers, size.actions),
        masks,
        rng.normal(size=(1 + size.prompts, size.frames, size.actions, ACTION_SIZE)).astype("f4"),
    )


def ours(data: Data) -> dict[str, Any]:
    """All metrics with this package."""
    coverage = overlap.patch_coverage(data.masks, GRID, (224, 224))
    mean = data.base.mean(2, dtype=np.float64)
    content = overlap.content_share(PICTURE, GRID, (224, 224))
    out: dict[str, Any] = {"h1_1": overlap.object_metrics(mean, coverage)}
    out["h1_1_picture"] = overlap.object_metrics(mean, coverage, content=content)
    base, *others = data.chunks
    std = base.reshape(-1, base.shape[-1]).std(0).astype(np.float64)
    out["h2_1_actions"] = [shift.action_delta(base, other, std)[0] for other in others]
    out["h2_1"] = [
        shift.shift_metrics(mean, other.mean(2, dtype=np.float64), box=BOX)
        for other in data.prompts
    ]
    curves = np.stack(
        [
            temporal.roi_mass(maps, regions)
            for maps, regions in zip(data.action, coverage, strict=True)
        ]
    )
    out["h3"] = curves, temporal.slope(curves, axis=2)
    flat = data.base.reshape(*data.base.shape[:3], -1)
    entropy = focus.normalised_entropy(flat)
    lift = overlap.object_metrics(data.base, coverage, names=("lift",))["lift"]
    out["h4"] = {
        "entropy": entropy,
        "effective": focus.effective_patches(flat),
        "gini": focus.gini(flat),
        "topk": focus.top_k_mass(flat, 26),
        "max": flat.max(-1),
        "rank": focus.effective_rank(np.moveaxis(flat, 0, 2)),
        "lift": lift,
        "ranking": heads.rank_heads(
            entropy,
            lift[..., 0],
            layers=range(flat.shape[1]),
            heads=range(flat.shape[2]),
            seed=0,
            resamples=200,
        ),
    }
    return out


def loop(data: Data) -> dict[str, Any]:
    """The same questions, one frame at a time, as the earlier system describes."""
    frames, layers, num_heads = data.base.shape[:3]
    objects, shifts, curves, moved = [], [], [], []
    base, *others = data.chunks
    std = base.reshape(-1, base.shape[-1]).std(axis=0)
    for frame in range(frames):
        for other in others:
            difference = (other[frame] - base[frame]) / std
            moved.append(float(np.mean(np.linalg.norm(difference, axis=-1))))
        regions = [cv2.resize(mask.astype(np.float32), GRID) for mask in data.masks[frame]]
        for layer in range(layers):
            attn = data.base[frame, layer].mean(axis=0)
            for mask in data.masks[frame]:
                objects.append(_on_object(attn, mask))
            for other in data.prompts:
                shifts.append(_difference(attn, other[frame, layer].mean(axis=0)))
            for row in data.action[frame, layer]:
                for region in regions:
                    curves.append(float(np.sum(row * region)))
    scores = []
    for layer in range(layers):
        for head in range(num_heads):
            values = [presets.seed2_focus(data.base[frame, layer, head]) for frame in range(frames)]
            scores.append(((layer, head), float(np.mean(values))))
    scores.sort(key=lambda item: item[1], reverse=True)
    return {
        "h1_1": [whole for whole, _ in objects],
        "h1_1_picture": [picture for _, picture in objects],
        "h2_1": shifts,
        "h2_1_actions": moved,
        "h3": curves,
        "h4": scores,
    }


def _on_object(attn: np.ndarray, mask: np.ndarray) -> tuple[dict[str, float], dict[str, float]]:
    """Of the whole input, and of the picture alone; the map is enlarged once."""
    big = np.maximum(cv2.resize(attn, (224, 224), interpolation=cv2.INTER_CUBIC), 0)
    return _measures(big, mask), _measures(big[ROWS], mask[ROWS])


def _measures(big: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    norm = big / big.max() if big.max() > 0 else big
    inside = norm[mask].mean() if mask.sum() > 0 else 0
    outside = norm[~mask].mean() if (~mask).sum() > 0 else 0
    hot = norm > 0.3
    return {
        "overlap_ratio": float(norm[mask].sum() / (norm.sum() + 1e-8)),
        "attention_concentration": float(inside / (outside + 1e-8)),
        "iou": float((hot & mask).sum() / ((hot | mask).sum() + 1e-8)),
        "mean_attn_inside": float(inside),
        "mean_attn_outside": float(outside),
    }


def _difference(base: np.ndarray, other: np.ndarray) -> dict[str, float]:
    diff = other - base
    return {
        "mean_diff": float(np.mean(diff)),
        "abs_mean_diff": float(np.mean(np.abs(diff))),
        "max_increase": float(np.max(diff)),
        "max_decrease": float(np.min(diff)),
        "l2_distance": float(np.linalg.norm(diff)),
        "correlation": float(np.corrcoef(base.flatten(), other.flatten())[0, 1]),
    }


def _seconds(function: Any, data: Data) -> tuple[float, float]:
    """Wall-clock and processor seconds of one run."""
    started, used = time.perf_counter(), time.process_time()
    function(data)
    return time.perf_counter() - started, time.process_time() - used


def _peak_mb() -> float:
    """Peak resident memory of this process, MB; `ru_maxrss` would count the parent's too."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1e3


def memory_mb(small: bool) -> dict[str, float]:
    """Peak memory of ours with its data, and after its imports, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.analysis_speed", "--rss"]
    done = subprocess.run(
        [*command, *(["--small"] if small else [])], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> dict[str, Any]:
    """Runs the benchmark; returns its figures."""
    size = Size(3, 2, 2, 2, 2, 5) if SMALL.value else Size()
    if RSS.value:
        before = _peak_mb()
        ours(make(size))
        print(json.dumps({"imports": before, "peak": _peak_mb()}))
        return {}
    cv2.setNumThreads(1)  # such small pictures lose by threads, badly so on a busy machine
    data = make(size)
    ours(data)  # once, so that caches are as warm as in a run over many episodes
    rounds = 1 if SMALL.value else ROUNDS.value
    times: dict[str, list[tuple[float, float]]] = {"ours": [], "loop": []}
    for _ in range(rounds):  # taking turns
        times["ours"].append(_seconds(ours, data))
        times["loop"].append(_seconds(loop, data))
    wall, cpu = (
        {name: statistics.median(pair[i] for pair in pairs) for name, pairs in times.items()}
        for i in (0, 1)
    )
    result = {
        "size": dataclasses.asdict(size),
        "seconds": wall,
        "cpu_seconds": cpu,
        "ratio": wall["loop"] / wall["ours"],
        "cpu_ratio": cpu["loop"] / cpu["ours"],
        "memory_mb": memory_mb(SMALL.value),
    }
    print(
        f"loop {wall['loop']:.2f} s, ours {wall['ours']:.3f} s: {result['ratio']:.0f}x"
        f" ({result['cpu_ratio']:.0f}x of processor time);"
        f" memory {result['memory_mb']['peak']:.0f} MB,"
        f" {result['memory_mb']['imports']:.0f} MB after the imports"
    )
    return result


if __name__ == "__main__":
    app.run(main)
