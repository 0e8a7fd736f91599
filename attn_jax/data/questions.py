"""Questions about the pictures of recorded episodes, read from YAML.

- key: which
  question: what should the robot pick up?
  expected: "{target}"          # the right answer, where there is one
  object: "{target}"            # the thing that is asked about, where there is one

`{target}` stands for the name of the thing that has the role `target` in an episode.

    questions = read_questions("questions.yaml")
    questions[0].about({"red cube": "target"})
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from attn_jax.core.errors import ConfigError, EpisodeError
from attn_jax.core.typing import PathLike
from attn_jax.data.prompts import check_key, read_entries, unique

_TARGET = "{target}"


@dataclasses.dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
      key: short name; a folder is called so.
      text: the words.
      expected: the right answer; None where none is known.
      object: name of the thing that is asked about; None where it is about no thing.

    Raises:
      ConfigError: a key that is no name of a folder, or no words.
    """

    key: str
    text: str
    expected: str | None = None
    object: str | None = None

    def __post_init__(self):
        check_key(self.key)
        if not self.text.strip():
            raise ConfigError(f"question {self.key!r} has no words")

    def about(self, roles: Mapping[str, str]) -> Question:
        """The question for an episode.

        Args:
          roles: name of a thing -> its role.

        Raises:
          EpisodeError: `{target}` occurs, and nothing has that role.
        """
        fields = {name: getattr(self, name) for name in ("text", "expected", "object")}
        if not any(_TARGET in value for value in fields.values() if value is not None):
            return self
        target = next((name for name, role in roles.items() if role == "target"), None)
        if target is None:
            raise EpisodeError(
                f"question {self.key!r} is about a target, and the episode has none",
                fix="Write the name of the thing instead of {target}",
            )
        said = {
            name: None if value is None else value.replace(_TARGET, target)
            for name, value in fields.items()
        }
        return dataclasses.replace(self, **said)


def read_questions(path: PathLike) -> tuple[Question, ...]:
    """Reads a list of questions.

    Raises:
      ConfigError: no such file, no list of key, question, expected and object, or a key that
        occurs twice.
    """
    found = []
    for values in read_entries(path, {"key", "question"}, {"expected", "object"}):
        try:
            found.append(
                Question(
                    values["key"], values["question"], values.get("expected"), values.get("object")
                )
            )
        except ConfigError as error:
            raise ConfigError(error.what, where=path, fix=error.fix) from error
    return unique(found)
