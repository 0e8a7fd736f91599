"""Every hypothesis.

    python -m launch.analyze --run=RUN --config=configs/analysis/all.py --workdir=OUT

Arguments:
  lenient: leave out, instead of failing, every hypothesis whose inputs an episode lacks.
  tiny: few resamples, for tests.

Hypotheses that need runs made on purpose (hidden patches, questions, turned pictures), whole
maps or relevance are left out where there are none, in any case.
"""

from __future__ import annotations

import ml_collections

from configs import common
from configs.analysis import parts


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Configuration of launch.analyze; `arg` as in the module docstring."""
    args = common.parse_arg(arg, lenient=False, tiny=False)
    names = tuple(parts.HYPOTHESES)
    config = parts.make(*names, skip=names if args.lenient else parts.SPECIAL)
    if args.tiny:
        config.resamples = config.rank_resamples = 99
    return config
