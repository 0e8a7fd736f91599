"""Pi0.5: a vision-language-action policy that denoises action chunks by flow matching."""

from attn_jax.models.pi05.config import Architecture as Architecture
from attn_jax.models.pi05.config import Pi05Config as Pi05Config
from attn_jax.models.pi05.model import Pi05 as Pi05
from attn_jax.models.pi05.model import Pi05Inputs as Pi05Inputs
from attn_jax.models.pi05.sample import Sample as Sample
from attn_jax.models.pi05.sample import flow_matching_errors as flow_matching_errors
from attn_jax.models.pi05.sample import sample as sample
