r"""A small tokenizer for policies trained here: one token per word, number and punctuation mark.

Its vocabulary are the words of the tasks, those of Pi0.5's prompt, and the state's numbers -1 to
255. Case does not matter; spaces are dropped; a word that it does not know is `<unk>`. The files
are those of a fast tokenizer, so that `PromptTokenizer` and transformers both read them.

    files = word_tokenizer(["pick up the red cube"])         # name -> bytes, for a folder
    vocabulary_size(files)                                   # rows that the embedding needs
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from attn_jax.bridge.processor_steps import prompt

# Ids of Gemma's tokenizer, which other parts of LeRobot take for granted.
SPECIAL = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3}
NUMBERS = range(-1, 256)
PUNCTUATION = tuple(".,:;!?'\"()-/")
# A number with its sign, a word, or one mark of anything else but space.
_PATTERN = r"-?\d+|[^\W\d_]+|[^\w\s]"


def word_tokenizer(texts: Iterable[str]) -> dict[str, bytes]:
    """`tokenizer.json` and `tokenizer_config.json` for these task texts.

    The vocabulary depends on the set of their words only, not on their order.
    """
    words: set[str] = set()
    for text in texts:
        words.update(re.findall(_PATTERN, prompt(text, ()).lower()))
    symbols = [*map(str, NUMBERS), *PUNCTUATION]
    symbols += sorted(words - set(symbols))
    vocabulary = SPECIAL | {text: len(SPECIAL) + i for i, text in enumerate(symbols)}
    tokenizer: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(text, number) for text, number in SPECIAL.items()],
        "normalizer": {"type": "Lowercase"},
        # Inverted: what matches is kept, what lies between is removed.
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": _PATTERN},
            "behavior": "Removed",
            "invert": True,
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [_special("<bos>"), {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [
                _special("<bos>"),
                {"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 0}},
            ],
            "special_tokens": {
                "<bos>": {"id": "<bos>", "ids": [SPECIAL["<bos>"]], "tokens": ["<bos>"]}
            },
        },
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
    }
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "padding_side": "right",
        "model_max_length": 1_000_000,
    }
    return {"tokenizer.json": _json(tokenizer), "tokenizer_config.json": _json(config)}


def vocabulary_size(files: Mapping[str, bytes]) -> int:
    """Rows that the token embedding of a model with this tokenizer needs."""
    tokenizer = json.loads(files["tokenizer.json"])
    ids = [*tokenizer["model"]["vocab"].values()]
    ids += [token["id"] for token in tokenizer.get("added_tokens") or ()]
    return max(ids) + 1


def _added(text: str, number: int) -> dict[str, Any]:
    off = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": text, **off, "special": True}


def _special(text: str) -> dict[str, Any]:
    return {"SpecialToken": {"id": text, "type_id": 0}}


def _json(data: Any) -> bytes:
    return (json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode()
