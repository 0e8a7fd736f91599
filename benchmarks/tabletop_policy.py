"""How well a policy picks up what it is told on the tabletop, against policies that must do worse.

    python -m benchmarks.tabletop_policy --checkpoint=robots/tabletop/policy [--trials=100] [--json]

Every policy meets the same scenes, of two things each (seeds `--first_seed` and up, which no
recorded demonstration has). Success is the environment's: the thing that the scene's own prompt
names is held 7 cm above its rest. Printed for each:

- policy: the checkpoint, told the scene's prompt;
- other words: told to pick up the other thing of the same scene, and still judged by the first;
- random actions: uniform in [-1, 1].

`right` is the share of the episodes that lifted something in which it was the thing that the policy
was told. Intervals are Wilson's at 95 %.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from absl import flags
from scipy.stats import binomtest

from attn_jax.core.errors import ConfigError
from attn_jax.core.typing import NumpyArray
from attn_jax.policies.policy import Policy, load_policy
from launch import app, compile_cache
from robots.tabletop.env import TabletopEnv

CHECKPOINT = app.define_checkpoint()
TRIALS = flags.DEFINE_integer("trials", 100, "Scenes.", lower_bound=1)
FIRST_SEED = flags.DEFINE_integer("first_seed", 10_000, "Seed of the first scene.")
SIDE_BY_SIDE = flags.DEFINE_integer("side_by_side", 10, "Scenes run together.", lower_bound=1)
TASK = flags.DEFINE_string("task", "pick", "Task of the tabletop.")

#: (observations, prompts, seeds of the scenes, number of the call) -> chunks of actions (b, H, 7).
Chunks = Callable[[list[dict[str, Any]], list[str], list[int], int], NumpyArray]


def main() -> dict[str, Any]:
    """Runs every policy on every scene and prints the table."""
    if not CHECKPOINT.value:
        raise ConfigError("--checkpoint is required")
    compile_cache.enable()
    policy = load_policy(CHECKPOINT.value)
    results = measure(
        policy,
        range(FIRST_SEED.value, FIRST_SEED.value + TRIALS.value),
        batch=SIDE_BY_SIDE.value,
        task=TASK.value,
    )
    print(f"{'':>15} successes   rate  95 % interval   right")
    for name, found in results.items():
        print(
            f"{name:>15} {found['successes']:5d}/{found['trials']:<4d} {found['rate']:6.2f}  "
            f"{found['low']:.2f} to {found['high']:.2f}   {found['told']}/{found['lifted']} lifted"
        )
    return results


def measure(
    policy: Policy,
    seeds: Sequence[int],
    *,
    batch: int = 10,
    task: str = "pick",
    max_steps: int | None = None,
) -> dict[str, dict[str, Any]]:
    """Every policy on the scenes of `seeds`, `batch` of them side by side; see the module."""
    steps = policy.config.n_action_steps

    def random(
        observations: list[dict[str, Any]], prompts: list[str], scenes: list[int], call: int
    ) -> NumpyArray:
        draws = [np.random.default_rng([seed, call]).uniform(-1, 1, (steps, 7)) for seed in scenes]
        return np.asarray(draws, np.float32)

    own = chunks_of(policy, batch)
    cases = {"policy": (own, False), "other words": (own, True), "random actions": (random, False)}
    found = {name: [0, 0, 0] for name in cases}
    for name, (chunks, other) in cases.items():
        for start in range(0, len(seeds), batch):
            envs = [TabletopEnv(task, max_steps=max_steps) for _ in seeds[start : start + batch]]
            counts = run(chunks, envs, list(seeds[start : start + batch]), steps, other=other)
            found[name] = [a + b for a, b in zip(found[name], counts, strict=True)]
    return {name: _row(len(seeds), *counts) for name, counts in found.items()}


def chunks_of(policy: Policy, batch: int) -> Chunks:
    """A checkpoint as a function of observations; noise depends on the scene and the call."""

    def chunks(
        observations: list[dict[str, Any]], prompts: list[str], scenes: list[int], call: int
    ) -> NumpyArray:
        rows = [*range(len(prompts)), *([0] * (batch - len(prompts)))]
        keys = [key for key in observations[0] if key.startswith("observation.images")]
        keys.append("observation.state")
        batched = {key: np.stack([observations[i][key] for i in rows]) for key in keys}
        noise = np.stack([policy.episode_noise(0, scenes[i], call) for i in rows])
        found = policy.predict({**batched, "task": [prompts[i] for i in rows]}, noise)
        return found.actions[: len(prompts)]

    return chunks


def run(
    chunks: Chunks, envs: list[TabletopEnv], seeds: list[int], steps: int, *, other: bool
) -> tuple[int, int, int]:
    """One policy on some scenes, side by side; closes the environments.

    Args:
      chunks: the policy.
      envs: an environment per seed.
      seeds: of the scenes.
      steps: actions of a chunk that are carried out.
      other: tell it the other thing of the scene.

    Returns:
      Successes, episodes that lifted something, and those that lifted what the policy was told.
    """
    states = [env.reset(seed=seed) for env, seed in zip(envs, seeds, strict=True)]
    latest, infos = [state for state, _ in states], [info for _, info in states]
    names = [_told(info, other=other) for info in infos]
    prompts = [info["prompts"][name] for name, info in zip(names, infos, strict=True)]
    active, call = list(range(len(envs))), 0
    while active:
        made = chunks(
            [latest[i] for i in active],
            [prompts[i] for i in active],
            [seeds[i] for i in active],
            call,
        )
        call += 1
        for actions, i in zip(made, [*active], strict=True):
            for action in actions[:steps]:
                latest[i], _, ended, cut, infos[i] = envs[i].step(action)
                if ended or cut:
                    active.remove(i)
                    break
    for env in envs:
        env.close()
    taken = [info["lifted"] for info in infos]
    return (
        sum(bool(info["is_success"]) for info in infos),
        sum(name is not None for name in taken),
        sum(name == wanted for name, wanted in zip(taken, names, strict=True)),
    )


def _row(trials: int, successes: int, lifted: int, told: int) -> dict[str, Any]:
    interval = binomtest(successes, trials).proportion_ci(method="wilson")
    return {
        "trials": trials,
        "successes": successes,
        "rate": successes / trials,
        "low": float(interval.low),
        "high": float(interval.high),
        "lifted": lifted,
        "told": told,
    }


def _told(info: dict[str, Any], *, other: bool) -> str:
    """The thing that the prompt names: the target, or the first other thing that could be meant."""
    target = next(name for name, role in info["roles"].items() if role == "target")
    return next(name for name in info["prompts"] if (name == target) != other)


if __name__ == "__main__":
    app.run(main)
