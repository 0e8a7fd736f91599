from __future__ import annotations

import flax.traverse_util
import numpy as np

from attn_jax.bridge.pi05_table import EMBEDDING, table
from attn_jax.models.pi05 import Architecture, Pi05Config
from attn_jax.models.pi05.model import param_shapes
from tests import testing
from tests.models.pi05 import small


def test_every_parameter_of_the_published_sizes_has_one_name():
    pairs = [pair for row in table(Architecture()) for pair in row.names()]
    names, paths = zip(*pairs, strict=True)
    assert len(set(names)) == len(names) == 811
    expected = flax.traverse_util.flatten_dict(param_shapes(Pi05Config()), sep="/")
    assert set(paths) == set(expected)
    assert all(name.startswith("model.") for name in names) and EMBEDDING in names


def test_storing_undoes_loading():
    params = small.flat_params()
    for row in table(small.SIZES):
        for name, path in row.names():
            stored = row.store(params[path])
            (loaded,) = row.rule.transform(stored)
            np.testing.assert_array_equal(loaded, params[path], err_msg=name)


def test_heads_are_the_outer_index_of_a_projection():
    params = small.flat_params()
    rows = {name: (row, path) for row in table(small.SIZES) for name, path in row.names()}
    name = "model.paligemma_with_expert.gemma_expert.model.layers.1.self_attn.q_proj.weight"
    row, path = rows[name]
    assert path == "expert/layer_1/query/kernel"
    stored = row.store(params[path])
    sizes = small.SIZES
    assert stored.shape == (sizes.heads * sizes.head_dim, sizes.expert_width)
    np.testing.assert_array_equal(stored[3 * sizes.head_dim + 5], params[path][:, 3, 5])


if __name__ == "__main__":
    testing.main()
