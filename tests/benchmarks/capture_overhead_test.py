"""The overhead benchmark compares what it says, on a small model."""

import jax
import numpy as np
import pytest

from attn_jax.nn import attention
from benchmarks import capture_overhead
from tests import testing


@pytest.fixture(scope="module")
def programs():
    return capture_overhead.Programs(capture_overhead.TINY, 1, capture_overhead.SELECTION)


def test_both_programs_predict_the_same_and_one_returns_the_maps(programs):
    plain = programs.plain(*programs.arguments)
    patches, maps = programs.captured(*programs.arguments)
    np.testing.assert_allclose(patches, plain, atol=1e-5)
    layers = maps["decoder"]["full"]
    assert len(layers) == 2
    tokens = 1 + capture_overhead.TINY.geometry.num_patches
    for encoded in layers:
        assert encoded.data.shape == (1, 1, 1, 1, tokens, tokens)
        assert encoded.data.dtype == np.float16
        np.testing.assert_allclose(np.asarray(encoded.data, np.float32).sum(-1), 1, atol=0.01)


def test_with_capture_off_the_program_knows_no_probe(programs, monkeypatch):
    bare = capture_overhead.lowered(programs, probe=False)
    assert capture_overhead.lowered(programs, probe=True) == bare

    original = attention.attend

    def leaky(module, q, k, v, **options):
        return original(module, q, k, v, **options) + 0 * jax.numpy.max(q)

    monkeypatch.setattr(attention, "attend", leaky)
    assert capture_overhead.lowered(programs, probe=True) != bare


def test_overhead_has_times_and_their_ratio(programs):
    found = capture_overhead.overhead(programs, rounds=3)
    assert found["plain_s"] > 0 and found["captured_s"] > 0
    assert 0.01 < found["ratio"] < 100


if __name__ == "__main__":
    testing.main()
