"""Small attention records for tests of analysis and viz."""

import numpy as np

from attn_jax.core.canvas import CanvasGeometry
from attn_jax.core.layout import TokenGroup, TokenLayout
from attn_jax.core.record import AttentionRecord

GEOMETRY = CanvasGeometry((64, 64))


def softmax(logits):
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def record(layout, *, stream="decoder", calls=2, layers=2, heads=3, seed=0, logits=None):
    """A record with tokens on both axes; random rows that sum to 1, or those of `logits`."""
    shape = (
        calls, 1, layers, heads, len(layout.axis_tokens("query")), len(layout.axis_tokens("key"))
    )  # fmt: skip
    if logits is None:
        logits = np.random.default_rng(seed).normal(size=shape)
    values = softmax(np.broadcast_to(logits, shape)).astype(np.float32)
    return AttentionRecord(
        stream, values, layout, layers=tuple(range(layers)), heads=tuple(range(heads))
    )


def padded_layout():
    """Two 2x2 cameras, the second a dummy, then two words and a padding token."""
    return TokenLayout(
        11,
        (
            TokenGroup("image/base", (0, 1, 2, 3), (2, 2), (0, 0, 28, 28)),
            TokenGroup("image/dummy", (4, 5, 6, 7), (2, 2), (0, 0, 28, 28), valid=False),
            TokenGroup("text", (8, 9), labels=("pick", "cube")),
            TokenGroup("pad", (10,), valid=False),
        ),
        aliases=(TokenGroup("text/word/cube", (9,)),),
    )
