"""LeRobot's pipelines around the policy `attn_jax`: they only name, batch and move tensors.

Normalisation, prompt and tokens are the checkpoint's own processors, inside the policy.
"""

from __future__ import annotations

from typing import Any

from lerobot.processor import (
    AddBatchDimensionProcessorStep,
    DeviceProcessorStep,
    PolicyProcessorPipeline,
    RenameObservationsProcessorStep,
    policy_action_to_transition,
    transition_to_policy_action,
)
from lerobot.utils.constants import (
    POLICY_POSTPROCESSOR_DEFAULT_NAME,
    POLICY_PREPROCESSOR_DEFAULT_NAME,
)

from .configuration_attn_jax import AttnJaxConfig


def make_attn_jax_pre_post_processors(
    config: AttnJaxConfig, dataset_stats: Any = None
) -> tuple[PolicyProcessorPipeline, PolicyProcessorPipeline]:
    """Pre- and post-processor; statistics of LeRobot are not used, the checkpoint has its own."""
    del dataset_stats
    pre = PolicyProcessorPipeline(
        steps=[
            RenameObservationsProcessorStep(rename_map=dict(config.rename_map)),
            AddBatchDimensionProcessorStep(),
            DeviceProcessorStep(device="cpu"),
        ],
        name=POLICY_PREPROCESSOR_DEFAULT_NAME,
    )
    post = PolicyProcessorPipeline(
        steps=[DeviceProcessorStep(device="cpu")],
        name=POLICY_POSTPROCESSOR_DEFAULT_NAME,
        to_transition=policy_action_to_transition,
        to_output=transition_to_policy_action,
    )
    return pre, post
