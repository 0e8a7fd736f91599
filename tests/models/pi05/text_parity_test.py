"""Generated text against transformers' PaliGemma inside LeRobot's policy."""

from __future__ import annotations

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attn_jax.bridge.checkpoint_folder import open_checkpoint
from attn_jax.bridge.text_head import read_text_head
from attn_jax.core import taps
from attn_jax.models.pi05.text import generate
from tests import testing
from tests.models.pi05 import lerobot_reference as reference
from tests.models.pi05.lerobot_inputs import our_inputs

testing.require_module("torch", "lerobot")
pytestmark = pytest.mark.bridge

CASE = reference.Case(lengths=(17, 9), seed=4)
COUNT = 6


@pytest.fixture(scope="module")
def lerobot(tmp_path_factory):
    """(checkpoint folder, batch, ids, logits and attention of transformers)."""
    folder = tmp_path_factory.mktemp("pi05")
    policy = reference.make_policy(CASE)
    reference.save(policy, CASE, folder)
    (folder / "architecture.json").write_text(json.dumps(CASE.sizes.to_json()))
    batch = reference.make_batch(CASE)
    return folder, batch, *reference.generate_text(policy, CASE, batch, COUNT)


def test_ids_logits_and_attention_equal_transformers(lerobot):
    folder, batch, ids, logits, attention = lerobot
    checkpoint = open_checkpoint(folder)
    params = checkpoint.params()
    head = read_text_head(checkpoint, params)
    assert not np.array_equal(head, params["embedding"])
    run = functools.partial(
        generate, checkpoint.config, max_tokens=COUNT, keep_logits=True, watch=True
    )
    inputs = jax.tree.map(jnp.asarray, our_inputs(CASE, batch))
    answer, sown = jax.jit(run)(params, head, inputs)
    assert len(np.unique(ids)) > 2  # not one token over and over
    np.testing.assert_array_equal(answer.tokens, ids)
    np.testing.assert_allclose(answer.logits, logits, atol=1e-4)
    layers = sown["text"][taps.COLLECTION]["backbone"]
    found = np.stack([layers[f"layer_{i}"][taps.PROBS] for i in range(CASE.sizes.depth)])
    np.testing.assert_allclose(found, attention, atol=2e-6)


if __name__ == "__main__":
    testing.main()
