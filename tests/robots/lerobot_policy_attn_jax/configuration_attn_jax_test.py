from __future__ import annotations

import pytest

from tests import testing

testing.require_module("torch", "lerobot")
pytestmark = [pytest.mark.bridge, pytest.mark.filterwarnings("ignore")]


def test_known_by_its_name_and_read_back(tmp_path):
    from lerobot.configs import NormalizationMode, PreTrainedConfig

    from robots.lerobot_policy_attn_jax import AttnJaxConfig

    assert PreTrainedConfig.get_choice_class("attn_jax") is AttnJaxConfig
    config = AttnJaxConfig(checkpoint="here", rename_map={"a": "b"}, device="cpu")
    config.save_pretrained(tmp_path)
    again = PreTrainedConfig.from_pretrained(tmp_path)
    assert again == config and again.type == "attn_jax"
    assert set(config.normalization_mapping.values()) == {NormalizationMode.IDENTITY}


if __name__ == "__main__":
    testing.main()
