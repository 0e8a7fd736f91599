"""Canvas world model: next-frame prediction as in-painting of a masked frame slot."""

from attn_jax.models.canvas.model import CanvasConfig as CanvasConfig
from attn_jax.models.canvas.model import CanvasModel as CanvasModel
from attn_jax.models.canvas.model import MaskPlan as MaskPlan
