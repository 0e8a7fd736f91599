"""The steps of LeRobot's policy processors that Pi0.5 uses, by the arithmetic of LeRobot 0.6.1.

A step is a frozen value with `__call__(values) -> values`. `values` is a flat dict with LeRobot's
feature names as keys: `observation.state` (b, s), `observation.images.<camera>` (b, 3, h, w),
`action` (b, A) or (b, H, A), `task` (a list of texts), and after tokenising
`observation.language.tokens` (b, k) and `observation.language.attention_mask` (b, k). Steps never
change arrays in place.

    normalise = Normalise.from_config(config, statistics)
    values = normalise({"observation.state": state})
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from absl import logging

from attn_jax.bridge.tokenizer import PromptTokenizer, Tokens
from attn_jax.core.errors import CheckpointError, InputError
from attn_jax.core.typing import AnyArray, NumpyArray

STATE, ACTION, TASK = "observation.state", "action", "task"
TOKENS, TOKEN_MASK = "observation.language.tokens", "observation.language.attention_mask"
REFERENCE_STATE = "reference_state"  # the state in its own units, which relative actions start from
PROMPT_TOKENS = "prompt_tokens"  # the `Tokens` of the prompts, with their characters

Values: TypeAlias = dict[str, Any]
Step: TypeAlias = Callable[[Values], Values]
Statistics: TypeAlias = Mapping[str, Mapping[str, NumpyArray]]

_MODES = {
    "IDENTITY": (),
    "MEAN_STD": ("mean", "std"),
    "MIN_MAX": ("min", "max"),
    "QUANTILES": ("q01", "q99"),
    "QUANTILE10": ("q10", "q90"),
}
_FEATURE_TYPES = ("STATE", "VISUAL", "ENV", "ACTION", "REWARD", "LANGUAGE")
_FLOATS = {
    "float16": np.dtype(np.float16),
    "half": np.dtype(np.float16),
    "float32": np.dtype(np.float32),
    "float": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
    "double": np.dtype(np.float64),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


@dataclasses.dataclass(frozen=True)
class Rename:
    """Gives features other names; the rest keep theirs."""

    names: Mapping[str, str]

    def __call__(self, values: Values) -> Values:
        """The same arrays under new names."""
        return {self.names.get(key, key): value for key, value in values.items()}


@dataclasses.dataclass(frozen=True)
class AddBatch:
    """Gives single items a batch axis: a state or an action vector, a picture, one task text."""

    def __call__(self, values: Values) -> Values:
        """Every feature with a batch axis."""
        out = dict(values)
        for key, value in values.items():
            if key == TASK:
                out[key] = [value] if isinstance(value, str) else list(value)
            elif (key in (STATE, ACTION, "observation.environment_state") and value.ndim == 1) or (
                (key == "observation.image" or key.startswith("observation.images."))
                and value.ndim == 3
            ):
                out[key] = value[None]
        return out


@dataclasses.dataclass(frozen=True)
class RelativeActions:
    """Makes actions relative to the state, and remembers the state for the way back.

    Attributes:
      enabled: whether actions are relative; the state is remembered in any case.
      exclude_joints: words; an action dimension whose name holds one stays absolute.
      action_names: name of every action dimension; without names all dimensions are relative.
    """

    enabled: bool = False
    exclude_joints: tuple[str, ...] = ()
    action_names: tuple[str, ...] | None = None

    def relative_dimensions(self, size: int) -> NumpyArray:
        """Which of `size` action dimensions are relative, (size,) bool."""
        words = [word.lower() for word in self.exclude_joints if word]
        names = [] if self.action_names is None else [n.lower() for n in self.action_names[:size]]
        out = np.ones(size, np.bool_)
        for dimension, name in enumerate(names):
            out[dimension] = not any(word in name for word in words)
        return out

    def __call__(self, values: Values) -> Values:
        """Adds the reference state; takes it off the actions where there are any."""
        state = values.get(STATE)
        if state is None:
            return values
        out = {**values, REFERENCE_STATE: state}
        if self.enabled and values.get(ACTION) is not None:
            out[ACTION] = self.shifted(values[ACTION], state, sign=-1)
        return out

    def shifted(self, action: AnyArray, state: AnyArray, *, sign: int) -> AnyArray:
        """Actions (b, A) or (b, H, A) plus or minus the state (b, s) in the relative dimensions.

        Raises:
          InputError: the state has fewer dimensions than the actions.
        """
        size = action.shape[-1]
        if state.shape[-1] < size:
            raise InputError(
                f"relative actions of {size} dimensions need a state of at least as many, "
                f"got {state.shape[-1]}"
            )
        shift = state[..., :size].astype(action.dtype) * self.relative_dimensions(size).astype(
            action.dtype
        )
        return action + sign * (shift[:, None] if action.ndim == 3 else shift)


@dataclasses.dataclass(frozen=True)
class AbsoluteActions:
    """Adds the remembered state back to relative actions.

    Attributes:
      enabled: whether actions are relative.
      relative: the step of the pre-processor that made them so.
    """

    enabled: bool = False
    relative: RelativeActions = dataclasses.field(default_factory=RelativeActions)

    def __call__(self, values: Values) -> Values:
        """Absolute actions.

        Raises:
          InputError: no reference state was given.
        """
        if not self.enabled or values.get(ACTION) is None:
            return values
        if values.get(REFERENCE_STATE) is None:
            raise InputError(
                "the checkpoint's actions are relative to the state, which is not given",
                fix="Give `state` in the units of the robot",
            )
        shifted = self.relative.shifted(values[ACTION], values[REFERENCE_STATE], sign=1)
        return {**values, ACTION: shifted}


@dataclasses.dataclass(frozen=True, eq=False)
class Normalise:
    """Maps features between their units and the model's; values are never clipped.

    Attributes:
      features: feature name -> type (`STATE`, `VISUAL`, `ACTION`, ...).
      modes: feature type -> `IDENTITY`, `MEAN_STD`, `MIN_MAX`, `QUANTILES` or `QUANTILE10`.
      statistics: feature name -> name of the statistic -> float32 array.
      epsilon: added to a standard deviation, and used for a range only where that is exactly 0.
      only: names of the observations concerned, or None for all.
      inverse: from the model's units back to the feature's.
    """

    features: Mapping[str, str]
    modes: Mapping[str, str]
    statistics: Statistics
    epsilon: float = 1e-8
    only: tuple[str, ...] | None = None
    inverse: bool = False

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], statistics: Statistics, *, inverse: bool = False
    ) -> Normalise:
        """From a step's JSON.

        Features that are to be normalised but have no statistics stay as they are, as in LeRobot;
        a warning names them.

        Raises:
          CheckpointError: an unknown mode or type, or statistics without the ones the mode needs.
        """
        features = {key: str(value["type"]) for key, value in config.get("features", {}).items()}
        modes = {str(key): str(value) for key, value in config.get("norm_map", {}).items()}
        for kind in (*features.values(), *modes):
            if kind not in _FEATURE_TYPES:
                raise CheckpointError(
                    f"unknown feature type {kind!r}", fix=f"Known: {', '.join(_FEATURE_TYPES)}"
                )
        for mode in modes.values():
            if mode not in _MODES:
                raise CheckpointError(
                    f"unknown normalisation {mode!r}", fix=f"Known: {', '.join(_MODES)}"
                )
        shaped = {
            key: {
                name: array.reshape(-1, 1, 1)
                if features.get(key) == "VISUAL" and array.ndim == 1
                else array
                for name, array in stats.items()
            }
            for key, stats in statistics.items()
        }
        only = config.get("normalize_observation_keys")
        step = cls(
            features=features,
            modes=modes,
            statistics=shaped,
            epsilon=float(config.get("eps", 1e-8)),
            only=None if only is None else tuple(only),
            inverse=inverse,
        )
        step._check()
        return step

    def _check(self) -> None:
        for key, kind in self.features.items():
            needed = _MODES[self.modes.get(kind, "IDENTITY")]
            if not needed or (self.only is not None and kind != "ACTION" and key not in self.only):
                continue
            if key not in self.statistics:
                logging.warning("%s has no statistics and is not normalised", key)
                continue
            missing = [name for name in needed if name not in self.statistics[key]]
            if missing:
                raise CheckpointError(
                    f"{self.modes[kind]} needs the statistic {missing[0]!r} of {key}",
                    fix=f"Present: {', '.join(self.statistics[key])}",
                )

    def __call__(self, values: Values) -> Values:
        """Every feature of the step in the other units."""
        out = dict(values)
        for key, kind in self.features.items():
            chosen = self.only is None or key in self.only
            if kind != "ACTION" and chosen and out.get(key) is not None:
                out[key] = self.transformed(out[key], key, kind)
        if out.get(ACTION) is not None:
            out[ACTION] = self.transformed(out[ACTION], ACTION, "ACTION")
        return out

    def transformed(self, x: AnyArray, key: str, kind: str) -> AnyArray:
        """One feature; the last axes of `x` are those of its statistics.

        Raises:
          InputError: `x` has another number of dimensions.
        """
        mode = self.modes.get(kind, "IDENTITY")
        if mode == "IDENTITY" or key not in self.statistics:
            return x
        if not jnp.issubdtype(x.dtype, jnp.floating):
            x = x.astype(np.float32)
        first, second = (self.statistics[key][name] for name in _MODES[mode])
        if first.ndim == 1 and first.shape[0] not in (1, x.shape[-1]):
            raise InputError(f"has {x.shape[-1]} dimensions, expected {first.shape[0]}", where=key)
        first, second = first.astype(x.dtype), second.astype(x.dtype)
        epsilon = np.asarray(self.epsilon, x.dtype)
        if mode == "MEAN_STD":
            return x * second + first if self.inverse else (x - first) / (second + epsilon)
        extent = second - first
        extent = np.where(extent == 0, epsilon, extent)
        if not self.inverse:
            return 2 * (x - first) / extent - 1
        # The orders of the products differ in LeRobot too, and with them the last bit.
        return (x + 1) / 2 * extent + first if mode == "MIN_MAX" else (x + 1) * extent / 2 + first


def state_bins(state: AnyArray) -> NumpyArray:
    """Bins of a normalised state: -1 below -1, then 0..255, 255 also above 1; integers."""
    edges = np.linspace(-1, 1, 257)[:-1]
    return np.digitize(np.asarray(state), edges) - 1


def prompt(task: str, bins: Sequence[int] | NumpyArray) -> str:
    """The text that Pi0.5 reads; one line, with one number per state dimension."""
    cleaned = task.strip().replace("_", " ").replace("\n", " ")
    return f"Task: {cleaned}, State: {' '.join(str(int(b)) for b in bins)};\nAction: "


@dataclasses.dataclass(frozen=True)
class PreparePrompt:
    """Writes the normalised state into the task text.

    Attributes:
      task_key: where the task texts are, and where the prompts go.
    """

    task_key: str = TASK

    def __call__(self, values: Values) -> Values:
        """Prompts instead of tasks; values that are tokenised already pass unchanged.

        Raises:
          InputError: the state or the task is missing, or their batch sizes differ.
        """
        if TOKENS in values:
            return values
        for key in (STATE, self.task_key):
            if values.get(key) is None:
                raise InputError(
                    f"{key!r} is missing",
                    fix="The prompt is made of the task and the state; or give tokens",
                )
        tasks, bins = list(values[self.task_key]), state_bins(values[STATE])
        if len(tasks) != len(bins):
            raise InputError(f"{len(tasks)} tasks for {len(bins)} states")
        texts = [prompt(task, row) for task, row in zip(tasks, bins, strict=True)]
        return {**values, self.task_key: texts}


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenise:
    """Turns prompts into token ids.

    Attributes:
      load: gives the tokenizer, which is read when the first prompt comes.
      task_key: where the prompts are.
      at_hand: whether it can be read from files that are there.
    """

    load: Callable[[], PromptTokenizer]
    task_key: str = TASK
    at_hand: bool = False

    def __call__(self, values: Values) -> Values:
        """Adds tokens and mask; values that are tokenised already pass unchanged.

        Raises:
          InputError: no prompts.
          ConfigError: the tokenizer cannot be loaded.
        """
        if TOKENS in values:
            return values
        if values.get(self.task_key) is None:
            raise InputError(f"{self.task_key!r} is missing", fix="Give the task, or tokens")
        found: Tokens = self.load()(values[self.task_key])
        return {**values, TOKENS: found.ids, TOKEN_MASK: found.mask, PROMPT_TOKENS: found}


@dataclasses.dataclass(frozen=True)
class Cast:
    """The device step: devices are the caller's affair here, the floating type is not.

    Attributes:
      dtype: type that floating values get, or None.
    """

    dtype: np.dtype | None = None

    @classmethod
    def from_name(cls, name: str | None) -> Cast:
        """From a `float_dtype`; raises `CheckpointError` for an unknown one."""
        if name is not None and name not in _FLOATS:
            raise CheckpointError(
                f"unknown float_dtype {name!r}", fix=f"Known: {', '.join(_FLOATS)}"
            )
        return cls(None if name is None else _FLOATS[name])

    def __call__(self, values: Values) -> Values:
        """Floating arrays in the type of the step."""
        if self.dtype is None:
            return values
        return {
            key: value.astype(self.dtype)
            if isinstance(value, (np.ndarray, jax.Array))
            and jnp.issubdtype(value.dtype, jnp.floating)
            and key != REFERENCE_STATE  # LeRobot remembers it before this step
            else value
            for key, value in values.items()
        }
