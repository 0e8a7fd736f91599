"""Counterfactual prompts: other words on the same frames, read from YAML.

- key: banana                       # names the folder of the variant
  prompt: find the banana and pick it up
  method: object_swap
- {key: not, prompt: "do not {prompt}", method: negation}     # {prompt} is that of the episode
- {key: swap, prompt: "{other}", method: object_swap}         # another instruction of its scene

prompts = read_prompts("prompts.yaml")
prompts[0].words("find the duck and pick it up")
batch = swap_prompts(observation, prompts)      # LeRobot keys, `task` replaced

A batch of swaps holds all samples under the first prompt, then all under the second.
Axis names: b samples, n prompts.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import yaml

from attn_jax.core.errors import ConfigError
from attn_jax.core.typing import PathLike

#: What was changed against the prompt of the episode; `paraphrase` changes the words alone and is
#: the control for the others.
METHODS = ("object_swap", "style", "negation", "empty", "paraphrase", "custom")
NOISE = "noise_"
TASK = "task"

_OTHER = "{other}"
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class Keyed(Protocol):
    """Something with a short name."""

    @property
    def key(self) -> str:
        """Names a folder."""
        ...


@dataclasses.dataclass(frozen=True)
class Prompt:
    """One counterfactual prompt.

    Attributes:
      key: short name; a folder is called so.
      text: the words; `{prompt}` stands for the prompt of the episode, `{other}` for the first
        other instruction of its scene, where the episode knows one (`other_prompts` of its info).
      method: one of `METHODS`.
    """

    key: str
    text: str
    method: str = "custom"

    def __post_init__(self):
        check_key(self.key)
        if self.method not in METHODS:
            raise ConfigError(
                f"prompt {self.key!r} has the method {self.method!r}", fix=f"Use one of {METHODS}"
            )
        if not self.text.strip() and self.method != "empty":
            raise ConfigError(f"prompt {self.key!r} has no words", fix='Give it the method "empty"')

    def words(self, base: str, others: Sequence[str] = ()) -> str:
        """The prompt for an episode whose own prompt is `base`.

        Raises:
          ConfigError: `{other}` stands for nothing, because `others` is empty.
        """
        if _OTHER in self.text and not others:
            raise ConfigError(
                f"prompt {self.key!r} wants another instruction of the scene, and none is known",
                fix="Record the episode with launch.evaluate, or write the words out",
            )
        return self.text.replace("{prompt}", base).replace(_OTHER, "".join(others[:1]))

    def suits(self, others: Sequence[str]) -> bool:
        """Whether `words` can be said of a scene with these other instructions."""
        return _OTHER not in self.text or bool(others)


def read_prompts(path: PathLike) -> tuple[Prompt, ...]:
    """Reads a list of prompts.

    Raises:
      ConfigError: no such file, no list of key, prompt and method, or a key that occurs twice.
    """
    found = []
    for values in read_entries(path, {"key", "prompt"}, {"method"}):
        try:
            found.append(Prompt(values["key"], values["prompt"], values.get("method", "custom")))
        except ConfigError as error:
            raise ConfigError(error.what, where=path, fix=error.fix) from error
    return unique(found)


def read_entries(path: PathLike, needed: set[str], optional: set[str]) -> list[dict[str, str]]:
    """A YAML list of mappings with these keys, values as text.

    Raises:
      ConfigError: no such file, no list, or an entry that lacks a key or has one too many.
    """
    path = pathlib.Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot be read as YAML: {error}", where=path) from error
    what = ", ".join(sorted(needed)) + "".join(f", maybe {key}" for key in sorted(optional))
    if not isinstance(content, list) or not content:
        raise ConfigError("holds no list", where=path, fix=f"Write entries with {what}")
    for number, entry in enumerate(content):
        if not isinstance(entry, dict) or not needed <= set(entry) <= needed | optional:
            raise ConfigError(f"entry {number} is {entry!r}", where=path, fix=f"Give it {what}")
    return [
        {name: "" if value is None else str(value) for name, value in entry.items()}
        for entry in content
    ]


def check_key(key: str) -> None:
    """Raises ConfigError for a key that cannot be the name of a variant's folder."""
    if not _KEY.fullmatch(key) or key.startswith(NOISE):
        raise ConfigError(
            f"a prompt cannot have the key {key!r}",
            fix=f"Use letters, digits, - and _, and do not begin with {NOISE}",
        )


def unique[K: Keyed](prompts: Sequence[K]) -> tuple[K, ...]:
    """The prompts or questions; raises `ConfigError` when a key occurs twice."""
    keys = [prompt.key for prompt in prompts]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise ConfigError(f"two prompts have the key {twice[0]!r}")
    return tuple(prompts)


def repeat(values: Any, count: int) -> Any:
    """`values` (b, ...) `count` times one after the other, (count * b, ...); lists stay lists."""
    if isinstance(values, (list, tuple)):
        return list(values) * count
    return np.tile(np.asarray(values), (count, *(1,) * (np.ndim(values) - 1)))


def swap_prompts(observation: Mapping[str, Any], prompts: Sequence[Prompt]) -> dict[str, Any]:
    """The observation once per prompt, with nothing but the prompt changed.

    The state is the same array, so a policy that writes it into the prompt writes the same tokens.

    Args:
      observation: arrays of b samples, and `task`, a list of b texts.
      prompts: n of them.

    Returns:
      The same keys with n * b samples.

    Raises:
      ConfigError: no prompts, no `task`, or arrays of different numbers of samples.
    """
    if not prompts:
        raise ConfigError("no prompts were given")
    tasks = observation.get(TASK)
    if not isinstance(tasks, (list, tuple)) or not tasks:
        raise ConfigError("is no list of texts", where=f"observation {TASK!r}")
    for key, value in observation.items():
        if len(value) != len(tasks):
            raise ConfigError(
                f"has {len(value)} samples, {TASK!r} has {len(tasks)}", where=f"observation {key!r}"
            )
    swapped = {key: repeat(value, len(prompts)) for key, value in observation.items()}
    swapped[TASK] = [prompt.words(task) for prompt in prompts for task in tasks]
    return swapped
