"""Tests of attn_jax.analysis.heads."""

import numpy as np
import pytest

from attn_jax.analysis import heads
from attn_jax.core.errors import ConfigError
from tests import testing

LABELS = {"layers": (3, 5), "heads": (0, 1, 7)}


def test_order_by_entropy_then_lift():
    entropy = np.array([[[0.5, 0.2, 0.9], [0.2, 0.1, np.nan]]])
    lift = np.array([[[1.0, 2.0, 1.0], [3.0, 1.0, 9.0]]])
    ranking = heads.rank_heads(entropy, lift, **LABELS, seed=0)
    assert ranking.order == ((5, 1), (5, 0), (3, 1), (3, 0), (3, 7), (5, 7))
    np.testing.assert_array_equal(ranking.entropy[:3], [0.1, 0.2, 0.2])
    np.testing.assert_array_equal(ranking.lift[:3], [1.0, 3.0, 2.0])
    assert np.isnan(ranking.low).all()  # one unit


def test_intervals_show_how_sure_a_rank_is():
    rng = np.random.default_rng(0)
    mean = np.array([[0.1, 0.5, 0.502], [0.504, 0.9, 0.95]])
    entropy = mean + rng.normal(0, 0.02, (20, 2, 3))
    ranking = heads.rank_heads(entropy, **LABELS, seed=1, resamples=400)
    assert ranking.order[0] == (3, 0) and ranking.order[4:] == ((5, 1), (5, 7))
    assert ranking.low[0] == ranking.high[0] == ranking.rank[0] == 1
    assert np.all(ranking.high[1:4] > ranking.low[1:4])  # these three cannot be told apart
    assert np.all((ranking.rank[1:4] > 1) & (ranking.rank[1:4] < 5))
    assert ranking.units == 20
    again = heads.rank_heads(entropy, **LABELS, seed=1, resamples=400)
    np.testing.assert_array_equal(ranking.rank, again.rank)


def test_the_sharpest_head_comes_first():
    """The seed's variance of a picture ranks one hot patch below half of the patches."""
    from attn_jax.analysis import focus, presets

    one, half = np.zeros((16, 16)), np.zeros((16, 16))
    one[3, 3] = 1
    half[:8] = 1 / 128
    assert presets.seed2_focus(one) < presets.seed2_focus(half)
    entropy = focus.normalised_entropy(np.stack([one, half]).reshape(2, 256))[None, None]
    assert heads.rank_heads(entropy, layers=(0,), heads=(0, 1), seed=0).order[0] == (0, 0)


def test_labels_must_fit():
    with pytest.raises(ConfigError, match="2 layers x 3 heads"):
        heads.rank_heads(np.ones((4, 2, 2)), **LABELS, seed=0)


if __name__ == "__main__":
    testing.main()
