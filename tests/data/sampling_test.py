import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_jax.core.errors import ConfigError
from attn_jax.data.sampling import SAMPLINGS, loss_weights, make_sampler
from tests import testing


def make(sampling, size=10, batch_size=4, seed=0, **options):
    return make_sampler(sampling, size=size, batch_size=batch_size, seed=seed, **options)


@given(st.integers(1, 12), st.integers(1, 9), st.integers(0, 99))
def test_an_epoch_visits_every_sample_once(size, batch_size, seed):
    sampler = make("epoch", size, batch_size, seed)
    drawn = np.concatenate([sampler.draw(batch) for batch in range(3 * size)])
    for epoch in drawn[: 3 * size].reshape(3, size):
        assert sorted(epoch) == list(range(size))


def test_epochs_have_different_orders():
    sampler = make("epoch", size=50, batch_size=50)
    assert sampler.draw(0).tolist() != sampler.draw(1).tolist()
    assert (
        sampler.draw(0).tolist() != make("epoch", size=50, batch_size=50, seed=1).draw(0).tolist()
    )


def test_random_draws_with_replacement_from_all():
    sampler = make("random", size=5, batch_size=200)
    counts = np.bincount(sampler.draw(0), minlength=5)
    assert (counts > 20).all()
    assert sampler.draw(0).tolist() != sampler.draw(1).tolist()


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_batch_does_not_depend_on_the_ones_drawn_before(sampling):
    sampler = make(sampling)
    sampler.begin(0)
    forwards = [sampler.draw(batch).tolist() for batch in range(6)]
    backwards = [sampler.draw(batch).tolist() for batch in reversed(range(6))]
    assert forwards == backwards[::-1]


def test_loss_weights_by_hand():
    losses = np.array([1.0, 3.0, np.nan, 2.0])
    # Scaled: 0, 1, mean of the known (2) -> 0.5, 0.5.
    expected = np.exp(np.array([0.0, 1.0, 0.5, 0.5]) / 0.5)
    np.testing.assert_allclose(loss_weights(losses, 0.5), expected / expected.sum(), rtol=1e-12)


@pytest.mark.parametrize("losses", [[np.nan] * 3, [2.0] * 3, [np.nan, 2.0, np.nan]])
def test_weights_are_uniform_when_nothing_tells_apart(losses):
    np.testing.assert_allclose(loss_weights(np.array(losses), 0.5), 1 / 3)


@given(
    st.lists(st.one_of(st.none(), st.floats(0, 1e30)), min_size=1, max_size=9),
    st.floats(0.01, 100),
)
def test_weights_are_probabilities_and_monotonic(losses, temperature):
    values = np.array([np.nan if loss is None else loss for loss in losses])
    weights = loss_weights(values, temperature)
    assert abs(weights.sum() - 1) < 1e-9 and (weights >= 0).all()
    order = np.argsort(np.where(np.isnan(values), -1, values))
    known = [index for index in order if not np.isnan(values[index])]
    assert (np.diff(weights[known]) >= -1e-12).all()


def test_losses_count_from_the_next_refresh_only():
    sampler = make("loss_weighted", refresh_every=5, temperature=0.1)
    sampler.begin(0)
    sampler.feedback(np.array([3, 4]), np.array([9.0, 1.0]))
    for batch in range(1, 5):
        sampler.begin(batch)
        np.testing.assert_allclose(sampler.probabilities, 0.1)
    assert sampler.known_until(4) == 5
    sampler.begin(5)
    assert sampler.probabilities.argmax() == 3 and sampler.known_until(5) == 10


def test_non_finite_losses_are_ignored():
    sampler = make("loss_weighted", refresh_every=1)
    sampler.feedback(np.array([1, 2]), np.array([5.0, 1.0]))
    sampler.feedback(np.array([1, 2]), np.array([np.nan, np.inf]))
    assert sampler.get_state()["latest"][:4] == [None, 5.0, 1.0, None]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_state_round_trip_through_json(sampling):
    first, second = make(sampling, refresh_every=2), make(sampling, refresh_every=2)
    first.feedback(np.array([0, 1]), np.array([0.1, 1 / 3]))
    first.begin(2)
    first.feedback(np.array([2]), np.array([7.0]))
    second.set_state(json.loads(json.dumps(first.get_state())))
    assert first.draw(3).tolist() == second.draw(3).tolist()
    first.begin(4)
    second.begin(4)
    assert first.draw(5).tolist() == second.draw(5).tolist()


@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"batch_size": 5}, {"sampling": "random"}, {"temperature": 0.1}]
)
def test_state_of_another_run(other):
    state = make("loss_weighted").get_state()
    sampler = make(**({"sampling": "loss_weighted"} | other))
    with pytest.raises(ConfigError, match="another run"):
        sampler.set_state(state)


@pytest.mark.parametrize(
    "options",
    [
        {"sampling": "all"},
        {"batch_size": 0},
        {"size": 0},
        {"temperature": 0.0},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"refresh_every": 0},
        {"seed": -1},
    ],
)
def test_bad_options(options):
    with pytest.raises(ConfigError):
        make(**({"sampling": "epoch"} | options))


if __name__ == "__main__":
    testing.main()
