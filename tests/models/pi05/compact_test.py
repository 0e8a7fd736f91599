from __future__ import annotations

import functools

import jax
import numpy as np

from attn_jax.models.pi05 import sample
from attn_jax.models.pi05.compact import compact
from tests import testing
from tests.models.pi05 import small


def test_dummies_and_the_tail_of_the_prompt_go():
    inputs, kept = compact(small.CONFIG, small.inputs(lengths=(6, 3), dummies=2))
    assert inputs.images.shape[1] == 1 and inputs.tokens.shape == (2, 6)
    assert kept.cameras == (0,) and kept.tokens == 6
    np.testing.assert_array_equal(kept.places, [0, 1, 2, 3, *range(12, 18)])
    assert kept.valid.shape == (2, 21)


def test_lengths_are_rounded_up_but_never_beyond_the_prompt():
    assert compact(small.CONFIG, small.inputs(lengths=(3,)), multiple=4)[1].tokens == 4
    assert compact(small.CONFIG, small.inputs(lengths=(9,)), multiple=4)[1].tokens == 9


def test_a_camera_that_one_sample_has_stays():
    inputs = small.inputs(dummies=1)
    inputs = inputs.replace(image_mask=inputs.image_mask.at[0, 0].set(False))
    assert compact(small.CONFIG, inputs)[1].cameras == (0, 1)


def test_actions_and_expanded_maps_are_those_of_the_full_prediction():
    run = jax.jit(functools.partial(sample, small.CONFIG, watch=True))
    full, maps = run(small.params(), small.inputs(), small.noise())
    inputs, kept = compact(small.CONFIG, small.inputs())
    few, few_maps = run(small.params(), inputs, small.noise())
    np.testing.assert_allclose(few.actions, full.actions, atol=1e-5)
    np.testing.assert_array_equal(kept.valid, full.prefix_valid)
    for layer in range(small.SIZES.depth):

        def probs(sown, stream, stack, layer=layer):
            return np.asarray(sown[stream]["attn"][stack][f"layer_{layer}"]["probs"])

        found = kept.expand_prefix(probs(few_maps, "prefix", "backbone"))
        np.testing.assert_allclose(found, probs(maps, "prefix", "backbone"), atol=2e-6)
        found = kept.expand_suffix(probs(few_maps, "suffix", "expert"))
        np.testing.assert_allclose(found, probs(maps, "suffix", "expert"), atol=2e-6)


if __name__ == "__main__":
    testing.main()
