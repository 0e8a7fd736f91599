"""How much do actions look at vision, and how much at language?

    python -m launch.analyze --run=RUN --config=configs/analysis/budget.py --workdir=OUT

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
    config = parts.make("budget")
    if args.tiny:
        config.resamples = config.rank_resamples = 99
    return config
