"""Pi0.5 against LeRobot's own PI05Policy: images and prompt, prefix, one denoising step, action.

    python -m benchmarks.pi05_speed [--full] [--small] [--precision=float32,...] [--json]

Both sides have the same random weights and inputs: full width, 27 vision layers, 4 language and
expert layers (18 with --full), LIBERO-like input (2 cameras and 1 dummy, 144 real prompt tokens of
200, chunk of 50, 10 steps, batch 1). The vocabulary is small, which no part notices. All programs
take turns in every round, so that a busy machine slows all of them; medians are printed. The
reference is the quicker of torch eager and torch.compile (of the vision embedding, the prefix pass
and the denoising step; LeRobot's own option unrolls ten steps into one program). Ours leaves out
the dummy and the padding, which changes rounding only; `captured` keeps the suffix maps of two
layers at all steps as float16. `dense` is one matrix product of the language model's MLP in both
libraries: what the machine gives before any model is involved.

Targets (the quicker torch / ours): whole action 2.5 in float32, 1.2 in bfloat16; captured at most
1.05 of not captured.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch
from absl import flags, logging

from attn_jax.core.typing import NumpyArray
from attn_jax.models.pi05 import Architecture, Pi05, Pi05Config, Pi05Inputs, sample
from attn_jax.models.pi05.compact import compact
from attn_jax.models.pi05.layout import layouts
from attn_jax.models.pi05.time_embedding import time_table
from attn_jax.probe.capture import capture, discover
from attn_jax.probe.codecs import encode
from attn_jax.probe.select import Selection, resolve
from benchmarks.pi05_weights import our_weights
from launch import app, compile_cache
from tests.models.pi05 import lerobot_reference as reference
from tests.models.pi05.lerobot_inputs import our_inputs

PARTS = ("embed", "prefix", "step", "action")
SELECTION = "streams=suffix;layers=last:2;reduce=full;dtype=float16"
TARGETS = {"float32": 2.5, "bfloat16_lerobot": 1.2, "bfloat16_openpi": 1.2}
CAPTURE_TARGET = 1.05

Run = Callable[[], Any]


def clock() -> float:
    """Seconds, of wall clock or of this process (--clock)."""
    return time.process_time() if _CLOCK[0] == "cpu" else time.perf_counter()


_CLOCK = ["wall"]


@dataclasses.dataclass(frozen=True)
class Size:
    """What is measured.

    Attributes:
      sizes: of the network.
      cameras, dummies: with and without an image.
      prompt, real: prompt tokens, and how many of them are no padding.
      chunk, steps: actions of a chunk, denoising steps.
    """

    sizes: Architecture
    cameras: int = 2
    dummies: int = 1
    prompt: int = 200
    real: int = 144
    chunk: int = 50
    steps: int = 10

    def case(self, precision: str) -> reference.Case:
        """The same for LeRobot."""
        return reference.Case(
            self.sizes,
            self.cameras,
            self.dummies,
            (self.real,),
            self.prompt,
            self.chunk,
            steps=self.steps,
            dtype="float32" if precision == "float32" else "bfloat16",
            raw=(self.sizes.image_size,) * 2,
        )


TINY = Size(reference.SMALL, prompt=24, real=17, chunk=10, steps=3)


class TorchSide:
    """LeRobot's policy; one prediction also tells how long its parts took.

    Attributes:
      policy: the policy.
      case: its sizes.
      batch: the inputs, see `lerobot_reference.make_batch`.
    """

    def __init__(self, case: reference.Case):
        self.case = case
        self.policy = reference.make_policy(case)
        self.batch = reference.make_batch(case)
        self._inputs = reference.model_inputs(self.policy, case, self.batch)
        model = self.policy.model
        # Part -> (owner, name) of the function that does it. The joint model also runs inside a
        # denoising step, so the prefix pass is the time of those calls that no step makes.
        self._places = {
            "embed": (model, "embed_prefix"),
            "step": (model, "denoise_step"),
            "prefix": (model.paligemma_with_expert, "forward"),
        }
        self._eager = {part: getattr(*place) for part, place in self._places.items()}
        self._compiled = {part: torch.compile(call) for part, call in self._eager.items()}

    def predict(self, *, compiled: bool = False) -> tuple[dict[str, float], NumpyArray]:
        """One prediction: seconds of every part, and the actions."""
        seconds: dict[str, list[float]] = {part: [] for part in PARTS}
        running: list[str] = []

        def timed(part: str, call: Any) -> Any:
            def run(*args: Any, **options: Any) -> Any:
                if running:  # a part of a part
                    return call(*args, **options)
                running.append(part)
                started = clock()
                out = call(*args, **options)
                seconds[part].append(clock() - started)
                running.pop()
                return out

            return run

        calls = self._compiled if compiled else self._eager
        noise = torch.from_numpy(self.batch["noise"])
        with contextlib.ExitStack() as patches, torch.inference_mode():
            for part, (owner, name) in self._places.items():
                call = calls[part]
                if part != "prefix" or not compiled:
                    patches.enter_context(mock.patch.object(owner, name, timed(part, call)))
                    continue
                # Inside a compiled step the joint model has to be the plain one.
                patches.enter_context(mock.patch.object(owner, name, self._either(timed, running)))
            started = clock()
            actions = self.policy.model.sample_actions(
                *self._inputs, noise=noise, num_steps=self.case.steps
            )
            seconds["action"].append(clock() - started)
        return {
            part: statistics.median(values) for part, values in seconds.items()
        }, actions.numpy()

    def _either(self, timed: Any, running: list[str]) -> Any:
        prefix = timed("prefix", self._compiled["prefix"])

        def run(*args: Any, **options: Any) -> Any:
            return (self._eager["prefix"] if running else prefix)(*args, **options)

        return run


def our_programs(
    side: TorchSide, config: Pi05Config, params: Any, selection: str
) -> dict[str, Run]:
    """Every part, and `captured`: the action with attention."""
    model, variables = Pi05(config), {"params": params}
    inputs, _ = compact(config, our_inputs(side.case, side.batch))
    on_device = jax.device_put(inputs)
    noise = jnp.asarray(side.batch["noise"])
    times = time_table(np.ones(1, np.float32), config.architecture.expert_width, 4e-3, 4.0)

    def method(name: str) -> Any:
        return jax.jit(functools.partial(model.apply, method=name))

    embed, step = method("embed"), method("velocity")
    # What only the last hidden states need is left out, as in the whole prediction.
    read = jax.jit(lambda *args: model.apply(*args, method="read")[0])
    x, valid = embed(variables, on_device)
    cache = read(variables, x, valid)
    modulation = jax.jit(functools.partial(model.apply, method="modulate"))(variables, times)

    watched = functools.partial(sample, config, watch=True)
    names = layouts(
        config,
        config.cameras[: inputs.images.shape[1]],
        *(np.asarray(x)[0] for x in (inputs.image_mask, inputs.tokens, inputs.token_mask)),
    )
    streams = discover(watched, names, params, on_device, noise)
    plan = resolve(Selection.parse(selection), streams)
    with_maps = capture(watched, plan)

    def predict(params: Any, inputs: Pi05Inputs, noise: Any) -> Any:
        return sample(config, params, inputs, noise)[0].actions

    def predict_with_maps(params: Any, inputs: Pi05Inputs, noise: Any) -> Any:
        result, maps = with_maps(params, inputs, noise)
        return result.actions, encode(maps, plan)

    plain, captured = jax.jit(predict), jax.jit(predict_with_maps)
    programs: dict[str, Run] = {
        "embed": lambda: embed(variables, on_device),
        "prefix": lambda: read(variables, x, valid),
        "step": lambda: step(variables, cache, noise, modulation),
        "action": lambda: plain(params, on_device, noise),
        "captured": lambda: captured(params, on_device, noise),
    }
    return {name: functools.partial(_wait, run) for name, run in programs.items()}


def _wait(run: Run) -> Any:
    return jax.block_until_ready(run())


def dense_programs(size: Size, precision: str) -> dict[str, Run]:
    """One product of the language model's MLP over the tokens that ours keeps, in both."""
    sizes = size.sizes
    tokens = size.cameras * sizes.image_tokens + size.real
    short = precision != "float32"
    x = torch.ones(tokens, sizes.width, dtype=torch.bfloat16 if short else torch.float32)
    w = torch.ones(sizes.mlp, sizes.width, dtype=x.dtype)
    ours = jnp.ones((tokens, sizes.width), jnp.bfloat16 if short else jnp.float32)
    kernel = jnp.ones((sizes.width, sizes.mlp), ours.dtype)
    product = jax.jit(lambda x, kernel: x @ kernel)
    return {
        "dense/torch": lambda: torch.nn.functional.linear(x, w),
        "dense/ours": lambda: _wait(lambda: product(ours, kernel)),
    }


def measure(
    size: Size,
    precision: str,
    *,
    rounds: int,
    compiled: bool,
    shared: bool = False,
    selection: str = SELECTION,
) -> dict[str, Any]:
    """Median seconds of every program, `<part>/<side>`, and the ratio of `captured`.

    Returns:
      `seconds` of every program, `capture_ratio` (median over rounds), and `action_error`, the
      largest difference between LeRobot's and our actions.
    """
    case = size.case(precision)
    side = TorchSide(case)
    config = Pi05Config(
        size.sizes,
        tuple(f"camera{i}" for i in range(size.cameras + size.dummies)),
        case.action_dim,
        chunk_size=size.chunk,
        n_action_steps=size.chunk,
        num_inference_steps=size.steps,
        prompt_length=size.prompt,
        precision=precision,
    )
    params = our_weights(side.policy, config, shared=shared)
    ours = our_programs(side, config, params, selection)
    programs = dense_programs(size, precision) | {f"{k}/ours": run for k, run in ours.items()}
    actions = None
    sides = {"torch": False} | ({"torch.compile": True} if compiled else {})
    for name, run in programs.items():
        started = clock()
        out = run()
        if name == "action/ours":
            actions = out
        logging.info("%s warm after %.1f s", name, clock() - started)
    error = 0.0
    if compiled:
        started = clock()
        side.predict(compiled=True)
        logging.info("torch.compile took %.1f s", clock() - started)
    times: dict[str, list[float]] = {}
    for number in range(rounds):
        for name, is_compiled in sides.items():
            parts, expected = side.predict(compiled=is_compiled)
            for part, seconds in parts.items():
                times.setdefault(f"{part}/{name}", []).append(seconds)
            error = max(error, float(np.abs(expected - np.asarray(actions)).max()))
        # Backwards every other round, so that none always follows the same one.
        for name in list(programs)[:: 1 if number % 2 else -1]:
            started = clock()
            programs[name]()
            times.setdefault(name, []).append(clock() - started)
        logging.info("round %d: %s", number, {name: round(s[-1], 3) for name, s in times.items()})
    pairs = zip(times["captured/ours"], times["action/ours"], strict=True)
    return {
        "seconds": {name: statistics.median(values) for name, values in times.items()},
        "capture_ratio": statistics.median(captured / plain for captured, plain in pairs),
        "action_error": error,
    }


def verdict(found: Mapping[str, Any], precision: str) -> dict[str, Any]:
    """Ratios of every part, and whether the targets hold."""
    seconds = found["seconds"]

    def ratio(part: str) -> float:
        references = [s for name, s in seconds.items() if name.startswith(f"{part}/torch")]
        return min(references) / seconds[f"{part}/ours"]

    ratios = {part: ratio(part) for part in (*PARTS, "dense")}
    return {
        **found,
        "ratios": ratios,
        "holds": ratios["action"] >= TARGETS[precision],
        "capture_holds": found["capture_ratio"] <= CAPTURE_TARGET,
    }


def render(found: Mapping[str, Any], precision: str) -> str:
    """Table and verdicts as text."""
    seconds = found["seconds"]
    sides = [s for s in ("torch", "torch.compile", "ours") if f"action/{s}" in seconds]
    lines = [f"{precision:16s}" + "".join(f"{side + ', ms':>18s}" for side in sides) + "   ratio"]
    for part in ("dense", *PARTS):
        cells = [seconds.get(f"{part}/{side}") for side in sides]
        text = "".join(f"{'' if s is None else f'{s * 1e3:.1f}':>18s}" for s in cells)
        lines.append(f"{part:16s}{text}{found['ratios'][part]:8.2f}")
    word = {True: "holds", False: "MISSED"}
    lines.append(
        f"action: {found['ratios']['action']:.2f}, target {TARGETS[precision]}:"
        f" {word[found['holds']]}; captured over not captured {found['capture_ratio']:.3f},"
        f" target {CAPTURE_TARGET}: {word[found['capture_holds']]};"
        f" largest difference of an action {found['action_error']:.1e}"
    )
    return "\n".join(lines)


def define_flags() -> None:
    """Flags of this program, defined only when it runs: other benchmarks use the same names."""
    flags.DEFINE_bool("small", False, "A tiny network: seconds instead of many minutes.")
    flags.DEFINE_bool("full", False, "18 language and expert layers.")
    flags.DEFINE_bool(
        "shared_weights",
        False,
        "One copy of the weights for both sides, which torch then reads transposed; for --full in"
        " float32, which takes 24 GB otherwise.",
    )
    flags.DEFINE_list("precision", ["float32", "bfloat16_lerobot"], f"Of {[*TARGETS]}.")
    flags.DEFINE_integer("rounds", 5, "Rounds whose median is printed.", lower_bound=1)
    flags.DEFINE_integer("threads", 2, "Threads of torch.", lower_bound=1)
    flags.DEFINE_bool("torch_compile", True, "Measure torch.compile too.")
    flags.DEFINE_integer("depth", 4, "Language and expert layers.", lower_bound=2)
    flags.DEFINE_integer("vision_depth", 27, "Vision layers.", lower_bound=1)
    flags.DEFINE_enum(
        "clock",
        "wall",
        ["wall", "cpu"],
        "cpu: processor seconds, for a machine that is busy with other work; pin the process to one"
        " core and give torch one thread then, because waiting threads burn processor time.",
    )


def main() -> dict[str, Any]:
    """Measures, prints, and returns what --json prints."""
    compile_cache.enable()
    values = flags.FLAGS
    torch.set_num_threads(values.threads)
    _CLOCK[0] = values.clock
    size = TINY
    if not values.small:
        depth = 18 if values.full else values.depth
        sizes = Architecture(depth=depth, vision_depth=values.vision_depth, vocab=4096)
        size = Size(sizes)
    result = {}
    for precision in values.precision:
        found = measure(
            size,
            precision,
            rounds=values.rounds,
            compiled=values.torch_compile,
            shared=values.shared_weights,
        )
        result[precision] = verdict(found, precision)
        print(render(result[precision], precision), flush=True)
        torch._dynamo.reset()
        gc.collect()
    return result


if __name__ == "__main__":
    define_flags()
    app.run(main)
