"""The iterator; `pipeline_test` and `launch/pi05_training_test` have it with real data."""

from __future__ import annotations

import numpy as np
import pytest

from attn_jax.core.errors import ConfigError
from attn_jax.data.batches import BatchIterator
from attn_jax.data.sampling import make_sampler
from tests import testing


def make(size: int = 10, prefetch: int = 2, **options) -> BatchIterator:
    sampler = make_sampler("epoch", size=size, batch_size=4, seed=1)

    def assemble(positions, indices):
        return {"index": indices, "position": positions}

    return BatchIterator(assemble, sampler, size, prefetch=prefetch, **options)


@pytest.mark.parametrize("prefetch", [0, 3])
def test_a_resumed_iterator_continues_with_the_next_batch(prefetch):
    batches = make(prefetch=prefetch)
    for _ in range(3):
        next(batches)
    state = batches.get_state()
    expected = [next(batches) for _ in range(5)]
    resumed = make()
    next(resumed)
    resumed.set_state(state)
    for batch in expected:
        found = next(resumed)
        np.testing.assert_array_equal(found["index"], batch["index"])
        np.testing.assert_array_equal(found["position"], batch["position"])
    batches.close()
    resumed.close()


@pytest.mark.parametrize("prefetch", [0, 3])
def test_rows_of_processes_make_up_the_batch(prefetch):
    whole = make(prefetch=prefetch)
    shares = [make(prefetch=prefetch, rows=slice(i * 2, i * 2 + 2)) for i in range(2)]
    for number in range(4):
        batch, parts = next(whole), [next(share) for share in shares]
        np.testing.assert_array_equal(batch["position"], number * 4 + np.arange(4))
        for name, value in batch.items():
            np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), value)
        assert shares[1].get_state() == whole.get_state()
    for batches in (whole, *shares):
        batches.close()


def test_a_state_of_other_data_is_refused():
    with pytest.raises(ConfigError, match="state is of 10 samples, the source has 11"):
        make(11, prefetch=0).set_state(make(prefetch=0).get_state())


if __name__ == "__main__":
    testing.main()
