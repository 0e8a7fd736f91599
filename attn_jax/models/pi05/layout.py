"""Names of Pi0.5's tokens, from the real cameras, ids and masks of one sample.

Groups of the prefix, in order: `image/<camera>` (a patch grid; invalid for a dummy), `bos`, `text`,
`state` and `pad` (invalid); of the suffix: those as keys, then `action`. With the pieces of the
tokenizer, `state` holds the numbers after "State:" in the prompt, and aliases name words
(`text/word/cube`, the second one `text/word/cube#2`) and numbers (`state/0`, `state/1`, ...);
without them, the whole prompt is `text`. The alias `prompt` is all that is not padding. `bos`,
`text` and `state` have the ids of their tokens.

    made = layouts(config, cameras, image_mask, tokens, token_mask, pieces=pieces)
    made["suffix"].select(probs, query="action", key="image/wrist")        # (..., action, gh, gw)
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence

import numpy as np

from attn_jax.core.errors import LayoutError
from attn_jax.core.layout import TokenGroup, TokenLayout
from attn_jax.core.typing import NumpyArray
from attn_jax.models.pi05.config import Pi05Config

BOS_ID = 2
# Tokenizers of the SentencePiece kind write a space so.
_SPACE = "\u2581"
_NUMBER = r"-?\s?\d+"
# Vocabularies without capitals write `state`.
_STATE = re.compile(rf"\b[Ss]tate\s*:\s*({_NUMBER}(?:\s+{_NUMBER})*)")
_WORD = re.compile(r"[^\W\d_][\w'-]*")


def layouts(
    config: Pi05Config,
    cameras: Sequence[str],
    image_mask: NumpyArray,
    tokens: NumpyArray,
    token_mask: NumpyArray,
    *,
    pieces: Sequence[str] | None = None,
    horizon: int | None = None,
) -> dict[str, TokenLayout]:
    """Layouts of the streams `prefix` and `suffix`.

    Args:
      config: the model.
      cameras: names in token order.
      image_mask: (c,) bool, False for dummies.
      tokens: (k,) ids of one sample.
      token_mask: (k,) bool, False on padding.
      pieces: what the tokenizer calls each token, (k,); None when there is no tokenizer.
      horizon: action tokens; None is `config.chunk_size`.

    Raises:
      LayoutError: lengths that do not fit each other.
    """
    tokens, token_mask = np.asarray(tokens), np.asarray(token_mask, bool)
    if len(cameras) != len(image_mask) or tokens.shape != token_mask.shape or tokens.ndim != 1:
        raise LayoutError(
            f"{len(cameras)} cameras with a mask of {np.shape(image_mask)}, tokens of"
            f" {tokens.shape} with a mask of {token_mask.shape}"
        )
    if pieces is not None and len(pieces) != len(tokens):
        raise LayoutError(f"{len(pieces)} pieces for {len(tokens)} tokens")
    sizes = config.architecture
    patches, side = sizes.image_tokens, sizes.grid[0] * sizes.patch_size
    groups = [
        TokenGroup(
            f"image/{name}",
            tuple(range(i * patches, (i + 1) * patches)),
            sizes.grid,
            (0, 0, side, side),
            bool(image_mask[i]),
        )
        for i, name in enumerate(cameras)
    ]
    start = len(cameras) * patches
    prompt, aliases = _prompt(tokens, token_mask, pieces, start)
    groups += prompt
    length = start + len(tokens)
    horizon = config.chunk_size if horizon is None else horizon
    actions = tuple(range(length, length + horizon))
    action = TokenGroup("action", actions, labels=tuple(str(i) for i in range(horizon)))
    return {
        "prefix": TokenLayout(length, tuple(groups), aliases),
        "suffix": TokenLayout(length + horizon, (*groups, action), aliases, queries=actions),
    }


def text_layout(prefix: TokenLayout, count: int) -> TokenLayout:
    """Layout of the stream `text`: `count` tokens that were generated after a prefix look at it.

    The prefix's groups as keys, then `generated`, the only queries.
    """
    made = tuple(range(prefix.length, prefix.length + count))
    group = TokenGroup("generated", made, labels=tuple(str(i) for i in range(count)))
    groups = (*prefix.groups, group)
    return TokenLayout(prefix.length + count, groups, prefix.aliases, queries=made)


def _prompt(
    tokens: NumpyArray, mask: NumpyArray, pieces: Sequence[str] | None, start: int
) -> tuple[list[TokenGroup], tuple[TokenGroup, ...]]:
    """Groups and aliases of the prompt; `start` is the place of its first token."""
    real = [int(i) for i in np.flatnonzero(mask)]
    kind = np.where(mask, "text", "pad").astype(object)
    if real and tokens[real[0]] == BOS_ID:
        kind[real[0]] = "bos"
    spans: list[tuple[str, list[int]]] = []
    if pieces is not None:
        spans = list(_spans(real, pieces))
        for name, members in spans:
            if name == "state":
                kind[members] = "state"
        spans = [(name, members) for name, members in spans if name != "state"]
    if real:
        spans.append(("prompt", real))

    def group(name: str, members: Sequence[int]) -> TokenGroup:
        labels = () if pieces is None else tuple(pieces[i] for i in members)
        indices = tuple(start + i for i in members)
        return TokenGroup(name, indices, valid=name != "pad", labels=labels)

    def identified(name: str, members: Sequence[int]) -> TokenGroup:
        ids = () if name == "pad" else tuple(int(tokens[i]) for i in members)
        return dataclasses.replace(group(name, members), ids=ids)

    names = ("bos", "text", "state", "pad")
    members = {name: [int(i) for i in np.flatnonzero(kind == name)] for name in names}
    groups = [identified(name, members[name]) for name in names if members[name]]
    return groups, tuple(group(name, found) for name, found in spans)


def _spans(real: Sequence[int], pieces: Sequence[str]) -> Iterator[tuple[str, list[int]]]:
    """Named runs of real tokens: the state, its numbers, and words outside it."""
    texts = [pieces[i].replace(_SPACE, " ").replace("<0x0A>", "\n") for i in real]
    # A tokenizer of whole words keeps no spaces.
    glue = "" if any(" " in text for text in texts) else " "
    ends = np.cumsum([len(text) + len(glue) for text in texts])
    starts = np.concatenate([[0], ends[:-1]]).astype(int)
    whole = glue.join(texts)

    def covering(begin: int, end: int) -> list[int]:
        return [
            token
            for token, first, text in zip(real, starts, texts, strict=True)
            if first < end and first + len(text) > begin
        ]

    # The last one: a task may speak of states too, and stands before the state of the robot.
    state = next(reversed([*_STATE.finditer(whole)]), None)
    if state is not None:
        yield "state", covering(*state.span(1))
        for count, number in enumerate(re.finditer(_NUMBER, state[1])):
            offset = state.start(1)
            yield f"state/{count}", covering(offset + number.start(), offset + number.end())
    seen: dict[str, int] = {}
    for word in _WORD.finditer(re.sub(r"<\w+>", lambda tag: " " * len(tag[0]), whole)):
        seen[word[0]] = seen.get(word[0], 0) + 1
        suffix = "" if seen[word[0]] == 1 else f"#{seen[word[0]]}"
        yield f"text/word/{word[0]}{suffix}", covering(*word.span())
