"""What `launch.evaluate --config=configs/rollout.py:...` does: a policy in an environment.

result = evaluate(config, checkpoint="CHECKPOINT", run="RUN", selection=selection)
"""

from __future__ import annotations

import functools
import json
import pathlib
from collections.abc import Callable
from typing import Any

import ml_collections

from attn_jax.core import files
from attn_jax.core.differences import config_differences
from attn_jax.core.errors import ConfigError
from attn_jax.core.typing import PathLike
from attn_jax.policies.observations import Description, describe
from attn_jax.policies.policy import with_weights
from attn_jax.probe.arrays import read_json
from attn_jax.probe.schema import RUN, start_run
from attn_jax.probe.select import Selection
from launch import app
from launch.rollouts import Settings, plan_jobs, run_rollouts
from robots.interface import PolicyEnv

#: Fields that change no episode; episodes may be added to a run.
MAY_CHANGE = ("config.n_envs", "config.episodes")


def evaluate(
    config: ml_collections.ConfigDict,
    *,
    checkpoint: PathLike,
    run: PathLike,
    selection: Selection | None = None,
    tokenizer: PathLike | None = None,
) -> dict[str, Any]:
    """Runs the episodes that are not finished yet; returns what `eval_info.json` holds.

    Args:
      config: of `configs/rollout.py`.
      checkpoint: see `policies.policy.load_policy`.
      run: folder of the run; one that was interrupted goes on, also with more episodes.
      selection: attention to record.
      tokenizer: instead of the checkpoint's.

    Raises:
      ConfigError: values that cannot be, or a run folder of something else.
    """
    least = {"episodes": 1, "n_envs": 1, "max_steps": 1, "n_action_steps": 1, "seed": 0}
    for name, lowest in least.items():
        if config[name] is not None and config[name] < lowest:
            raise ConfigError(
                f"must be at least {lowest}, got {config[name]}", where=f"config.{name}"
            )
    make_env = env_factory(config.env, config.max_steps)
    description = describe(checkpoint, tokenizer=tokenizer)
    steps = config.n_action_steps or description.config.n_action_steps
    if not 1 <= steps <= description.config.chunk_size:
        raise ConfigError(
            f"{steps} is outside 1..{description.config.chunk_size}, the length of a chunk",
            where="config.n_action_steps",
        )
    run = pathlib.Path(run)
    # The first environment checks its settings before anything is written or weights are read.
    first = make_env()
    try:
        jobs = plan_jobs(first.tasks, episodes=config.episodes, seed=config.seed)
        _start(run, config, description, selection)
        policy = with_weights(description, capture=selection)
    except BaseException:
        first.close()
        raise
    waiting = [first]
    settings = Settings(
        run=run,
        n_envs=config.n_envs,
        seed=config.seed,
        n_action_steps=steps,
        max_steps=config.max_steps,
        masks=config.masks,
        video=config.video,
        source=config.env.name,
    )
    return run_rollouts(policy, lambda: waiting.pop() if waiting else make_env(), jobs, settings)


def env_factory(
    config: ml_collections.ConfigDict, max_steps: int | None = None
) -> Callable[[], PolicyEnv]:
    """What makes one environment; its episodes end after `max_steps`, or None for its own number.

    Raises:
      ConfigError: an unknown name or setting.
    """
    settings = config.to_dict()
    settings["max_steps"] = max_steps
    name = settings.pop("name")
    if name == "libero":
        from robots.libero.env import LiberoEnv

        settings["task_ids"] = tuple(settings["task_ids"]) or None
        return functools.partial(LiberoEnv, **settings)
    if name == "tabletop":
        from robots.tabletop.rollouts import TabletopRollouts

        return functools.partial(TabletopRollouts, **settings)
    raise ConfigError(f"unknown environment {name!r}", where="config.env.name")


def _start(
    run: pathlib.Path,
    config: ml_collections.ConfigDict,
    description: Description,
    selection: Selection | None,
) -> None:
    """Makes the run folder, or checks that the one that is there is of the same evaluation.

    Raises:
      ConfigError: it is another one; names every field that differs, with both values.
    """
    facts = description.provenance()
    wanted = {"family": facts["family"], "model": facts["model"]}
    wanted |= {"config": app.jsonable(config.to_dict())}
    chosen = None if selection is None else selection.to_json()
    if not (run / RUN).exists():
        provenance = {**app.provenance(config.seed), **facts, "config": wanted["config"]}
        start_run(run, selection=selection, provenance=provenance)
        return
    found = read_json(run / RUN)
    before = found.get("provenance") or {}
    # Runs of earlier versions do not say which weights they had.
    wanted |= {key: facts[key] for key in ("checkpoint_fingerprint",) if key in before}
    different = config_differences(
        {"selection": found.get("selection"), **{key: before.get(key) for key in wanted}},
        json.loads(json.dumps({"selection": chosen, **wanted})),
        ignore=MAY_CHANGE,
    )
    episodes = before["config"]["episodes"] if not different else 0
    if config.episodes < episodes:
        different.append(f"config.episodes: was {episodes}, now fewer, {config.episodes}")
    if different:
        raise ConfigError(
            f"holds another run: {'; '.join(different)}",
            where=run,
            fix="Name another --workdir, or ask for the same again to go on",
        )
    if config.episodes > episodes:
        before["config"]["episodes"] = config.episodes
        files.write_json(run / RUN, found)
