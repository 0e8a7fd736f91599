"""The part of a configuration that every family shares: `config.train`.

Usage:

    config.train = default_train_config()
    config.train.optim.learning_rate = 1e-3
    fit(..., optim_config(config.train), None, until(config.train, metric), loop=loop_config(...))
"""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import ml_collections

from attn_jax.core.errors import ConfigError
from attn_jax.train import stopping
from attn_jax.train.loop import LoopConfig
from attn_jax.train.optim import OptimConfig
from attn_jax.train.sharding import AXES, Rule

# Fields that may differ when a run continues: they decide when it ends and what it shows, not what
# it computes. A cosine's length is fixed by `optim.decay_steps`, so `steps` may change too.
MAY_CHANGE = (
    "train.steps",
    "train.samples",
    "train.seconds",
    "train.seconds_clock",
    "train.stop",
    "train.keep_last",
    "train.keep_best",
    "train.progress",
    "train.tensorboard",
    "train.wandb",
    "export",
    "distributed.coordinator",
    "distributed.process_id",
)


def default_train_config() -> ml_collections.ConfigDict:
    """Fresh defaults; a value of 0 or "" in a limit means that it is off."""
    optim = dataclasses.asdict(OptimConfig())
    optim["decay_steps"] = 0  # 0 = `steps`
    optim["clip_norm"] = 1.0  # 0 = no clipping
    del optim["frozen"]  # follows from the family's own fields
    return ml_collections.ConfigDict(
        {
            # The run ends at whichever limit comes first.
            "steps": 1000,
            "samples": 0,
            "seconds": 0.0,
            "seconds_clock": "train",  # or `wall`: compiling, evaluations and saving included
            "batch_size": 8,  # over all devices and processes
            "eval_every": 0,
            "eval_at_start": True,
            "save_every": 0,
            "keep_last": 2,
            "keep_best": 1,
            "log_every": 50,
            "optim": optim,
            "stop": {
                # Validation metric watched by the rules below; empty = the family's own.
                "metric": "",
                "target_enabled": False,
                "target": 0.0,
                "divergence_enabled": False,
                "divergence": _defaults(stopping.Divergence),
                "plateau_enabled": False,
                "plateau": _defaults(stopping.Plateau),
            },
            "max_skips": 10,
            "max_restores": 0,
            # Devices that share one copy of the parameters; 1 = every device has its own.
            "fsdp": 1,
            # Where parameters live, first match wins: ((pattern in the path, (axis or None for
            # every dimension)), ...), for example (("fc1/kernel$", (None, "fsdp")),). What no rule
            # matches, and everything without rules: copied, large ones split over `fsdp`.
            "sharding": (),
            "progress": "auto",  # or `on`, `off`
            "tensorboard": False,
            "wandb": "",  # project name
        }
    )


def default_distributed_config() -> ml_collections.ConfigDict:
    """`config.distributed` of a run on one process; several need all three fields."""
    return ml_collections.ConfigDict({"coordinator": "", "num_processes": 1, "process_id": 0})


def _defaults(condition: Any) -> dict[str, Any]:
    return {
        field.name: field.default
        for field in dataclasses.fields(condition)
        if field.default is not dataclasses.MISSING
    }


def resolve(train: Any) -> None:
    """Writes into `train` what follows from other fields: the lengths of warm-up and cosine.

    The schedule `lerobot` is shrunk to a run that is shorter, its warm-up in proportion.

    Raises:
      ConfigError: the length of the cosine follows from nothing, or is no longer than the warm-up.
    """
    optim = train.optim
    if optim.schedule == "lerobot" and 0 < train.steps < optim.decay_steps:
        optim.warmup_steps = int(optim.warmup_steps * (train.steps / optim.decay_steps))
        optim.decay_steps = train.steps
    if optim.schedule in ("cosine", "lerobot", "resume") and not optim.decay_steps:
        if not train.steps:
            raise ConfigError(
                "train.optim.decay_steps is 0 and so is train.steps",
                fix="Give the update at which the learning rate reaches its floor",
            )
        if train.steps <= optim.warmup_steps:  # OptimConfig would name a field that nobody set
            raise ConfigError(
                f"train.steps is {train.steps}, and the learning rate warms up for "
                f"{optim.warmup_steps} updates",
                fix="Train for longer, or set train.optim.warmup_steps",
            )
        optim.decay_steps = train.steps


def optim_config(train: Any) -> OptimConfig:
    """`train.optim` as a value; call `resolve` first.

    Raises:
      ConfigError: a value is out of range.
    """
    fields = train.optim.to_dict()
    fields["decay_steps"] = fields["decay_steps"] or None
    fields["clip_norm"] = fields["clip_norm"] or None
    return OptimConfig(**fields)


def sharding_rules(train: Any) -> tuple[Rule, ...]:
    """`train.sharding` as rules of `sharding.state_shardings`.

    Raises:
      ConfigError: one is not a pattern with its axes.
    """
    rules = []
    for number, rule in enumerate(train.sharding):
        where = f"train.sharding[{number}]"
        try:
            pattern, axes = rule
            re.compile(pattern)
            rules.append((pattern, tuple(axes)))
        except (TypeError, ValueError, re.error) as error:
            raise ConfigError(
                f"{rule!r} is not a rule ({error})",
                where=where,
                fix='Write (pattern, (axis or None, ...)), as in ("fc1/kernel$", (None, "fsdp"))',
            ) from error
        if unknown := [axis for axis in rules[-1][1] if axis not in (None, *AXES)]:
            raise ConfigError(f"there is no axis {unknown[0]!r}", where=where, fix=f"Axes: {AXES}")
    return tuple(rules)


def until(train: Any, best: tuple[str, str], stop_file: str) -> stopping.Any:
    """The conditions that end the run.

    Args:
      train: the configuration.
      best: the family's own metric and its mode.
      stop_file: touching this file ends the run.

    Raises:
      ConfigError: nothing would end it, or a limit that ends it before it has begun.
    """
    for name in ("steps", "samples", "seconds"):
        if not 0 <= train[name] < math.inf:
            raise ConfigError(
                f"train.{name} is {train[name]}", fix="Give a positive limit, or 0 for none"
            )
    for name in ("divergence", "plateau"):
        patience = train.stop[name].patience
        if train.stop[f"{name}_enabled"] and patience < 1:
            raise ConfigError(f"train.stop.{name}.patience is {patience}", fix="Give at least 1")
    metric = train.stop.metric or best[0]
    conditions: list[Any] = []
    if train.steps:
        conditions.append(stopping.Steps(train.steps))
    if train.samples:
        conditions.append(stopping.Samples(train.samples))
    if (limit := time_limit(train)) is not None:
        conditions.append(limit)
    if train.stop.target_enabled:
        conditions.append(stopping.Target(metric, train.stop.target, best[1]))
    if train.stop.divergence_enabled:
        conditions.append(stopping.Divergence(metric, **train.stop.divergence))
    if train.stop.plateau_enabled:
        conditions.append(stopping.Plateau(metric, **train.stop.plateau))
    stopping.Any(tuple(conditions))  # a stop file alone does not count as an end
    return stopping.Any((*conditions, stopping.StopFile(stop_file)))


def time_limit(train: Any) -> stopping.Seconds | None:
    """`train.seconds` as a condition, None when it is off; raises ConfigError: unknown clock."""
    return stopping.Seconds(train.seconds, train.seconds_clock) if train.seconds else None


def loop_config(train: Any, best: tuple[str, str]) -> LoopConfig:
    """Intervals and limits of the loop.

    Raises:
      ConfigError: a value is out of range.
    """
    modes = {"auto": None, "on": True, "off": False}
    if train.progress not in modes:
        raise ConfigError(f"train.progress is {train.progress!r}", fix="Use auto, on or off")
    return LoopConfig(
        eval_every=train.eval_every,
        eval_at_start=train.eval_at_start,
        save_every=train.save_every,
        log_every=train.log_every,
        best_metric=best[0] or None,
        best_mode=best[1],
        max_skips=train.max_skips,
        max_restores=train.max_restores,
        progress=modes[train.progress],
        total_steps=train.steps or None,
        time_limit=time_limit(train),
    )
