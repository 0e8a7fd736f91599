r"""The prompt's tokens: a Hugging Face `tokenizer.json` on disk, read without transformers.

A tokenizer folder is what `save_pretrained` of a fast tokenizer wrote; a lone `tokenizer.json`
works too. The start token, the padding token and the cut of long prompts follow the rules of
transformers 5, so that ids equal those of LeRobot.

    tokenizer = PromptTokenizer.load("paligemma-tokenizer", max_length=200)
    tokens = tokenizer(["Task: pick up the cube, State: 12 200;\nAction: "])
    tokens.ids, tokens.mask, tokens.spans          # (b, k), (b, k), (b, k, 2)
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from attn_jax.core.errors import ConfigError
from attn_jax.core.typing import Bool, Int, NumpyArray, PathLike

_GEMMA = {"bos_token": "<bos>", "pad_token": "<pad>"}


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Tokenised prompts.

    Attributes:
      ids: (b, k) int32, the padding id where `mask` is False.
      mask: (b, k) bool, False on padding.
      spans: (b, k, 2) int32 first and past-the-last character of every token in its prompt; (0, 0)
        for start tokens and padding.
      prompts: the text of every item.
      pieces: the text of every token, with what the tokenizer drops in front of it (spaces), so
        that the pieces of a prompt joined are the prompt; special tokens have their name, padding
        none.
    """

    ids: Int[NumpyArray, "b k"]
    mask: Bool[NumpyArray, "b k"]
    spans: Int[NumpyArray, "b k 2"]
    prompts: tuple[str, ...]
    pieces: tuple[tuple[str, ...], ...]


@dataclasses.dataclass(frozen=True, eq=False)
class PromptTokenizer:
    """Turns prompts into ids of a fixed or common length.

    Attributes:
      backend: a `tokenizers.Tokenizer` without truncation and padding of its own.
      pad_id: id of padding.
      max_length: longest prompt, tokens.
      padding: `max_length`, `longest` or `do_not_pad`.
      padding_side: `right` or `left`.
      truncation: whether longer prompts are cut; otherwise they are an error.
      truncation_side: `right` or `left`.
    """

    backend: Any
    pad_id: int
    max_length: int
    padding: str = "max_length"
    padding_side: str = "right"
    truncation: bool = True
    truncation_side: str = "right"

    @classmethod
    def load(
        cls,
        source: PathLike,
        max_length: int,
        *,
        padding: str | bool = "max_length",
        padding_side: str = "right",
        truncation: bool = True,
    ) -> PromptTokenizer:
        """Reads a tokenizer.

        Args:
          source: a tokenizer folder, a `tokenizer.json`, or, where no such path exists, the name of
            a tokenizer on the Hugging Face Hub, which is fetched with the user's credentials.
          max_length: longest prompt, tokens.
          padding: `max_length` (also True), `longest` or `do_not_pad` (also False).
          padding_side: `right` or `left`.
          truncation: whether longer prompts are cut.

        Raises:
          ConfigError: no such tokenizer, a damaged one, one without a padding token, or an option
            with another value.
        """
        if importlib.util.find_spec("tokenizers") is None:
            raise ConfigError("prompts need the package tokenizers", fix="Run `make setup-all`")
        kinds = {True: "max_length", False: "do_not_pad"}
        padding = kinds.get(padding, padding) if isinstance(padding, bool) else padding
        if padding not in ("max_length", "longest", "do_not_pad"):
            raise ConfigError(f"tokenizer padding cannot be {padding!r}")
        if padding_side not in ("right", "left"):
            raise ConfigError(f"tokenizer padding_side cannot be {padding_side!r}")
        backend, config = _read(source)
        _add_start_token(backend, config)
        backend.no_truncation()
        backend.no_padding()
        return cls(
            backend=backend,
            pad_id=_pad_id(backend, config, source),
            max_length=max_length,
            padding=padding,
            padding_side=padding_side,
            truncation=truncation,
            truncation_side=str(config.get("truncation_side") or "right"),
        )

    def __call__(self, prompts: Sequence[str]) -> Tokens:
        """Tokenises; a cut prompt is reported by a warning that quotes the lost text.

        Raises:
          ConfigError: a prompt is longer than `max_length` and may not be cut, or prompts of
            different lengths without padding.
        """
        rows = [self._encode(prompt) for prompt in prompts]
        lengths = [len(ids) for ids, _ in rows]
        width = self.max_length if self.padding == "max_length" else max(lengths, default=0)
        if self.padding == "do_not_pad" and len(set(lengths)) > 1:
            raise ConfigError(f"prompts have {lengths} tokens and are not padded")
        ids = np.full((len(rows), width), self.pad_id, np.int32)
        mask = np.zeros((len(rows), width), np.bool_)
        spans = np.zeros((len(rows), width, 2), np.int32)
        pieces = []
        for item, (row, offsets) in enumerate(rows):
            start = 0 if self.padding_side == "right" else width - len(row)
            ids[item, start : start + len(row)] = row
            mask[item, start : start + len(row)] = True
            spans[item, start : start + len(row)] = np.reshape(offsets, (-1, 2))
            text = self._pieces(row, offsets, prompts[item])
            pieces.append(("",) * start + text + ("",) * (width - start - len(row)))
        return Tokens(ids, mask, spans, tuple(prompts), tuple(pieces))

    def pieces_of(
        self, ids: Int[NumpyArray, "b k"], mask: Bool[NumpyArray, "b k"]
    ) -> tuple[tuple[str, ...], ...]:
        """The text of every token of prompts that are tokenised already, as `Tokens.pieces`.

        Spaces and capitals are those of the tokenizer's own way back to text; where it drops
        spaces, one stands between any two tokens. A token without an entry is `<id>`, padding is
        empty.
        """
        return tuple(
            self._named(row, kept)
            for row, kept in zip(np.asarray(ids).tolist(), np.asarray(mask).tolist(), strict=True)
        )

    def _named(self, row: Sequence[int], kept: Sequence[bool]) -> tuple[str, ...]:
        out: list[str] = []
        seen, text = [], ""
        for number, real in zip(row, kept, strict=True):
            if not real:
                out.append("")
                continue
            if self.backend.id_to_token(number) is None:
                out.append(f"<{number}>")
                continue
            # What a token adds to the text: alone, decoders drop the space in front of it.
            seen.append(number)
            longer = self.backend.decode(seen, skip_special_tokens=False)
            out.append(longer[len(text) :])
            text = longer
        return tuple(out)

    def _pieces(
        self, ids: Sequence[int], offsets: Sequence[tuple[int, int]], prompt: str
    ) -> tuple[str, ...]:
        out, done = [], 0
        for number, (start, stop) in zip(ids, offsets, strict=True):
            out.append(prompt[done:stop] if start != stop else self.backend.id_to_token(number))
            done = max(done, stop)
        return tuple(out)

    def _encode(self, prompt: str) -> tuple[list[int], list[tuple[int, int]]]:
        whole = self.backend.encode(prompt)
        if len(whole.ids) <= self.max_length:
            return whole.ids, whole.offsets
        if not self.truncation:
            raise ConfigError(
                f"the prompt has {len(whole.ids)} tokens, {self.max_length} are allowed",
                where=repr(prompt),
            )
        self.backend.enable_truncation(self.max_length, direction=self.truncation_side)
        try:
            cut = self.backend.encode(prompt)
        finally:
            self.backend.no_truncation()
        kept = [offsets for offsets in cut.offsets if offsets[0] != offsets[1]]
        first, last = kept[0][0] if kept else 0, kept[-1][1] if kept else 0
        lost = prompt[last:] if self.truncation_side == "right" else prompt[:first]
        logging.warning(
            "the prompt has %d tokens and was cut to %d; lost: %r",
            len(whole.ids),
            self.max_length,
            lost.strip(),
        )
        return cut.ids, cut.offsets


def _read(source: PathLike) -> tuple[Any, Mapping[str, Any]]:
    """The tokenizer and its `tokenizer_config.json`, which may be missing."""
    import tokenizers  # pyright: ignore[reportMissingImports]

    path = pathlib.Path(source)
    file = path / "tokenizer.json" if path.is_dir() else path
    # A damaged file makes tokenizers raise a bare Exception, so nothing narrower can be caught.
    try:
        if file.is_file():
            backend = tokenizers.Tokenizer.from_str(file.read_text(encoding="utf-8"))
        elif path.is_dir():
            raise ConfigError("has no tokenizer.json", where=path)
        else:
            backend = tokenizers.Tokenizer.from_pretrained(str(source))
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"cannot be loaded as a tokenizer: {str(error).strip().splitlines()[0]}",
            where=str(source),
            fix="Name a folder that holds its tokenizer.json with --tokenizer",
        ) from error
    config_file = file.parent / "tokenizer_config.json"
    if not (file.is_file() and config_file.is_file()):
        return backend, {}
    try:
        return backend, json.loads(config_file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"is no JSON: {error}", where=config_file) from error


def _special(backend: Any, config: Mapping[str, Any], name: str) -> tuple[str, int] | None:
    """Text and id of a special token; without a configuration, Gemma's."""
    value = config.get(name) if config else _GEMMA[name]
    text = value.get("content") if isinstance(value, Mapping) else value
    number = None if text is None else backend.token_to_id(text)
    return None if text is None or number is None else (text, number)


def _add_start_token(backend: Any, config: Mapping[str, Any]) -> None:
    """Puts Gemma's start token before every prompt where nothing says what to do.

    Otherwise the rule in `tokenizer.json` counts; transformers 5 does not heed `add_bos_token` and
    `add_eos_token` of a configuration beside it.
    """
    import tokenizers.processors  # pyright: ignore[reportMissingImports]

    bos = _special(backend, config, "bos_token")
    if backend.post_processor is None and not config and bos is not None:
        backend.post_processor = tokenizers.processors.TemplateProcessing(
            single=f"{bos[0]}:0 $A:0", special_tokens=[bos]
        )


def _pad_id(backend: Any, config: Mapping[str, Any], source: PathLike) -> int:
    if (special := _special(backend, config, "pad_token")) is not None:
        return special[1]
    if not config:
        return 0
    raise ConfigError(
        "has no padding token", where=str(source), fix="Set pad_token in tokenizer_config.json"
    )
