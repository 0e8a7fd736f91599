"""The canvas model against plain torch: training, inference, latency of one prediction.

    python -m benchmarks.canvas_speed [--small] [--rounds=N] [--json]

Both sides have the same architecture, sizes and float32 (canvas 224x704, width 256, 5 + 5 layers)
and get canvases in memory. All programs take turns in every round, so that a busy machine slows
all of them; medians are printed. torch: `benchmarks/torch_canvas.py` with
scaled_dot_product_attention, fused AdamW and, where it compiles here, torch.compile; the quicker
of eager and compiled is the reference. Ours: the compiled training step of `attn_jax.train` over
micro-batches, and one compiled prediction. `full` and `last_layer` compute the function that
torch computes; `slot` is another function that is trained as such.

Targets (ours / torch): training 1.3, inference 1.5 exact and 2.5 slot, latency of batch 1 2.0.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import torch
from absl import flags, logging

from attn_jax.core.canvas import CanvasGeometry
from attn_jax.models.canvas.model import CanvasConfig
from attn_jax.models.canvas.predict import make_predict
from attn_jax.models.canvas.task import CanvasTask
from attn_jax.train.optim import OptimConfig
from attn_jax.train.step import init_state, make_train_step
from benchmarks import torch_canvas
from launch import app, compile_cache

Run = Callable[[], None]


@dataclasses.dataclass(frozen=True)
class Size:
    """What is measured.

    Attributes:
      frame: side of a frame, pixels.
      dim: width of encoder and decoder.
      depth: blocks of the encoder, and of the decoder.
      batches: batch sizes.
    """

    frame: int = 224
    dim: int = 256
    depth: int = 5
    batches: tuple[int, ...] = (1, 8)

    @property
    def geometry(self) -> CanvasGeometry:
        """Of the canvases."""
        return CanvasGeometry((self.frame, self.frame))


FULL = Size()
TINY = Size(frame=64, dim=64, depth=2, batches=(1, 4))

# (what, our decode, wanted ratio); the latency is inference at batch 1.
TARGETS = (
    ("train", "last_layer", 1.3),
    ("infer", "last_layer", 1.5),
    ("infer", "slot", 2.5),
    ("latency", "last_layer", 2.0),
)


def torch_programs(size: Size, batch: int, compiled: bool) -> dict[str, Run]:
    """`train` and `infer` by torch."""
    model = torch_canvas.TorchCanvas(
        size.geometry,
        dim=size.dim,
        depth=size.depth,
        decoder_dim=size.dim,
        decoder_depth=size.depth,
    )
    forward = torch.compile(model) if compiled else model
    canvas = torch.from_numpy(canvases(size, batch)).permute(0, 3, 1, 2).contiguous()
    optimizer = torch.optim.AdamW(torch_canvas.decay_groups(model, 0.01), lr=1e-4, fused=True)

    def train() -> None:
        optimizer.zero_grad(set_to_none=True)
        x = canvas.float() / 255
        target = torch_canvas.patchify(x, size.geometry.patch)[:, model.masked]
        loss = ((forward(x) - target) ** 2).mean()
        loss.backward()
        optimizer.step()
        loss.item()

    def infer() -> None:
        with torch.inference_mode():
            forward(canvas.float() / 255)

    return {"train": train, "infer": infer}


def our_programs(size: Size, batch: int, decode: str) -> dict[str, Run]:
    """`train` and `infer` by this package."""
    config = CanvasConfig(
        size.geometry,
        dim=size.dim,
        encoder_depth=size.depth,
        decoder_dim=size.dim,
        decoder_depth=size.depth,
        positions="compat",
        decode=decode,
    )
    task = CanvasTask(config)
    optim = OptimConfig(learning_rate=1e-4, micro_batches=batch)
    step = make_train_step(task, optim)
    holder = [init_state(task, optim, seed=0)]
    params = jax.tree.map(np.asarray, holder[0].params)
    params = jax.device_put(params)
    predict = make_predict(config)
    canvas = jax.device_put(canvases(size, batch))

    def train() -> None:
        holder[0], out = step(holder[0], {"canvas": canvas})
        out.loss.block_until_ready()

    def infer() -> None:
        predict(params, canvas).block_until_ready()

    return {"train": train, "infer": infer}


def canvases(size: Size, batch: int) -> np.ndarray:
    """Random canvases (b, H, W, 3) uint8."""
    shape = (batch, *size.geometry.canvas_size, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def measure(size: Size, rounds: int, compiled: bool) -> dict[str, dict[str, Any]]:
    """Median seconds of every program.

    Returns:
      "<train|infer>/<batch>/<side>" -> {"seconds", "samples_per_s"}; sides are `torch`,
      `torch.compile`, `full`, `last_layer`, `slot`.
    """
    programs: dict[str, Run] = {}
    for batch in size.batches:
        sides: dict[str, Mapping[str, Run]] = {"torch": torch_programs(size, batch, False)}
        if compiled:
            sides["torch.compile"] = torch_programs(size, batch, True)
        for decode in ("full", "last_layer", "slot"):
            sides[decode] = our_programs(size, batch, decode)
        for side, runs in sides.items():
            for what, run in runs.items():
                if warmed_up(run, f"{what}/{batch}/{side}"):
                    programs[f"{what}/{batch}/{side}"] = run
    times: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, run in programs.items():
            started = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        name: {"seconds": s, "samples_per_s": int(name.split("/")[1]) / s}
        for name, s in medians.items()
    }


def warmed_up(run: Run, name: str) -> bool:
    """Runs a program twice; False, with the reason logged, when torch cannot compile it here."""
    started = time.perf_counter()
    if name.endswith("torch.compile"):
        try:
            run()
        except (torch._dynamo.exc.TorchDynamoException, torch._inductor.exc.InductorError) as error:
            logging.warning("%s left out: %s", name, str(error).splitlines()[0])
            return False
    run()
    run()
    logging.info("%s compiled and warm after %.1f s", name, time.perf_counter() - started)
    return True


def verdicts(table: Mapping[str, Mapping[str, Any]], size: Size) -> list[dict[str, Any]]:
    """Ratio of every target: seconds of the quicker torch over seconds of ours."""
    found = []
    for what, decode, target in TARGETS:
        batch = size.batches[0] if what == "latency" else size.batches[-1]
        key = f"{'train' if what == 'train' else 'infer'}/{batch}"
        reference = min(
            row["seconds"] for name, row in table.items() if name.startswith(f"{key}/torch")
        )
        ratio = reference / table[f"{key}/{decode}"]["seconds"]
        found.append(
            {
                "what": what,
                "batch": batch,
                "decode": decode,
                "ratio": ratio,
                "target": target,
                "holds": ratio >= target,
            }
        )
    return found


def render(table: Mapping[str, Mapping[str, Any]], found: list[dict[str, Any]]) -> str:
    """The table and the verdicts as text."""
    lines = [f"{'program':32s} {'ms':>10s} {'samples/s':>10s} {'x torch':>8s}"]
    for name, row in table.items():
        what, batch, _ = name.split("/")
        reference = table[f"{what}/{batch}/torch"]["seconds"]
        lines.append(
            f"{name:32s} {row['seconds'] * 1e3:10.1f} {row['samples_per_s']:10.2f}"
            f" {reference / row['seconds']:8.2f}"
        )
    for v in found:
        lines.append(
            f"{v['what']} batch {v['batch']} ({v['decode']}): ratio {v['ratio']:.2f}, target"
            f" {v['target']}: {'holds' if v['holds'] else 'MISSED'}"
        )
    return "\n".join(lines)


def define_flags() -> None:
    """Flags of this program, defined only when it runs: other benchmarks use the same names."""
    flags.DEFINE_bool("small", False, "Canvas 64x224, width 64: seconds instead of minutes.")
    flags.DEFINE_integer("rounds", 15, "Rounds whose median is printed.", lower_bound=1)
    flags.DEFINE_integer("threads", 2, "Threads of torch.", lower_bound=1)
    flags.DEFINE_bool("torch_compile", True, "Measure torch.compile too.")


def main() -> dict[str, Any]:
    """Measures, prints, and returns what --json prints."""
    compile_cache.enable()
    values = flags.FLAGS
    torch.set_num_threads(values.threads)
    size = TINY if values.small else FULL
    table = measure(size, values.rounds, values.torch_compile)
    found = verdicts(table, size)
    print(render(table, found), flush=True)
    return {"table": table, "verdicts": found}


if __name__ == "__main__":
    define_flags()
    app.run(main)
