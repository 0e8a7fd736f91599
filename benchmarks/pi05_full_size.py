"""Pi0.5 at full size on this machine: write a checkpoint, read it, predict with attention.

    python -m benchmarks.pi05_full_size --folder=DIR [--small] [--keep] [--json]
        [--precision=float32,bfloat16_lerobot]

Writes a random checkpoint as LeRobot's bfloat16 mode saves it (9.35 GB; one tensor at a time,
seeded) into DIR/pi05_full_size, then, in one process per precision, reads it through the bridge and
predicts a chunk from LIBERO-like input (2 cameras and a dummy, 144 real prompt tokens) with the
maps of the suffix's last two layers captured; at last the checkpoint is removed. Printed are
seconds of every stage, the largest resident memory so far, and the roofline: operations and bytes
of the prediction over what a matrix product and a copy reach here in the same process.

float32 takes 13.4 GB of weights, bfloat16_lerobot 7.8 GB. Target: reading holds at most the
parameters and 2 GB.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import resource
import shutil
import subprocess
import sys
import time
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from attn_jax.bridge.pi05_write import write_pi05
from attn_jax.core.errors import InputError
from attn_jax.models.pi05.config import Architecture, Pi05Config
from attn_jax.models.pi05.model import param_shapes
from attn_jax.policies.observations import describe, prepare
from attn_jax.policies.policy import with_weights
from attn_jax.probe.select import Selection
from launch import app, compile_cache

CAMERAS = ("base", "wrist", "spare")
REAL_CAMERAS, REAL_TOKENS = 2, 144
SELECTION = "streams=suffix;layers=last:2;reduce=full;dtype=float16"
ALLOWANCE_BYTES = 2e9
FULL = Architecture()
TINY = Architecture(64, 128, 32, 64, 3, 8, 1, 16, 300, 48, 2, 4, 96, 56)
# Numbers are drawn once and repeated; a prime number of them, so that no two rows are alike.
_DRAWN = 1_000_003


@dataclasses.dataclass(frozen=True)
class RandomArray:
    """An array that is made when it is read, and not kept.

    Attributes:
      shape, dtype: of the array.
      seed: which numbers.
      scale: their standard deviation.
    """

    shape: tuple[int, ...]
    dtype: Any
    seed: int
    scale: float

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        drawn = np.random.default_rng(self.seed).standard_normal(_DRAWN, np.float32) * self.scale
        return np.resize(drawn.astype(dtype or self.dtype), self.shape)


def config_of(sizes: Architecture) -> Pi05Config:
    """The model of the checkpoint."""
    return Pi05Config(sizes, CAMERAS, action_dim=7, precision="bfloat16_lerobot")


def write_checkpoint(folder: pathlib.Path, config: Pi05Config) -> int:
    """Writes it; returns its size in bytes.

    Raises:
      InputError: the disk has no room.
    """
    shapes: dict[str, Any] = flax.traverse_util.flatten_dict(param_shapes(config), sep="/")
    sizes = config.architecture
    heads = sizes.vocab * (sizes.width + sizes.expert_width) * np.dtype(config.dtype).itemsize
    needed = heads + sum(leaf.size * leaf.dtype.itemsize for leaf in shapes.values())
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free
    if free < 1.05 * needed:
        raise InputError(
            f"{needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free", where=folder.parent
        )
    params = {
        path: RandomArray(leaf.shape, leaf.dtype, seed, _scale(path, leaf.shape))
        for seed, (path, leaf) in enumerate(sorted(shapes.items()))
    }
    write_pi05(folder, config, flax.traverse_util.unflatten_dict(params, sep="/"))
    return sum(file.stat().st_size for file in folder.iterdir())


def _scale(path: str, shape: tuple[int, ...]) -> float:
    if path.endswith("kernel"):
        fan_in = np.prod(shape[:-1]) if "out" in path or "patch" in path else shape[0]
        return float(fan_in) ** -0.5
    return 0.02 if path == "embedding" else 0.1


def operations(config: Pi05Config, tokens: int) -> float:
    """Multiplications and additions of one prediction from `tokens` prefix tokens."""
    s, horizon = config.architecture, config.chunk_size
    vision = 4 * s.vision_width**2 + 2 * s.vision_width * s.vision_mlp
    vision_maps = 2 * s.image_tokens * s.vision_width
    total = REAL_CAMERAS * s.image_tokens * s.vision_depth * (vision + vision_maps)
    total += REAL_CAMERAS * s.image_tokens * s.vision_width * (s.width + 3 * s.patch_size**2)
    inner = s.heads * s.head_dim
    keys = 2 * s.kv_heads * s.head_dim
    # The last layer of the prefix needs keys and values only.
    layer = s.width * (2 * inner + keys + 3 * s.mlp) + 2 * tokens * inner
    total += tokens * ((s.depth - 1) * layer + s.width * keys)
    step = s.expert_width * (2 * inner + keys + 3 * s.expert_mlp)
    step = horizon * s.depth * (step + 2 * (tokens + horizon) * inner)
    return 2.0 * (total + config.num_inference_steps * step)


def bytes_read(config: Pi05Config, params: Any) -> float:
    """Weights that one prediction reads: the expert's matrices at every step, the others once."""
    flat: dict[str, Any] = flax.traverse_util.flatten_dict(params, sep="/")
    total = 0.0
    for path, leaf in flat.items():
        each_step = path.startswith("expert") and "dense" not in path
        times = config.num_inference_steps if each_step else 1
        total += leaf.nbytes * (0 if path == "embedding" else times)
    return total


def predict(folder: pathlib.Path, precision: str) -> dict[str, Any]:
    """Reads the checkpoint and predicts twice, in this process."""
    stages: dict[str, float] = {}

    def stage(name: str, started: float) -> None:
        stages[name] = round(time.perf_counter() - started, 3)

    started = time.perf_counter()
    description = describe(folder, precision=precision)
    before = _resident_bytes()
    policy = with_weights(description, capture=Selection.parse(SELECTION))
    stage("read", started)
    config, params = policy.config, policy._params
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    result: dict[str, Any] = {
        "parameter_bytes": size,
        "peak_after_reading": _peak_bytes(),
        "above_parameters": _peak_bytes() - before - size,
    }
    side, prompt = config.architecture.image_size, config.prompt_length
    rng = np.random.default_rng(0)
    keys = [description.image_keys[name] for name in CAMERAS[:REAL_CAMERAS]]
    real = min(REAL_TOKENS, prompt)
    observation = {key: rng.random((1, 3, side, side), np.float32) for key in keys}
    observation["observation.language.tokens"] = rng.integers(
        3, config.architecture.vocab, (1, prompt)
    )
    observation["observation.language.attention_mask"] = (np.arange(prompt) < real)[None]
    prepared = prepare(description, observation)
    noise = policy.noise(jax.random.key(0), 1)
    for name in ("compile_and_predict", "predict"):
        started = time.perf_counter()
        prediction = policy.run(prepared, noise=noise)
        stage(name, started)
    assert prediction.records is not None and np.isfinite(prediction.actions).all()
    tokens = REAL_CAMERAS * config.architecture.image_tokens + real
    work, moved = operations(config, tokens), bytes_read(config, params)
    flops, bandwidth = _ceilings(config)
    return {
        **result,
        "seconds": stages,
        "peak": _peak_bytes(),
        "captured_shape": [*prediction.records[0]["suffix"].values.shape],
        "operations": work,
        "bytes_read": moved,
        "roofline_s": max(work / flops, moved / bandwidth),
        "reached_flops_per_s": work / stages["predict"],
        "ceiling_flops_per_s": flops,
        "ceiling_bytes_per_s": bandwidth,
        "holds": result["above_parameters"] <= ALLOWANCE_BYTES,
    }


def _resident_bytes() -> int:
    """Resident memory of this process now; 0 where the system does not tell."""
    statm = pathlib.Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * resource.getpagesize() if statm.exists() else 0


def _peak_bytes() -> int:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _ceilings(config: Pi05Config) -> tuple[float, float]:
    """Operations per second of the MLP's product, bytes per second of a copy; best of five."""
    s = config.architecture
    x = jnp.ones((656, s.width), config.dtype)
    kernel = jnp.ones((s.width, s.mlp), config.dtype)
    product = jax.jit(jnp.matmul)
    source, target = np.ones(1 << 26, np.uint8), np.empty(1 << 26, np.uint8)
    best, copied = float("inf"), float("inf")
    for _ in range(5):
        started = time.perf_counter()
        product(x, kernel).block_until_ready()
        best = min(best, time.perf_counter() - started)
        started = time.perf_counter()
        np.copyto(target, source)
        copied = min(copied, time.perf_counter() - started)
    return 2.0 * 656 * s.width * s.mlp / best, 2.0 * source.size / copied


def render(precision: str, found: dict[str, Any]) -> str:
    """One precision as text."""
    seconds = ", ".join(f"{name} {value:.1f} s" for name, value in found["seconds"].items())
    return (
        f"{precision}: {seconds}; parameters {found['parameter_bytes'] / 1e9:.2f} GB, largest"
        f" resident memory {found['peak'] / 1e9:.2f} GB, reading held"
        f" {found['above_parameters'] / 1e9:.2f} GB above the parameters"
        f" ({'holds' if found['holds'] else 'MISSED'})\n"
        f"  {found['operations'] / 1e12:.2f} TFLOP and {found['bytes_read'] / 1e9:.1f} GB of"
        f" weights: roofline {found['roofline_s']:.1f} s at"
        f" {found['ceiling_flops_per_s'] / 1e9:.0f} GFLOP/s and"
        f" {found['ceiling_bytes_per_s'] / 1e9:.1f} GB/s; reached"
        f" {found['reached_flops_per_s'] / 1e9:.0f} GFLOP/s"
    )


def define_flags() -> None:
    """Flags of this program, defined only when it runs: other benchmarks use the same names."""
    flags.DEFINE_string("folder", None, "Where the checkpoint is written for the time being.")
    flags.DEFINE_bool("small", False, "A tiny network: seconds instead of minutes.")
    flags.DEFINE_bool("keep", False, "Leave the checkpoint there.")
    flags.DEFINE_list("precision", ["float32", "bfloat16_lerobot"], "Which to run.")
    flags.DEFINE_string("child", None, "Internal: predict in this precision, in this process.")


def main() -> dict[str, Any]:
    """Measures, prints, and returns what --json prints."""
    values = flags.FLAGS
    if not values.folder:
        raise InputError("--folder is required")
    folder = pathlib.Path(values.folder) / "pi05_full_size"
    compile_cache.enable()
    if values.child:
        return predict(folder, values.child)
    started = time.perf_counter()
    try:
        size = write_checkpoint(folder, config_of(TINY if values.small else FULL))
        seconds = time.perf_counter() - started
        print(f"wrote {size / 1e9:.2f} GB in {seconds:.1f} s", flush=True)
        result: dict[str, Any] = {"checkpoint_bytes": size, "write_s": seconds}
        for precision in values.precision:
            command = [sys.executable, "-m", "benchmarks.pi05_full_size", "--json"]
            command += [f"--folder={values.folder}", f"--child={precision}"]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            result[precision] = json.loads(done.stdout.splitlines()[-1])
            print(render(precision, result[precision]), flush=True)
    finally:
        if not values.keep:
            shutil.rmtree(folder, ignore_errors=True)
    return result


if __name__ == "__main__":
    define_flags()
    app.run(main)
