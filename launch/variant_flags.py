"""Flags of `launch.evaluate --episodes` for hidden patches and turned pictures.

They are apart from `launch.episode_variants`, so that other launchers can check such values
without having the flags.

    occlusion = occlusion_from_flags(("base", "wrist"), num_layers=18)
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from attn_jax.analysis.fidelity import SHARE
from attn_jax.core.errors import ConfigError
from launch import app
from launch.episode_variants import DEFAULT_FILLS, Occlusion

OCCLUDE = flags.DEFINE_list(
    "occlude", [], "Layers whose most-looked-at patches are hidden: numbers, or last."
)
OCCLUDE_FILLS = app.define_occlude_fills()
OCCLUDE_SHARE = flags.DEFINE_float("occlude_share", SHARE, "Share of the patches that is hidden.")
OCCLUDE_CAMERAS = flags.DEFINE_list(
    "occlude_cameras", [], "Cameras of the checkpoint; empty takes those of the first episode."
)
OCCLUDE_SEEDS = flags.DEFINE_integer(
    "occlude_seeds", 1, "Noise seeds, the base's and others of --noise_seeds.", lower_bound=1
)
ROTATE = flags.DEFINE_list("rotate", [], "Degrees by which pictures are turned: 90,180,270.")


def occlusion_from_flags(cameras: Sequence[str], num_layers: int) -> Occlusion | None:
    """What --occlude and its companions ask for; None when nothing is to be hidden.

    Args:
      cameras: of the checkpoint, those that are taken unless --occlude_cameras names some.
      num_layers: of the action expert.

    Raises:
      ConfigError: values that cannot be.
    """
    if not OCCLUDE.value:
        return None
    words = [str(num_layers - 1) if word == "last" else word for word in OCCLUDE.value]
    if not all(word.isdecimal() for word in words):
        raise ConfigError(
            f"{','.join(OCCLUDE.value)} are no layers", where="--occlude", fix="Write last or 3,11"
        )
    return Occlusion(
        tuple(int(word) for word in words),
        tuple(OCCLUDE_CAMERAS.value or cameras),
        DEFAULT_FILLS if OCCLUDE_FILLS.value is None else tuple(OCCLUDE_FILLS.value),
        OCCLUDE_SHARE.value,
        OCCLUDE_SEEDS.value,
    )


def rotate_from_flags() -> tuple[int, ...]:
    """The angles of --rotate; raises `ConfigError`."""
    if not all(word.isdecimal() for word in ROTATE.value):
        raise ConfigError(f"{','.join(ROTATE.value)} are no degrees", where="--rotate")
    return tuple(int(word) for word in ROTATE.value)
