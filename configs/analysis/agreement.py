"""Do cameras look at the same place? Needs rollouts, which record where the cameras are.

    python -m launch.analyze --run=RUN --config=configs/analysis/agreement.py --workdir=OUT

Arguments:
  tiny: few resamples, for tests.
"""

from __future__ import annotations

import ml_collections

from configs import common
from configs.analysis import parts


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Configuration of launch.analyze; `arg` as in the module docstring."""
    args = common.parse_arg(arg, tiny=False)
    config = parts.make("agreement")
    if args.tiny:
        config.resamples = config.rank_resamples = 99
    return config
