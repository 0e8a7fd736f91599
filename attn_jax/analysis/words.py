"""What single words look at: maps and measures of the tokens of each word of the prompt.

Words are the aliases `text/word/<word>` of a layout, which come from the tokenizer's own spans; the
map of a word is the mean over its sub-words and, by default, over heads.

Axis names: (call, denoise, layer, head, query, key), see `core.record`.

    for word in words(record.layout):
        maps = word_maps(record, word, key="image/wrist")         # (call, denoise, layer, gh, gw)
"""

from __future__ import annotations

import re

from attn_jax.analysis import reduce
from attn_jax.core.layout import TokenLayout
from attn_jax.core.record import AttentionRecord
from attn_jax.core.typing import Float, NumpyArray

PREFIX = "text/word/"


def words(layout: TokenLayout) -> tuple[str, ...]:
    """Words of the prompt in order, repeats as `word#2`; empty without a tokenizer's pieces."""
    found = [alias for alias in layout.aliases if alias.name.startswith(PREFIX)]
    found.sort(key=lambda alias: min(alias.indices, default=-1))
    return tuple(alias.name.removeprefix(PREFIX) for alias in found)


def words_of(layout: TokenLayout, name: str) -> tuple[str, ...]:
    """Words of the prompt that occur in the name of an object, such as `red_cube`."""
    parts = {part for part in re.split(r"[^a-z]+", name.lower()) if part}
    return tuple(word for word in words(layout) if word.partition("#")[0].lower() in parts)


def word_maps(
    record: AttentionRecord, word: str, *, key: str, heads: str = "mean"
) -> Float[NumpyArray, "call denoise layer ..."]:
    """Maps of one word onto a key group, mean over its sub-words; float64.

    Args:
      record: a record with tokens on both axes whose queries hold the word, such as `prefix`.
      word: as in `words`.
      key: key group.
      heads: how heads are joined, one of `reduce.REDUCTIONS`.

    Raises:
      LayoutError: the word is not in the prompt, or was not recorded as a query.
    """
    return reduce.reduce_record(record, query=PREFIX + word, key=key, heads=heads)
