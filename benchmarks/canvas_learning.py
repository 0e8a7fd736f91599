"""How fast the canvas world model learns the toroidal dot, and how well, over seeds.

    python -m benchmarks.canvas_learning --size=64 --seeds=5
    python -m benchmarks.canvas_learning --size=224 --seeds=1 --seconds=1500

Every seed records its own training session and a held-out session (other start positions), trains
by the ordinary launchers within the time given, compiling and evaluating included, and evaluates on
the held-out session. The reference is measured in the same run: repeating the last frame
(`copy-last`) on the same canvases. The curve is that of the validation part of the training
session.
"""

from __future__ import annotations

import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
from typing import Any

import absl.app
from absl import flags

SIZE = flags.DEFINE_integer("size", 64, "Side of the frames: 64, 112 or 224 pixels.")
SEEDS = flags.DEFINE_integer("seeds", 5, "Number of seeds, from 0.", lower_bound=1)
SECONDS = flags.DEFINE_float("seconds", 120.0, "Wall-clock limit of a training run, seconds.")
OBSERVATIONS = flags.DEFINE_integer("observations", 3000, "Frames of a training session.")
OVERRIDE = flags.DEFINE_multi_string("set", [], "Further overrides, as in train.batch_size=8.")
CONFIG = flags.DEFINE_string("arguments", "", "Further arguments of configs/canvas.py.")


def run(verb: str, *arguments: str) -> str:
    """Standard output of a launcher; a failure ends the benchmark with its messages."""
    done = subprocess.run(
        [sys.executable, "-m", f"launch.{verb}", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"launch.{verb} failed:\n{done.stderr}")
    return done.stdout


def record(folder: pathlib.Path, seed: int, observations: int) -> None:
    """A session of episodes of ten observations, each from another place."""
    run(
        "record",
        f"--config=configs/toroidal_dot.py:size={SIZE.value}",
        f"--workdir={folder}",
        f"--config.seed={seed}",
        f"--config.steps={observations}",
        f"--config.episodes={observations // 10}",
    )


def one_seed(folder: pathlib.Path, seed: int) -> dict[str, Any]:
    """Records, trains, evaluates; returns the held-out skill and the curve of the run."""
    record(folder / "train", seed, OBSERVATIONS.value)
    record(folder / "test", 10_000 + seed, 500)
    arguments = ",".join(filter(None, [f"size={SIZE.value}", CONFIG.value]))
    run(
        "train",
        f"--config=configs/canvas.py:{arguments}",
        f"--workdir={folder / 'run'}",
        f"--config.seed={seed}",
        f"--config.data.sessions={folder / 'train'}",
        f"--config.train.seconds={SECONDS.value}",
        "--config.train.seconds_clock=wall",
        *(f"--config.{item}" for item in OVERRIDE.value),
    )
    out = run(
        "evaluate",
        f"--checkpoint={folder / 'run'}",
        f"--data={folder / 'test'}",
        "--rollouts=0",
        "--counterfactuals=64",
        "--json",
    )
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    return {
        "seed": seed,
        "skill": json.loads(out.strip().splitlines()[-1]),
        "result": json.loads((folder / "run" / "result.json").read_text()),
        "curve": [line for line in map(json.loads, lines) if "validation/plain_mse" in line],
    }


def show(found: dict[str, Any]) -> None:
    """One line of skill, then the curve."""
    skill, result = found["skill"], found["result"]
    timing = result["timing"]
    print(
        f"seed {found['seed']}: dot within 3 px on {skill['hit_rate_3px']:.1%} of"
        f" {skill['canvases']} held-out canvases, median error {skill['median_dot_error_px']} px,"
        f" MSE {skill['plain_mse']:.5f} = {skill['plain_mse'] / skill['copy_last_mse']:.3f} of"
        f" copy-last ({skill['copy_last_mse']:.5f}), right outcome of an action"
        f" {skill['counterfactual']['correct_rate']:.1%};"
        f" {result['samples']} samples, {timing['samples_per_s']:.0f}/s,"
        f" {timing['wall_s']:.0f} s wall of which {timing['train_s']:.0f} s steps",
        flush=True,
    )
    for line in found["curve"]:
        print(
            f"    {line['samples']:7d} samples {line['train_s']:6.0f} s steps"
            f" {line['wall_s']:6.0f} s wall"
            f"  MSE {line['validation/plain_mse']:.5f}"
            f"  copy-last {line['validation/copy_last_mse']:.5f}"
            f"  hit rate {line['validation/hit_rate_3px']:.1%}",
            flush=True,
        )


def main(_: list[str]) -> None:
    """Runs every seed and prints median and worst."""
    hits, ratios = [], []
    with tempfile.TemporaryDirectory() as temporary:
        for seed in range(SEEDS.value):
            found = one_seed(pathlib.Path(temporary) / str(seed), seed)
            show(found)
            hits.append(found["skill"]["hit_rate_3px"])
            ratios.append(found["skill"]["plain_mse"] / found["skill"]["copy_last_mse"])
    print(
        f"hit rate: median {statistics.median(hits):.1%}, worst {min(hits):.1%};"
        f" MSE over copy-last: median {statistics.median(ratios):.3f}, worst {max(ratios):.3f}"
    )


if __name__ == "__main__":
    absl.app.run(main)
