from __future__ import annotations

import pytest

from tests import testing

testing.require_module("torch", "lerobot")
pytestmark = [pytest.mark.bridge, pytest.mark.filterwarnings("ignore")]


def test_only_names_change():
    import torch

    from robots.lerobot_policy_attn_jax import AttnJaxConfig
    from robots.lerobot_policy_attn_jax.processor_attn_jax import make_attn_jax_pre_post_processors

    names = {"observation.images.image": "observation.images.front"}
    config = AttnJaxConfig(checkpoint="here", rename_map=names, device="cpu")
    pre, post = make_attn_jax_pre_post_processors(config)
    state, picture = torch.rand(2, 3), torch.rand(2, 3, 4, 4)
    out = pre({"observation.state": state, "observation.images.image": picture, "task": ["a", "b"]})
    assert torch.equal(out["observation.state"], state) and out["task"] == ["a", "b"]
    assert torch.equal(out["observation.images.front"], picture)
    assert torch.equal(post(state), state)


if __name__ == "__main__":
    testing.main()
