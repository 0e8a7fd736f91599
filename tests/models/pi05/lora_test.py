"""LoRA: nothing at the start, exactly the merged kernels afterwards."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attn_jax.core.errors import ConfigError
from attn_jax.models.pi05.lora import LoraConfig, applied, init_lora, merged, without_lora
from attn_jax.models.pi05.model import Pi05
from tests import testing
from tests.models.pi05 import small

# Every kind of kernel: two input axes, two output axes, one of each, and the vision tower's.
EVERYTHING = LoraConfig(3, 6.0, r".*/(query|out|gate|fc1)|action_in|time_out")


@jax.jit
def velocity(params, pairs):
    with applied(EVERYTHING, pairs):
        times = jnp.zeros((2, small.SIZES.expert_width))
        return Pi05(small.CONFIG).apply({"params": params}, small.inputs(), small.noise(), times)


def test_fresh_pairs_change_nothing_and_merging_is_the_same():
    params = small.params()
    pairs = init_lora(EVERYTHING, params, jax.random.key(0))
    assert set(pairs) == {"vision", "backbone", "expert", "action_in", "time_out"}
    shape = pairs["expert"]["layer_0"]["out"]["a"].shape
    assert shape == (small.SIZES.heads, small.SIZES.head_dim, 3)
    plain = velocity(params, None)
    np.testing.assert_array_equal(velocity(params, pairs), plain)
    keys = iter(jax.random.split(jax.random.key(1), 200))
    pairs = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(next(keys), x.shape), pairs)
    changed = velocity(params, pairs)
    assert np.abs(changed - plain).max() > 0.01
    tree = merged(EVERYTHING, {**params, "lora": pairs})
    assert jax.tree.structure(tree) == jax.tree.structure(params)
    np.testing.assert_allclose(velocity(tree, None), changed, atol=2e-4)


def test_targets_must_name_something():
    with pytest.raises(ConfigError, match="no projection matches 'nothing'"):
        init_lora(LoraConfig(1, targets="nothing"), small.params(), jax.random.key(0))
    with pytest.raises(ConfigError, match=r"lora\.rank: must be at least 1"):
        LoraConfig(0)
    for alpha in (0.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=rf"lora\.alpha: must be positive.*got {alpha}"):
            LoraConfig(1, alpha=alpha)
    with pytest.raises(ConfigError, match=r"lora\.targets: is no pattern"):
        LoraConfig(1, targets="(")
    assert without_lora({"a": 1, "lora": 2}) == {"a": 1}


if __name__ == "__main__":
    testing.main()
