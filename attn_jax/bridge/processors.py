"""The processors beside a LeRobot checkpoint: raw observations to the model's input, actions back.

Both pipelines are read from the checkpoint's own `policy_preprocessor.json` and
`policy_postprocessor.json` with the state files these name. A step that is not known here, and a
setting of a step that is not known here, is an error: leaving one out would give other actions.

    processors = Processors.load("checkpoint", tokenizer="paligemma-tokenizer")
    values = processors.before({"observation.state": state, "task": ["pick up the cube"]})
    actions = processors.after(chunk, values)           # (b, H, A) in the units of the robot
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import safetensors
import safetensors.numpy

from attn_jax.bridge import processor_steps as steps
from attn_jax.bridge.tokenizer import PromptTokenizer
from attn_jax.core.errors import CheckpointError, ConfigError
from attn_jax.core.typing import AnyArray, PathLike

PREPROCESSOR, POSTPROCESSOR = "policy_preprocessor.json", "policy_postprocessor.json"


@dataclasses.dataclass(frozen=True)
class _Context:
    """What steps are built from besides their own JSON."""

    folder: pathlib.Path
    tokenizer: PathLike | None
    relative: steps.RelativeActions | None  # of the pre-processor, while reading the post-processor
    state_file: str | None

    def statistics(self) -> dict[str, dict[str, Any]]:
        """`<feature>.<statistic>` tensors of the state file; empty without one."""
        if self.state_file is None:
            return {}
        path = self.folder / self.state_file
        if pathlib.PurePath(self.state_file).name != self.state_file or not path.is_file():
            raise CheckpointError("the state file of a processor is missing", where=path)
        try:
            tensors = safetensors.numpy.load_file(path)
        except safetensors.SafetensorError as error:
            raise CheckpointError(f"is no safetensors file: {error}", where=path) from error
        found: dict[str, dict[str, Any]] = {}
        for name, tensor in tensors.items():
            feature, _, statistic = name.rpartition(".")
            found.setdefault(feature, {})[statistic] = tensor.astype("float32")
        return found


def _normaliser(config: Mapping[str, Any], context: _Context) -> steps.Step:
    return steps.Normalise.from_config(config, context.statistics())


def _unnormaliser(config: Mapping[str, Any], context: _Context) -> steps.Step:
    return steps.Normalise.from_config(config, context.statistics(), inverse=True)


def _relative(config: Mapping[str, Any], context: _Context) -> steps.Step:
    names = config.get("action_names")
    return steps.RelativeActions(
        enabled=bool(config.get("enabled", False)),
        exclude_joints=tuple(map(str, config.get("exclude_joints") or ())),
        action_names=None if names is None else tuple(map(str, names)),
    )


def _absolute(config: Mapping[str, Any], context: _Context) -> steps.Step:
    enabled = bool(config.get("enabled", False))
    if enabled and context.relative is None:
        raise CheckpointError(
            "actions are made absolute, but the pre-processor has no relative_actions_processor",
            where=context.folder / POSTPROCESSOR,
        )
    return steps.AbsoluteActions(enabled, context.relative or steps.RelativeActions())


def _tokenise(config: Mapping[str, Any], context: _Context) -> steps.Step:
    name = context.tokenizer
    if name is None:
        name = _beside(context.folder, config.get("tokenizer_name"))

    @functools.cache
    def load() -> PromptTokenizer:
        if name is None:
            raise ConfigError(
                "the checkpoint names no tokenizer",
                where=context.folder / PREPROCESSOR,
                fix="Name a folder that holds tokenizer.json with --tokenizer",
            )
        return PromptTokenizer.load(
            name,
            int(config.get("max_length", 512)),
            padding=config.get("padding", "max_length"),
            padding_side=str(config.get("padding_side", "right")),
            truncation=bool(config.get("truncation", True)),
        )

    installed = importlib.util.find_spec("tokenizers") is not None
    at_hand = installed and name is not None and pathlib.Path(name).exists()
    return steps.Tokenise(load, str(config.get("task_key", steps.TASK)), at_hand)


def _beside(folder: pathlib.Path, name: Any) -> Any:
    """A relative tokenizer name as a path below the folder, where there is one."""
    if not isinstance(name, str) or pathlib.PurePath(name).is_absolute():
        return name
    inside = folder / name
    return inside if inside.exists() and ".." not in pathlib.PurePath(name).parts else name


type _Build = Callable[[Mapping[str, Any], _Context], steps.Step]

#: Name in the JSON -> (how to build the step, the settings that it may have).
KNOWN_STEPS: Mapping[str, tuple[_Build, frozenset[str]]] = {
    "rename_observations_processor": (
        lambda config, _: steps.Rename(dict(config.get("rename_map") or {})),
        frozenset({"rename_map"}),
    ),
    "to_batch_processor": (lambda config, _: steps.AddBatch(), frozenset()),
    "relative_actions_processor": (
        _relative,
        frozenset({"enabled", "exclude_joints", "action_names"}),
    ),
    "normalizer_processor": (
        _normaliser,
        frozenset({"eps", "features", "norm_map", "normalize_observation_keys"}),
    ),
    "pi05_prepare_state_tokenizer_processor_step": (
        lambda config, _: steps.PreparePrompt(str(config.get("task_key", steps.TASK))),
        frozenset({"max_state_dim", "task_key"}),
    ),
    "tokenizer_processor": (
        _tokenise,
        frozenset(
            {"max_length", "task_key", "padding_side", "padding", "truncation", "tokenizer_name"}
        ),
    ),
    "device_processor": (
        lambda config, _: steps.Cast.from_name(config.get("float_dtype")),
        frozenset({"device", "float_dtype"}),
    ),
    "unnormalizer_processor": (
        _unnormaliser,
        frozenset({"eps", "features", "norm_map", "normalize_observation_keys"}),
    ),
    "absolute_actions_processor": (_absolute, frozenset({"enabled"})),
}


@dataclasses.dataclass(frozen=True)
class Processors:
    """Both pipelines of one checkpoint.

    Attributes:
      pre: steps from a raw observation to the model's input.
      post: steps from the model's actions to the robot's.
    """

    pre: tuple[steps.Step, ...]
    post: tuple[steps.Step, ...]

    @classmethod
    def load(cls, folder: PathLike, tokenizer: PathLike | None = None) -> Processors:
        """Reads the processors of a checkpoint folder.

        Args:
          folder: holds `policy_preprocessor.json`, `policy_postprocessor.json` and their state
            files. A relative tokenizer name that exists in it means the tokenizer there.
          tokenizer: tokenizer folder, `tokenizer.json` or name, instead of the name in the file. It
            is read when the first prompt comes, so that tokenised input needs none.

        Raises:
          CheckpointError: a file is missing or damaged, or has a step or setting that is unknown.
        """
        folder = pathlib.Path(folder)
        pre = _read_pipeline(folder, PREPROCESSOR, tokenizer, None)
        relative = next((step for step in pre if isinstance(step, steps.RelativeActions)), None)
        return cls(pre=pre, post=_read_pipeline(folder, POSTPROCESSOR, tokenizer, relative))

    @staticmethod
    def present(folder: PathLike) -> bool:
        """Whether a checkpoint folder has processors; one file without the other counts as yes."""
        return any(
            (pathlib.Path(folder) / name).is_file() for name in (PREPROCESSOR, POSTPROCESSOR)
        )

    def before(self, values: Mapping[str, Any]) -> steps.Values:
        """A raw observation through the pre-processor.

        Args:
          values: feature name -> array, and `task` (texts) unless `observation.language.tokens` and
            its mask are given, which skip the making of the prompt. An `action` is processed too.

        Returns:
          The model's input under LeRobot's names; `reference_state`, the state before
          normalisation; and `prompt_tokens`, the `Tokens` where prompts were made.
        """
        out: steps.Values = dict(values)
        for step in self.pre:
            out = step(out)
        return out

    def after(self, actions: AnyArray, values: Mapping[str, Any]) -> AnyArray:
        """Actions of the model, (b, H, A) or (b, A), in the units of the robot.

        Args:
          actions: what the model gave, without the padded dimensions.
          values: what `before` returned, for the state that relative actions start from.
        """
        out: steps.Values = {
            steps.ACTION: actions,
            steps.REFERENCE_STATE: values.get(steps.REFERENCE_STATE),
        }
        for step in self.post:
            out = step(out)
        return out[steps.ACTION]


def _read_pipeline(
    folder: pathlib.Path,
    name: str,
    tokenizer: PathLike | None,
    relative: steps.RelativeActions | None,
) -> tuple[steps.Step, ...]:
    path = folder / name
    if not path.is_file():
        raise CheckpointError("no such file", where=path, fix="It is saved beside the weights")
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["steps"]
        named = [(entry.get("registry_name", entry.get("class")), entry) for entry in entries]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"is no processor: {error!r}", where=path) from error
    built = []
    for number, (kind, entry) in enumerate(named):
        where = f"{path}, step {number}"
        if kind not in KNOWN_STEPS:
            raise CheckpointError(
                f"unknown processor step {kind!r}",
                where=where,
                fix=f"Known steps: {', '.join(KNOWN_STEPS)}",
            )
        build, settings = KNOWN_STEPS[kind]
        config = entry.get("config") or {}
        strange = sorted(set(config) - settings)
        if strange:
            raise CheckpointError(
                f"{kind} has the unknown setting {strange[0]!r}",
                where=where,
                fix=f"Known settings: {', '.join(sorted(settings)) or 'none'}",
            )
        context = _Context(folder, tokenizer, relative, entry.get("state_file"))
        built.append(build(config, context))
    return tuple(built)
