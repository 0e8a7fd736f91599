"""Attention records of a made-up policy, for tests of the store: seeded maps and reductions."""

import numpy as np

from attn_jax.core.layout import TokenGroup, TokenLayout
from attn_jax.core.record import AttentionRecord
from attn_jax.probe.schema import episode_folder
from attn_jax.probe.store import RecordWriter

LAYOUT = TokenLayout(
    7,
    (
        TokenGroup("image", (0, 1, 2, 3), grid=(2, 2), box=(0, 0, 32, 32)),
        TokenGroup("pad", (4,), valid=False),
        TokenGroup("action", (5, 6), labels=("a0", "a1")),
    ),
)
GROUPS = ("image", "pad", "action")


def maps(seed, steps=2):
    p = np.random.default_rng(seed).random((1, steps, 2, 3, 7, 7)).astype(np.float32)
    p[..., 4] = 0
    return p / p.sum(-1, keepdims=True)


def call(seed, as_array=np.asarray):
    p = maps(seed)
    labels = {"layers": (1, 3), "heads": (0, 1, 2), "denoise": (0, 9)}
    mass = np.stack([p[..., :4].sum(-1), p[..., 4], p[..., 5:].sum(-1)], axis=-1)
    entropy = np.full_like(mass, np.nan)
    entropy[..., 0] = 1.5
    return {
        "suffix": AttentionRecord("suffix", as_array(p), LAYOUT, **labels),
        "suffix.group_mass": AttentionRecord(
            "suffix", mass, LAYOUT, **labels, reduction="group_mass", key_names=GROUPS
        ),
        "suffix.entropy": AttentionRecord(
            "suffix",
            entropy,
            LAYOUT,
            **labels,
            reduction="entropy",
            key_names=GROUPS,
            complete_rows=False,
        ),
    }


def write(run, calls=3, **options):
    with RecordWriter(run, **options) as writer:
        for number in range(calls):
            writer.append(call(number), env_step=10 * number)
    return episode_folder(run, 0)


def expected(calls):
    return np.concatenate([maps(number) for number in range(calls)])
