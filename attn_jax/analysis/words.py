"""What single words look at: maps and measures of the tokens of each word of the prompt.

Words are the aliases `text/word/<word>` of a layout, which come from the tokenizer's own spans; the
map of a word is the mean over its sub-words and, by default, over heads.

Axis names: (call, denoise, layer, head, query, key), see `core.record`.

    for word in words(record.layout):
        maps = word_maps(record, word, key="image/wrist")         # (call, denoise, layer, gh, gw)
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from attn_jax.analysis import reduce
from attn_jax.core.layout import TokenLayout
from attn_jax.core.record import AttentionRecord
from attn_jax.core.typing import Float, NumpyArray

PREFIX = "text/word/"
#: Words of the template "Task: ..., State: ...; Action:", not of the instruction.
TEMPLATE = ("Task", "State", "Action")


def words(layout: TokenLayout) -> tuple[str, ...]:
    """Words of the instruction in order, repeats as `word#2`; empty without a tokenizer's pieces.

    The words of the template around it (`TEMPLATE`) and bare numbers are left out.
    """
    found = [alias for alias in layout.aliases if alias.name.startswith(PREFIX)]
    found.sort(key=lambda alias: min(alias.indices, default=-1))
    names = (alias.name.removeprefix(PREFIX) for alias in found)
    return tuple(name for name in names if name not in TEMPLATE and _parts(name))


def own_words(layout: TokenLayout, objects: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Words of the instruction that name one object and no other, of every object.

    A span is a run, as long as possible, of words that all occur in the name of an object, such as
    `red_cube`. Where it fits the name of exactly one object it names that one. Of its words those
    that another object has too are left out, as "red" beside a `red_ball`, unless that leaves none:
    among red and blue cubes and balls only "red cube" as a whole is unambiguous.
    """
    spoken = words(layout)
    plain = [word.partition("#")[0].lower() for word in spoken]
    parts = {name: _parts(name) for name in objects}
    out = {}
    for name in objects:
        others = [parts[other] for other in objects if other != name]
        own: list[str] = []
        inside = [word in parts[name] for word in plain]
        for named, places in itertools.groupby(range(len(plain)), inside.__getitem__):
            span = list(places)
            said = {plain[place] for place in span}
            if not named or any(said <= other for other in others):
                continue
            only = [place for place in span if not any(plain[place] in other for other in others)]
            own += [spoken[place] for place in only or span]
        out[name] = tuple(own)
    return out


def _parts(name: str) -> set[str]:
    """Words in the name of an object, lower case, without numbers."""
    return {part for part in re.split(r"[^a-z]+", name.lower()) if part}


def word_maps(
    record: AttentionRecord, word: str, *, key: str, heads: str = "mean"
) -> Float[NumpyArray, "call denoise layer ..."]:
    """Maps of one word onto a key group, mean over its sub-words; float64.

    Args:
      record: a record with tokens on both axes whose queries hold the word, such as `prefix`.
      word: as in `words`.
      key: key group.
      heads: how heads are joined, as in `reduce.join_heads`.

    Raises:
      LayoutError: the word is not in the prompt, or was not recorded as a query.
    """
    return reduce.reduce_record(record, query=PREFIX + word, key=key, heads=heads)
