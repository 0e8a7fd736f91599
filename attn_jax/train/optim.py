"""How an update is made: AdamW, its learning rate schedule, clipping, averaging and precision.

`OptimConfig` is the whole description; `make_optimizer` turns it into an optax transformation and
`make_schedule` into the learning rate as a function of the number of updates applied.

    optim = OptimConfig(learning_rate=3e-4, schedule="cosine", warmup_steps=100, decay_steps=10_000)
    tx = make_optimizer(optim)
    opt_state = tx.init(params)
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from attn_jax.core.errors import ConfigError

SCHEDULES = ("constant", "cosine", "lerobot", "resume", "plateau")
PRECISIONS = ("float32", "bfloat16")

# Not decayed unless asked for: biases and the parameters of norm layers. Tokens are.
_NOT_DECAYED = re.compile(r"bias|norm|ln_|bn", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """Everything that decides how gradients change the parameters.

    Attributes:
      learning_rate: peak learning rate.
      schedule: `constant`; `cosine`, linear warm-up from 0 and then a cosine; `lerobot`, LeRobot's
        `cosine_decay_with_warmup`: linear warm-up from learning_rate / (warmup_steps + 1), then the
        rest of a cosine that began with the first update; `resume`, linear from
        `start_learning_rate` onto the same global cosine, for continuing with new data; or
        `plateau`, constant times a factor that shrinks when the training loss stops falling.
      warmup_steps: updates of linear warm-up; applies to every schedule (0 = none).
      decay_steps: update at which the cosine reaches its floor; required by cosine, lerobot and
        resume.
      min_ratio: floor of cosine and plateau as a fraction of `learning_rate`.
      start_learning_rate: where `resume` starts.
      start_update: position on the global cosine at which `resume` starts, updates.
      plateau_factor: the learning rate is multiplied by this at every plateau.
      plateau_patience: averaged losses without improvement before that happens.
      plateau_average: training steps averaged into one loss for that decision.
      weight_decay: decoupled weight decay, scaled by the learning rate as in AdamW.
      decay_all: apply it to biases and norms, too.
      b1: decay of AdamW's first moment.
      b2: decay of AdamW's second moment.
      eps: AdamW's epsilon.
      clip_norm: gradients are scaled down to this global norm; None = no clipping.
      ema: decay of the averaged parameters, for example 0.999; 0 = no average is kept.
      micro_batches: a batch is cut into this many parts that are scanned one after the other, their
        gradients averaged; equal to one large batch up to rounding.
      frozen: regular expressions searched in a parameter's path (`vision/patch_embed/kernel`);
        those found are never changed, have no gradient and no optimizer state.
      precision: `float32`, or `bfloat16`: parameters and float inputs are rounded to bfloat16 for
        the forward and backward pass; stored parameters, gradients, moments and the loss stay
        float32.

    Raises:
      ConfigError: a value is out of range or a schedule lacks what it needs.
    """

    learning_rate: float = 2e-4
    schedule: str = "constant"
    warmup_steps: int = 0
    decay_steps: int | None = None
    min_ratio: float = 1e-3
    start_learning_rate: float = 0.0
    start_update: int = 0
    plateau_factor: float = 0.8
    plateau_patience: int = 15
    plateau_average: int = 50
    weight_decay: float = 0.01
    decay_all: bool = False
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    clip_norm: float | None = 1.0
    ema: float = 0.0
    micro_batches: int = 1
    precision: str = "float32"
    frozen: tuple[str, ...] = ()

    def __post_init__(self):
        _require(self.schedule in SCHEDULES, "schedule", self.schedule, f"one of {SCHEDULES}")
        _require(self.precision in PRECISIONS, "precision", self.precision, f"one of {PRECISIONS}")
        _require(self.micro_batches >= 1, "micro_batches", self.micro_batches, "at least 1")
        _require(0.0 <= self.ema < 1.0, "ema", self.ema, "at least 0 and below 1")
        for name in ("warmup_steps", "start_update", "start_learning_rate", "weight_decay"):
            _require(0 <= getattr(self, name) < math.inf, name, getattr(self, name), "at least 0")
        for name in ("b1", "b2"):
            good = 0.0 <= getattr(self, name) < 1.0
            _require(good, name, getattr(self, name), "at least 0 and below 1")
        _require(0 < self.eps < math.inf, "eps", self.eps, "positive")
        _require(
            0.0 < self.plateau_factor < 1.0,
            "plateau_factor",
            self.plateau_factor,
            "between 0 and 1",
        )
        for name in ("plateau_patience", "plateau_average"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        _require(0.0 <= self.min_ratio <= 1.0, "min_ratio", self.min_ratio, "from 0 to 1")
        _require(
            math.isfinite(self.learning_rate) and self.learning_rate > 0,
            "learning_rate",
            self.learning_rate,
            "positive",
        )
        _require(
            self.clip_norm is None or 0 < self.clip_norm < math.inf,
            "clip_norm",
            self.clip_norm,
            "positive, or None for no clipping",
        )
        if self.schedule in ("cosine", "lerobot", "resume"):
            first = self.warmup_steps + (self.start_update if self.schedule == "resume" else 0)
            _require(
                self.decay_steps is not None and self.decay_steps > first,
                "decay_steps",
                self.decay_steps,
                f"more than {first}, where the warm-up ends, for schedule={self.schedule}",
            )


def _require(good: bool, name: str, value: Any, expected: str) -> None:
    if not good:
        raise ConfigError(f"optim.{name} is {value!r}", fix=f"It must be {expected}")


def make_schedule(config: OptimConfig) -> optax.Schedule:
    """Learning rate as a function of the number of updates applied so far, both scalars.

    For `plateau` the factor is not part of it: it depends on the losses (see `plateau_scale`).
    """
    peak, warmup = config.learning_rate, config.warmup_steps
    if config.schedule in ("constant", "plateau"):
        if not warmup:
            return optax.constant_schedule(peak)
        return optax.linear_schedule(0.0, peak, warmup)
    assert config.decay_steps is not None  # checked by OptimConfig
    if config.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(
            0.0 if warmup else peak, peak, warmup, config.decay_steps, peak * config.min_ratio
        )

    if config.schedule == "lerobot":
        whole = optax.cosine_decay_schedule(peak, config.decay_steps, config.min_ratio)
        line = optax.linear_schedule(peak / (warmup + 1), peak, max(warmup, 1))

        def lerobot(count: Any) -> Any:
            return jnp.where(count < warmup, line(count), whole(count))

        return lerobot

    # The global cosine is entered at `start_update`; a straight line leads from the learning rate
    # of the checkpoint to the cosine's value at the end of the line.
    cosine = optax.cosine_decay_schedule(peak, config.decay_steps, config.min_ratio)

    def resume(count: Any) -> Any:
        target = cosine(config.start_update + warmup)
        start = config.start_learning_rate
        line = start + (target - start) * jnp.minimum(count, warmup) / max(warmup, 1)
        return jnp.where(count < warmup, line, cosine(config.start_update + count))

    return resume


def make_optimizer(config: OptimConfig) -> optax.GradientTransformationExtraArgs:
    """The optax transformation; its `update` takes `value=` (the loss) for every schedule."""
    chain: list[optax.GradientTransformation] = []
    if config.clip_norm is not None:
        chain.append(optax.clip_by_global_norm(config.clip_norm))
    chain.append(
        optax.adamw(
            make_schedule(config),
            b1=config.b1,
            b2=config.b2,
            eps=config.eps,
            weight_decay=config.weight_decay,
            mask=None if config.decay_all else decay_mask,
        )
    )
    if config.schedule == "plateau":
        chain.append(
            optax.contrib.reduce_on_plateau(
                factor=config.plateau_factor,
                patience=config.plateau_patience,
                accumulation_size=config.plateau_average,
                min_scale=config.min_ratio,
            )
        )
    return optax.with_extra_args_support(optax.chain(*chain))


def decay_mask(params: Any) -> Any:
    """True for every parameter that weight decay applies to, by the names on its path."""

    def decayed(path: Any, _: Any) -> bool:
        return not _NOT_DECAYED.search(jax.tree_util.keystr(path, simple=True, separator="/"))

    return jax.tree_util.tree_map_with_path(decayed, params)


def split_frozen(params: Any, frozen: Sequence[str]) -> tuple[Any, Any]:
    """(trainable, frozen): two trees like `params` that have None where the other has a leaf.

    Raises:
      ConfigError: a pattern that is none, matches nothing, or nothing is left to train.
    """
    names = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(params)
    ]
    found = set()
    for pattern in frozen:
        try:
            matches = {name for name in names if re.search(pattern, name)}
        except re.error as error:
            raise ConfigError(f"{pattern!r} is no pattern: {error}", where="frozen") from error
        if not matches:
            raise ConfigError(f"no parameter matches {pattern!r}", where="frozen")
        found |= matches
    if names and len(found) == len(names):
        raise ConfigError("every parameter is frozen", where="frozen")

    def pick(keep: bool) -> Any:
        def choose(path: Any, leaf: Any) -> Any:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            return leaf if (name in found) is keep else None

        return jax.tree_util.tree_map_with_path(choose, params)

    return pick(False), pick(True)


def join_frozen(trainable: Any, frozen: Any) -> Any:
    """Inverse of `split_frozen`."""
    return jax.tree.map(
        lambda t, f: f if t is None else t, trainable, frozen, is_leaf=lambda x: x is None
    )


def plateau_scale(opt_state: Any) -> Any:
    """The factor that the plateau schedule has reached, a scalar; 1 for the other schedules."""
    scale = optax.tree_utils.tree_get(
        opt_state, "scale", 1.0, filtering=lambda path, _: "Plateau" in str(path[-1])
    )
    return jnp.asarray(scale, jnp.float32)


def init_ema(params: Any, config: OptimConfig) -> Any:
    """The averaged parameters before the first update: a copy of `params`, or None when off."""
    return jax.tree.map(jnp.array, params) if config.ema else None


def update_ema(ema: Any, params: Any, config: OptimConfig, updates: Any) -> Any:
    """Moves the average towards `params`.

    The average starts at the initial parameters. So that these do not linger, the decay is
    min(ema, (1 + n) / (10 + n)) after n updates: early on the average is short.
    """
    if ema is None:
        return None
    decay = jnp.minimum(config.ema, (1.0 + updates) / (10.0 + updates))
    return jax.tree.map(lambda e, p: e + (1.0 - decay) * (p - e), ema, params)
