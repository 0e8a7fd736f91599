"""Observation is a pytree of what is present."""

from __future__ import annotations

import jax
import numpy as np

from attn_jax.core.observation import Observation
from tests import testing


def test_absent_sensors_are_no_leaves():
    frames = np.zeros((2, 3, 8, 8, 3), np.uint8)
    observation = Observation(images={"base": frames}, past_actions=np.zeros((2, 2, 1)))
    assert len(jax.tree.leaves(observation)) == 2
    halved = jax.tree.map(lambda x: x[:1], observation)
    assert halved.images["base"].shape == (1, 3, 8, 8, 3)
    assert halved.state is None


if __name__ == "__main__":
    testing.main()
