"""What one compiled program for many interventions is worth.

    python -m benchmarks.interventions [--small] [--chunk=N] [--json]

The policy is a Pi0.5 with random weights: two cameras of 16 x 16 patches, 48 prompt tokens, 50
actions, 10 denoising steps (`--small`: that of the tests' size, 4 patches a camera). 64
interventions: knock-outs of (key group, layer, step) in the suffix, key removals in both streams,
value scalings, head ablations. The same work three ways:

- at once: one call of `probe.edits.sweep` (in chunks, for memory);
- one by one: 64 calls of one compiled program that takes the intervention as an argument;
- re-traced: a new program for every intervention, as hooks or edited code need it (a few are
  measured and the time per program is multiplied by 64).

The first two are also compared with 64 plain predictions, and must give the same actions to 1e-5
of their size, each compiled once; how many programs each of the three compiled is printed.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from attn_jax.models.pi05 import Architecture, Pi05Config, Pi05Inputs, sample
from attn_jax.models.pi05.layout import layouts
from attn_jax.models.pi05.model import init_params
from attn_jax.probe.capture import discover
from attn_jax.probe.edits import Edits, intervened, sweep
from attn_jax.probe.intervene import (
    AblateHeads,
    Intervention,
    KnockOut,
    Nothing,
    RemoveKeys,
    ScaleValues,
    resolve_edits,
)
from attn_jax.probe.select import Stream
from launch import app

COUNT = 64
RETRACED = 3
CAMERAS = ("base", "wrist")
# width, mlp, expert width, expert mlp, depth, heads, kv heads, head dim, vocabulary, then vision:
# width, depth, heads, mlp, image side.
MIDDLE = Architecture(256, 1024, 128, 512, 4, 8, 1, 32, 256, 128, 2, 4, 256, 224)
TINY = Architecture(32, 48, 16, 24, 2, 4, 2, 8, 60, 16, 1, 2, 24, 28)


def make_config(*, small: bool) -> Pi05Config:
    """The policy's configuration."""
    if small:
        return Pi05Config(TINY, CAMERAS, 5, 8, chunk_size=4, n_action_steps=4, prompt_length=9)
    return Pi05Config(MIDDLE, CAMERAS, 7, 32, chunk_size=50, n_action_steps=10, prompt_length=48)


class Policy:
    """A policy with random weights and one observation.

    Attributes:
      act: (params, inputs, noise) -> actions (1, H, A), traceable.
      arguments: (params, inputs, noise).
      streams: its attention streams.
    """

    def __init__(self, config: Pi05Config):
        rng = np.random.default_rng(0)
        side, length = config.architecture.image_size, config.prompt_length
        inputs = Pi05Inputs(
            images=jnp.asarray(rng.uniform(-1, 1, (1, 2, side, side, 3)), jnp.float32),
            image_mask=jnp.ones((1, 2), bool),
            tokens=jnp.asarray(rng.integers(3, config.architecture.vocab, (1, length)), jnp.int32),
            token_mask=jnp.ones((1, length), bool),
        )
        noise = rng.standard_normal((1, config.chunk_size, config.max_action_dim))
        shapes = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
        # Random everywhere: a fresh model has zeros where it would ignore the time.
        params = jax.tree.map(
            lambda leaf: jnp.asarray(
                rng.standard_normal(leaf.shape) / max(1, leaf.shape[0]) ** 0.5, leaf.dtype
            ),
            shapes,
        )
        self.arguments = (params, inputs, jnp.asarray(noise, jnp.float32))

        def watched(*args: Any) -> Any:
            return sample(config, *args, watch=True)

        def act(*args: Any) -> jax.Array:
            return sample(config, *args)[0].actions

        self.act = act
        masks = (np.asarray(x)[0] for x in (inputs.image_mask, inputs.tokens, inputs.token_mask))
        self.streams: dict[str, Stream] = discover(
            watched, layouts(config, CAMERAS, *masks), *self.arguments
        )


def interventions(streams: dict[str, Stream], count: int = COUNT) -> list[Intervention]:
    """`count` different ones; the first is none."""
    suffix = streams["suffix"]
    keys = ("image/base", "image/wrist", "prompt", "action")
    made: list[Intervention] = [Nothing()]
    made += [RemoveKeys(key) for key in keys[:3]]
    made += [ScaleValues(key, factor) for key in keys[:3] for factor in (0.0, 1.5)]
    made += [
        AblateHeads(heads=(head,), streams="suffix", layers=(layer,))
        for layer in range(suffix.num_layers)
        for head in range(suffix.num_heads)
    ][:16]
    made += [
        KnockOut("action", key, layers=(layer,), denoise=(step,))
        for step in range(suffix.num_denoise)
        for layer in range(suffix.num_layers)
        for key in keys
    ]
    return made[:count]


def seconds(run: Any, *args: Any, rounds: int = 3) -> float:
    """Median time of a call that has already compiled."""
    jax.block_until_ready(run(*args))
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        jax.block_until_ready(run(*args))
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def measure(policy: Policy, edits: Edits, chunk: int) -> dict[str, float]:
    """Times in seconds for all interventions, `plain_s` for as many plain predictions.

    Returns:
      The times (`..._s`), how many programs were compiled (`..._programs`; of `retraced` as many as
      interventions, of which a few were measured), and the largest `difference`.

    Raises:
      AssertionError: results that differ, or a program that compiled more than once.
    """
    count = len(edits)
    many: Any = sweep(policy.act, chunk=chunk)
    single: Any = jax.jit(intervened(policy.act))
    plain: Any = jax.jit(policy.act)
    each = [edits[number] for number in range(count)]

    def one_by_one() -> list[jax.Array]:
        return [single(edit, *policy.arguments) for edit in each]

    at_once = np.asarray(many(edits, None, *policy.arguments))
    apart = np.stack(one_by_one())
    scale = np.abs(apart).max()
    worst = float(np.abs(at_once - apart).max() / scale)
    assert worst < 1e-5, f"the two ways differ by {worst:.2g} of the largest action"
    found = {
        "at_once_s": seconds(many, edits, None, *policy.arguments),
        "one_by_one_s": seconds(one_by_one, rounds=1),
        "plain_s": count * seconds(plain, *policy.arguments),
        "retraced_s": count * retraced(policy, each[:: max(1, count // RETRACED)][:RETRACED]),
        "difference": worst,
    }
    found |= {
        "at_once_programs": many._cache_size(),
        "one_by_one_programs": single._cache_size(),
        "plain_programs": plain._cache_size(),
        "retraced_programs": count,
    }
    for name in ("at_once", "one_by_one", "plain"):
        assert found[f"{name}_programs"] == 1, f"{name}: a program compiled again"
    return found


def retraced(policy: Policy, edits: list[Edits]) -> float:
    """Mean time of tracing, compiling and running a program with its intervention built in."""
    started = time.perf_counter()
    for edit in edits:
        constant = jax.tree.map(np.asarray, edit)

        def run(*args: Any, edit: Edits = constant) -> Any:
            return intervened(policy.act)(edit, *args)

        jax.block_until_ready(jax.jit(run)(*policy.arguments))
    return (time.perf_counter() - started) / len(edits)


def define_flags() -> None:
    """Flags of this program, defined only when it runs: other benchmarks use the same names."""
    flags.DEFINE_bool("small", False, "The tests' size: seconds instead of minutes.")
    flags.DEFINE_integer("chunk", 16, "Interventions that run at once.", lower_bound=1)


def main() -> dict[str, Any]:
    """Measures, prints, and returns what --json prints."""
    values = flags.FLAGS
    policy = Policy(make_config(small=values.small))
    edits = resolve_edits(interventions(policy.streams), policy.streams)
    found = measure(policy, edits, values.chunk)
    at_once = found["at_once_s"]
    for name, text in (
        ("at_once", f"at once, chunks of {values.chunk}"),
        ("one_by_one", "one by one"),
        ("plain", "as many plain predictions"),
        ("retraced", f"re-traced (from {RETRACED} programs)"),
    ):
        seconds_, programs = found[f"{name}_s"], int(found[f"{name}_programs"])
        print(
            f"{text}: {seconds_:.2f} s, {seconds_ / at_once:.2f} of at once;"
            f" programs compiled: {programs}",
            flush=True,
        )
    print(f"{len(edits)} interventions, largest difference {found['difference']:.1g}", flush=True)
    return found | {"interventions": len(edits)}


if __name__ == "__main__":
    define_flags()
    app.run(main)
