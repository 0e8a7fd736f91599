"""The LeRobot policy type `attn_jax`: our compiled Pi0.5 under LeRobot's commands."""

from .configuration_attn_jax import AttnJaxConfig

__all__ = ["AttnJaxConfig"]
