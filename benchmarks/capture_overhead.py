"""What capturing attention costs: a prediction with the maps of two layers, over one without.

    python -m benchmarks.capture_overhead [--small] [--rounds=N] [--json]

The program is the canvas model's prediction (224x704, width 256, 5 + 5 layers, decode `full`);
captured are all heads of the decoder's last two layers, whole maps, encoded as float16 inside the
program. Both programs take turns; the ratio is the median over rounds of the two times of a
round. What leaves the device is waited for, writing it to disk is not included (see
`benchmarks/store.py`). Target: at most 1.05.

Also checks that the program with capture off, lowered, is the one of a model whose attention
knows no probe.
"""

from __future__ import annotations

import statistics
import time
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from attn_jax.core import taps
from attn_jax.core.canvas import CanvasGeometry
from attn_jax.models.canvas.model import CanvasConfig, CanvasModel, layouts
from attn_jax.nn import attention, fast_attention
from attn_jax.probe.capture import SelectionTap, capture, discover
from attn_jax.probe.codecs import encode
from attn_jax.probe.select import Plan, Selection, resolve
from launch import app, compile_cache

SELECTION = "streams=decoder;layers=last:2;reduce=full;dtype=float16"
TARGET = 1.05
FULL = CanvasConfig(CanvasGeometry((224, 224)), positions="compat", decode="full")
TINY = CanvasConfig(
    CanvasGeometry((64, 64)),
    dim=64,
    encoder_depth=2,
    decoder_dim=64,
    decoder_depth=3,
    positions="compat",
    decode="full",
)


class Programs:
    """The same prediction with and without capture, compiled.

    Attributes:
      plain: (params, canvas) -> patches.
      captured: (params, canvas) -> (patches, encoded maps).
      arguments: (params, canvas).
      plan: what is captured.
    """

    def __init__(self, config: CanvasConfig, batch: int, selection: str):
        model = CanvasModel(config)
        shape = (batch, *config.geometry.canvas_size, 3)
        canvas = jnp.asarray(np.random.default_rng(0).random(shape, np.float32))
        params = jax.jit(model.init)(jax.random.key(0), canvas)["params"]

        def watched(params: Any, canvas: jax.Array) -> tuple[Any, Any]:
            return model.apply({"params": params}, canvas, mutable=[taps.COLLECTION])

        self.plan: Plan = resolve(
            Selection.parse(selection), discover(watched, layouts(config), params, canvas)
        )
        with_maps = capture(watched, self.plan, stack=False)

        def predict(params: Any, canvas: jax.Array) -> Any:
            return model.apply({"params": params}, canvas)

        def predict_with_maps(params: Any, canvas: jax.Array) -> tuple[Any, Any]:
            patches, maps = with_maps(params, canvas)
            return patches, encode(maps, self.plan)

        self.arguments = (params, canvas)
        self.predict = predict
        self.plain = jax.jit(predict).lower(*self.arguments).compile()
        self.captured = jax.jit(predict_with_maps).lower(*self.arguments).compile()


def overhead(programs: Programs, rounds: int) -> dict[str, float]:
    """`plain_s` and `captured_s`, medians, and `ratio`, the median of the ratios of the rounds."""

    def seconds(program: Any) -> float:
        started = time.perf_counter()
        jax.block_until_ready(program(*programs.arguments))
        return time.perf_counter() - started

    for program in (programs.plain, programs.captured):
        seconds(program)
    pairs = []
    for number in range(rounds):
        # Each goes first every other round.
        order = (programs.plain, programs.captured)[:: 1 if number % 2 else -1]
        times = {program: seconds(program) for program in order}
        pairs.append((times[programs.plain], times[programs.captured]))
    return {
        "plain_s": statistics.median(plain for plain, _ in pairs),
        "captured_s": statistics.median(captured for _, captured in pairs),
        "ratio": statistics.median(captured / plain for plain, captured in pairs),
    }


def lowered(programs: Programs, *, probe: bool) -> str:
    """The lowered prediction with capture off.

    Args:
      programs: whose prediction.
      probe: lower it with a tap held open, or with an attention that knows neither taps nor sowing.
    """

    def bare(module: Any, q: Any, k: Any, v: Any, *, site: Any, mask: Any = None) -> Any:
        assert mask is None, "this model masks nothing here"
        return fast_attention.attend(q, k, v, q.shape[-1] ** -0.5)

    def program(params: Any, canvas: jax.Array) -> Any:  # new at every call, so never traced before
        return programs.predict(params, canvas)

    if probe:
        with taps.tapped(SelectionTap(programs.plan)):
            return jax.jit(program).lower(*programs.arguments).as_text()
    with mock.patch.object(attention, "attend", bare):
        return jax.jit(program).lower(*programs.arguments).as_text()


def define_flags() -> None:
    """Flags of this program, defined only when it runs: other benchmarks use the same names."""
    flags.DEFINE_bool("small", False, "Canvas 64x224, width 64: seconds instead of minutes.")
    flags.DEFINE_integer("rounds", 30, "Rounds whose median is printed.", lower_bound=1)
    flags.DEFINE_string("selection", SELECTION, "What is captured.")


def main() -> dict[str, Any]:
    """Measures, prints, and returns what --json prints."""
    compile_cache.enable()
    values = flags.FLAGS
    config = TINY if values.small else FULL
    result: dict[str, Any] = {}
    for batch in (1, 8):
        programs = Programs(config, batch, values.selection)
        found = overhead(programs, values.rounds)
        same = lowered(programs, probe=True) == lowered(programs, probe=False)
        holds = found["ratio"] <= TARGET
        print(
            f"batch {batch}: without {found['plain_s'] * 1e3:.2f} ms, with"
            f" {found['captured_s'] * 1e3:.2f} ms, ratio {found['ratio']:.3f}, target {TARGET}:"
            f" {'holds' if holds else 'MISSED'}; capture-off program"
            f" {'equals' if same else 'DIFFERS FROM'} one without probes",
            flush=True,
        )
        result[f"batch_{batch}"] = {**found, "holds": holds, "same_program_when_off": same}
    return result


if __name__ == "__main__":
    define_flags()
    app.run(main)
