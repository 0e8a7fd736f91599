"""Schedules by hand, decay mask, plateau, average, bad values."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_jax.core.errors import ConfigError
from attn_jax.train.optim import (
    OptimConfig,
    decay_mask,
    init_ema,
    make_optimizer,
    make_schedule,
    plateau_scale,
    update_ema,
)
from tests import testing


def test_warmup_cosine_by_hand():
    config = OptimConfig(
        learning_rate=2.0, schedule="cosine", warmup_steps=4, decay_steps=12, min_ratio=0.1
    )
    rate = make_schedule(config)
    # Half way down: the mean of 2.0 and its floor 0.2.
    expected = {0: 0.0, 2: 1.0, 4: 2.0, 8: 1.1, 12: 0.2, 50: 0.2}
    for count, value in expected.items():
        assert float(rate(count)) == pytest.approx(value, abs=1e-6)


def test_lerobots_cosine_by_hand():
    config = OptimConfig(
        learning_rate=2.0, schedule="lerobot", warmup_steps=4, decay_steps=12, min_ratio=0.1
    )
    rate = make_schedule(config)
    # From a fifth of the peak; the cosine has begun with the first update: at 4 it has lost a
    # quarter of 1.8, at 6 the half.
    expected = {0: 0.4, 2: 1.2, 4: 1.55, 6: 1.1, 12: 0.2, 50: 0.2}
    for count, value in expected.items():
        assert float(rate(count)) == pytest.approx(value, abs=1e-6)
    whole = make_schedule(OptimConfig(learning_rate=2.0, schedule="lerobot", decay_steps=12))
    assert float(whole(0)) == 2.0


def test_constant_with_and_without_warmup():
    assert float(make_schedule(OptimConfig(learning_rate=0.5))(7)) == 0.5
    rate = make_schedule(OptimConfig(learning_rate=0.5, warmup_steps=5))
    assert [float(rate(n)) for n in (0, 1, 5, 9)] == pytest.approx([0.0, 0.1, 0.5, 0.5])


@given(start=st.integers(0, 60), warmup=st.integers(1, 20))
def test_resume_lands_on_the_global_cosine(start, warmup):
    config = OptimConfig(
        learning_rate=1.0,
        schedule="resume",
        warmup_steps=warmup,
        decay_steps=100,
        start_update=start,
        start_learning_rate=0.3,
        min_ratio=0.01,
    )
    rate = make_schedule(config)
    whole = make_schedule(
        OptimConfig(learning_rate=1.0, schedule="cosine", decay_steps=100, min_ratio=0.01)
    )
    assert float(rate(0)) == pytest.approx(0.3, abs=1e-6)
    for count in (warmup, warmup + 3):
        assert float(rate(count)) == pytest.approx(float(whole(start + count)), abs=1e-6)
    # In between it is a straight line.
    middle = 0.3 + (float(rate(warmup)) - 0.3) / warmup
    assert float(rate(1)) == pytest.approx(middle, abs=1e-5)


def test_decay_spares_biases_and_norms():
    params = {
        "cls": 0,
        "block": {"norm1": {"scale": 0}, "mlp": {"kernel": 0, "bias": 0}, "ln_2": {"scale": 0}},
        "bn": {"mean": 0},
        "mask_token": 0,
    }
    mask = decay_mask(params)
    assert mask == {
        "cls": True,
        "block": {
            "norm1": {"scale": False},
            "mlp": {"kernel": True, "bias": False},
            "ln_2": {"scale": False},
        },
        "bn": {"mean": False},
        "mask_token": True,
    }


def test_decay_is_applied_where_the_mask_says():
    params = {"kernel": jnp.ones(2), "bias": jnp.ones(2)}
    tx = make_optimizer(OptimConfig(learning_rate=0.1, weight_decay=0.5))
    grads = jax.tree.map(jnp.zeros_like, params)
    updates, _ = tx.update(grads, tx.init(params), params, value=1.0)
    np.testing.assert_allclose(updates["kernel"], -0.1 * 0.5 * np.ones(2), rtol=1e-6)
    np.testing.assert_array_equal(updates["bias"], np.zeros(2))


def test_clipping_bounds_the_first_moment():
    params = {"kernel": jnp.zeros(4)}
    grads = {"kernel": jnp.full(4, 100.0)}  # norm 200
    for clip, moment in ((1.0, 0.1 * 0.5), (None, 0.1 * 100)):
        tx = make_optimizer(OptimConfig(clip_norm=clip))
        _, state = tx.update(grads, tx.init(params), params, value=1.0)
        mu = optax.tree_utils.tree_get(state, "mu")["kernel"]
        np.testing.assert_allclose(mu, moment, rtol=1e-5)


def test_plateau_shrinks_the_rate_and_says_so():
    config = OptimConfig(
        learning_rate=0.1,
        schedule="plateau",
        plateau_factor=0.5,
        plateau_patience=2,
        plateau_average=1,
        weight_decay=0.0,
    )
    params = {"kernel": jnp.ones(1)}
    tx = make_optimizer(config)
    state = tx.init(params)
    assert float(plateau_scale(state)) == 1.0
    scales = []
    for value in (1.0, 0.5, 0.5, 0.5, 0.5, 0.4):
        _, state = tx.update({"kernel": jnp.ones(1)}, state, params, value=value)
        scales.append(float(plateau_scale(state)))
    assert scales[:2] == [1.0, 1.0] and scales[-1] == 0.5
    assert float(plateau_scale(make_optimizer(OptimConfig()).init(params))) == 1.0


def test_average_starts_short_and_becomes_long():
    config = OptimConfig(ema=0.99)
    ema = init_ema({"w": jnp.zeros(1)}, config)
    ema = update_ema(ema, {"w": jnp.ones(1)}, config, 0)
    assert float(ema["w"][0]) == pytest.approx(0.9)  # decay 1/10
    late = update_ema({"w": jnp.zeros(1)}, {"w": jnp.ones(1)}, config, 10**6)
    assert float(late["w"][0]) == pytest.approx(0.01, rel=1e-4)
    assert init_ema({"w": jnp.zeros(1)}, OptimConfig()) is None
    assert update_ema(None, {}, OptimConfig(), 0) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"schedule": "exponential"},
        {"precision": "float16"},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"clip_norm": 0.0},
        {"micro_batches": 0},
        {"ema": 1.0},
        {"b1": 1.0},
        {"b2": 1.0},
        {"eps": 0.0},
        {"eps": float("inf")},
        {"clip_norm": float("inf")},
        {"weight_decay": -0.1},
        {"weight_decay": float("nan")},
        {"schedule": "plateau", "plateau_factor": 2.0},
        {"schedule": "plateau", "plateau_patience": 0},
        {"schedule": "plateau", "plateau_average": 0},
        {"schedule": "cosine"},
        {"schedule": "lerobot"},
        {"schedule": "cosine", "warmup_steps": 10, "decay_steps": 10},
        {"schedule": "resume", "start_update": 20, "decay_steps": 10},
    ],
)
def test_bad_values_name_the_field(fields):
    with pytest.raises(ConfigError, match=r"optim\.\w+ is .*It must be"):
        OptimConfig(**fields)


if __name__ == "__main__":
    testing.main()
