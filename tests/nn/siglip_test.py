from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from attn_jax.nn.siglip import SiglipTower
from tests import testing

TOWER = SiglipTower(8, 2, 2, 16, (2, 3), 4)


def images(seed=0, batch=2):
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, (batch, 8, 12, 3)), jnp.float32)


def test_patches_come_in_raster_order():
    """With blocks that add nothing, a token is its own patch only."""
    variables = TOWER.init(jax.random.key(0), images())
    params = jax.tree.map(lambda x: x, variables["params"])
    for block in params["transformer"].values():
        block["attention"]["out"]["kernel"] = jnp.zeros_like(block["attention"]["out"]["kernel"])
        block["mlp"]["fc2"]["kernel"] = jnp.zeros_like(block["mlp"]["fc2"]["kernel"])
    before = TOWER.apply({"params": params}, images())
    changed = images().at[:, 4:8, 0:4].add(0.5)  # second row, first column
    after = TOWER.apply({"params": params}, changed)
    assert before.shape == (2, 6, 8)
    moved = np.abs(np.asarray(after - before)).max(axis=(0, 2)) > 1e-6
    np.testing.assert_array_equal(np.flatnonzero(moved), [3])


def test_blocks_use_the_tanh_gelu_and_sow_their_attention():
    variables = TOWER.init(jax.random.key(0), images())
    assert list(variables) == ["params"]
    _, sown = TOWER.apply(variables, images(), mutable=["attn"])
    maps = jax.tree.leaves(sown)
    assert [m.shape for m in maps] == [(2, 2, 6, 6)] * 2
    np.testing.assert_allclose(maps[0].sum(-1), 1.0, atol=1e-5)
    assert "tanh" in str(jax.make_jaxpr(TOWER.apply)(variables, images()))


def test_parameters_stay_float32_in_bfloat16():
    tower = SiglipTower(8, 1, 2, 16, (2, 3), 4, dtype=jnp.bfloat16)
    variables = tower.init(jax.random.key(0), images())
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    assert tower.apply(variables, images()).dtype == jnp.bfloat16


if __name__ == "__main__":
    testing.main()
