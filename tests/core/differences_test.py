"""Differences between configurations and sets of tensors."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from attn_jax.core.differences import config_differences, config_hash, tensor_differences
from tests import testing

SAVED = {"seed": 0, "model": {"dim": 8, "kind": "a"}, "sizes": (1, 2)}
CONFIGS = st.dictionaries(
    st.sampled_from("abc"),
    st.one_of(st.integers(0, 2), st.dictionaries(st.sampled_from("xy"), st.booleans())),
)


def test_names_every_field():
    wanted = {"seed": 0, "model": {"dim": 16, "depth": 2}, "sizes": [1, 2], "extra": None}
    assert config_differences(SAVED, wanted) == [
        "extra: not in the saved configuration, now None",
        "model.depth: not in the saved configuration, now 2",
        "model.dim: was 8, now 16",
        "model.kind: was 'a', not in this configuration",
    ]


def test_ignores_fields_and_what_is_below():
    wanted = {"seed": 1, "model": {"dim": 9}, "sizes": (1, 2)}
    assert config_differences(SAVED, wanted, ignore=("model", "seed")) == []
    assert config_differences(SAVED, wanted, ignore=("model.dim", "model.kind")) == [
        "seed: was 0, now 1"
    ]


@given(CONFIGS, CONFIGS)
def test_no_difference_means_equal(first, second):
    assert (config_differences(first, second) == []) == (first == second)
    assert (config_hash(first) == config_hash(second)) == (first == second)


def test_hash_does_not_depend_on_order():
    assert config_hash({"a": 1, "b": 2}) == config_hash({"b": 2, "a": 1})


def test_tensors():
    saved = {"params": {"a": np.zeros((2, 3), np.float32), "b": np.zeros(1), "c": np.zeros(1)}}
    wanted = {
        "params": {"a": np.zeros((2, 4), np.float32), "b": np.zeros(1, np.float32)},
        "ema": {"d": np.zeros((5, 1), np.int32)},
    }
    assert tensor_differences(saved, wanted) == [
        "shape of a: saved (2, 3), needed (2, 4)",
        "dtype of b: saved float64, needed float32",
        "unexpected tensor c: float64[1]",
        "missing tensor d: int32[5, 1]",
    ]
    assert tensor_differences(saved, saved) == []


if __name__ == "__main__":
    testing.main()
