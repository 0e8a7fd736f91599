"""Questions to the language model inside a Pi0.5 checkpoint, and where it looks while answering.

A question is put as PaliGemma expects it: start token, text, newline.

    answerer = Answerer(description, params, head, tokenizer, selection)
    prepared = answerer.prepare(values, ["what colour is the cube?"])
    answer, records = answerer.answer(prepared, jax.random.key(0))
    answerer.texts(answer)
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from attn_jax.bridge import processor_steps as names
from attn_jax.bridge.processor_steps import Tokenise
from attn_jax.bridge.tokenizer import PromptTokenizer
from attn_jax.core.errors import ConfigError
from attn_jax.core.record import AttentionRecord
from attn_jax.core.typing import AnyArray, PathLike, PRNGKey
from attn_jax.models.pi05.compact import compact
from attn_jax.models.pi05.layout import layouts, text_layout
from attn_jax.models.pi05.text import Answer, generate
from attn_jax.policies.observations import Description, Prepared, prepare
from attn_jax.probe.capture import capture, discover, to_records
from attn_jax.probe.select import Selection, resolve


def tokenizer_of(description: Description, other: PathLike | None = None) -> PromptTokenizer:
    """The tokenizer of the checkpoint's pre-processor, or else `other`.

    Raises:
      ConfigError: there is none.
    """
    steps = () if description.processors is None else description.processors.pre
    found = next((step for step in steps if isinstance(step, Tokenise)), None)
    if found is not None:
        return found.load()
    if other is None:
        raise ConfigError("questions need a tokenizer", fix="Give --tokenizer, or `tokens`")
    return PromptTokenizer.load(other, description.config.prompt_length)


@dataclasses.dataclass(eq=False)
class Answerer:
    """A text head in use; programs are compiled once per shape and layout.

    Attributes:
      description: of the checkpoint.
      params: its parameters.
      head: (vocab, width) rows of the output layer, see `bridge.text_head`.
      tokenizer: None where prompts come as tokens.
      selection: attention to keep of the streams `prefix` and `text`; None keeps none.
      max_tokens: longest answer.
      temperature: 0 takes the likeliest token, more samples.
    """

    description: Description
    params: Mapping[str, Any]
    head: AnyArray
    tokenizer: PromptTokenizer | None = None
    selection: Selection | None = None
    max_tokens: int = 32
    temperature: float = 0.0

    def __post_init__(self):
        self._programs: dict[Any, Any] = {}

    def prepare(self, values: Mapping[str, Any], questions: Sequence[str] | None) -> Prepared:
        """Pictures and questions as the model's input.

        Args:
          values: an observation with LeRobot's keys, see `policies.observations`.
          questions: one per sample; None where `values` has tokens.

        Raises:
          InputError: arrays that do not fit the checkpoint or each other.
        """
        values = {key: value for key, value in values.items() if key != names.TASK}
        if questions is None:
            return prepare(self.description, values)
        assert self.tokenizer is not None
        made = self.tokenizer([f"{text.strip()}\n" for text in questions])
        values[names.TOKENS], values[names.TOKEN_MASK] = made.ids, made.mask
        return dataclasses.replace(prepare(self.description, values), pieces=made.pieces)

    def answer(
        self, prepared: Prepared, rng: PRNGKey, *, record: bool = True
    ) -> tuple[Answer, list[dict[str, AttentionRecord]] | None]:
        """The answers, and the records of every sample where something is captured.

        Layouts are those of the first sample, with a prompt as long as the longest; words are named
        where all samples have the same prompt.

        Args:
          prepared: of `prepare`.
          rng: for sampling.
          record: False keeps no attention this time.
        """
        config = self.description.config
        small, kept = compact(config, prepared.inputs)
        run = functools.partial(
            generate, config, max_tokens=self.max_tokens, temperature=self.temperature
        )
        arguments = self.params, self.head, small, rng
        if self.selection is None or not record:
            program = self._programs.setdefault(None, jax.jit(run))
            return program(*arguments)[0], None
        seen = np.where(prepared.inputs.token_mask, prepared.inputs.tokens, -1)
        same = bool((seen == seen[:1]).all())
        prefix = layouts(
            config,
            [prepared.cameras[i] for i in kept.cameras],
            np.asarray(small.image_mask[0]),
            np.asarray(small.tokens[0]),
            np.any(small.token_mask, axis=0),
            pieces=prepared.pieces[0][: kept.tokens] if same and prepared.pieces else None,
        )["prefix"]
        if not same:
            prefix = prefix.without_ids()
        if prefix not in self._programs:
            streams = {"prefix": prefix, "text": text_layout(prefix, self.max_tokens)}
            watched = functools.partial(run, watch=True)
            plan = resolve(self.selection, discover(watched, streams, *arguments))
            self._programs[prefix] = jax.jit(capture(watched, plan)), plan
        program, plan = self._programs[prefix]
        answer, maps = program(*arguments)
        return answer, to_records(maps, plan)

    def texts(self, answer: Answer) -> list[str]:
        """The answers as texts; empty without a tokenizer."""
        if self.tokenizer is None:
            return []
        return [
            self.tokenizer.backend.decode(ids[mask].tolist())
            for ids, mask in zip(np.asarray(answer.tokens), np.asarray(answer.mask), strict=True)
        ]
