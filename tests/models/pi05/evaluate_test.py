from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from attn_jax.models.pi05.evaluate import ChunkEvaluation
from attn_jax.models.pi05.sample import sample
from attn_jax.models.pi05.task import Pi05Task, model_inputs
from tests import testing
from tests.models.pi05 import small
from tests.models.pi05.task_test import batch_of


def test_the_same_at_every_call_and_sampled_chunks_count_without_padding():
    task = Pi05Task(small.CONFIG)
    batch, params = batch_of(), small.params()
    evaluation = ChunkEvaluation(task, [batch, batch_of(seed=1)], seed=3)
    first = evaluation(params)
    assert evaluation(params) == first
    assert set(first) == {"loss", "action_mae", "first_action_mae"}
    assert ChunkEvaluation(task, [batch], seed=4)(params) != first
    # A recording that holds what the policy samples has no error where it is no padding.
    key_batch = {**batch}
    import jax

    key = jax.random.fold_in(jax.random.key(3), 0)
    noise = jax.random.normal(key, (4, 2, 4, 8))[0]
    made, _ = sample(small.CONFIG, params, model_inputs(batch), noise)
    actions = np.array(jnp.asarray(made.actions)[..., :5])
    actions[0, 3] += 100
    key_batch["actions"] = actions
    found = ChunkEvaluation(task, [key_batch], seed=3)(params)
    assert found["action_mae"] < 1e-3 and found["first_action_mae"] < 1e-3


if __name__ == "__main__":
    testing.main()
