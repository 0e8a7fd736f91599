"""Settings of the LeRobot policy type `attn_jax`.

lerobot-eval --policy.discover_packages_path=robots.lerobot_policy_attn_jax
    --policy.type=attn_jax --policy.checkpoint=CHECKPOINT --policy.device=cpu
    --policy.attention_dir=RUN --policy.capture="streams=suffix;layers=last:2" --env.type=...
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lerobot.configs import NormalizationMode, PreTrainedConfig

from attn_jax.core.errors import ConfigError


@PreTrainedConfig.register_subclass("attn_jax")
@dataclass
class AttnJaxConfig(PreTrainedConfig):
    """What LeRobot's command line says about the policy.

    Attributes:
      checkpoint: a LeRobot Pi0.5 folder, the --workdir of a training run or a folder of
        `launch.bridge`; its own processors are applied inside the policy.
      tokenizer: folder with tokenizer.json, or a name, instead of the checkpoint's.
      precision: see `Pi05Config`; None is what the checkpoint says.
      n_action_steps: actions of a chunk that are carried out; None is what the checkpoint says.
      noise_seed: of the noise, with episode and call.
      rename_map: key of the environment -> key of the checkpoint.
      attention_dir: run folder for recorded episodes; None records nothing.
      capture: attention to record (docs/capture.md); empty records observations only.
    """

    checkpoint: str = ""
    tokenizer: str | None = None
    precision: str | None = None
    n_action_steps: int | None = None
    noise_seed: int = 0
    rename_map: dict[str, str] = field(default_factory=dict)
    attention_dir: str | None = None
    capture: str = "streams=suffix;layers=last:2"
    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: {
            kind: NormalizationMode.IDENTITY for kind in ("VISUAL", "STATE", "ACTION")
        }
    )

    @property
    def observation_delta_indices(self) -> None:
        """One observation at a time."""
        return None

    @property
    def action_delta_indices(self) -> None:
        """Not trained by LeRobot."""
        return None

    @property
    def reward_delta_indices(self) -> None:
        """Not trained by LeRobot."""
        return None

    def get_optimizer_preset(self) -> Any:
        """Not trained by LeRobot; see `launch.train`."""
        raise ConfigError("LeRobot cannot train this policy", fix="Use launch.train")

    def get_scheduler_preset(self) -> None:
        """Not trained by LeRobot."""
        return None

    def validate_features(self) -> None:
        """The checkpoint checks what it is given at every prediction."""
