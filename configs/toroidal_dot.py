"""Recording the toroidal dot.

    python -m launch.record --config=configs/toroidal_dot.py:size=64 --workdir=SESSION \
        --config.seed=0 --config.steps=1000

Argument: `size` (224, 112 or 64 pixels; the dot moves 27, 13 or 7 pixels). With the canvas's
default separator of 16 pixels the canvases are 224x704, 112x368 and 64x224. Other worlds by
--config.robot.size, .move and .radius, which the session keeps; a size that is no multiple of 16
needs other patches (model.patch, model.separator of configs/canvas.py). Expect about half of the
actions to move the dot, in runs of 1 to 3.
"""

from __future__ import annotations

import ml_collections
from ml_collections import config_dict

from configs import common
from robots.toroidal_dot import DotConfig


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Configuration of launch.record; `arg` as in the module docstring."""
    size = common.parse_arg(arg, size=224).size
    dot = DotConfig.of_size(size)
    config = ml_collections.ConfigDict()
    config.seed = 0
    # Observations in the whole session; there is one action less per episode.
    config.steps = 1000
    # The dot starts at a new place in every episode; no canvas joins two episodes.
    config.episodes = 1
    config.robot = {
        "name": "toroidal_dot",
        "size": dot.size,
        "move": dot.move,
        "radius": dot.radius,
        # Fixed start instead of one drawn from the seed, pixels.
        "initial_x": config_dict.placeholder(int),
        "initial_y": config_dict.placeholder(int),
        "delay_s": 0.0,
    }
    # Runs of 1 to 3 equal actions show every pair of actions in a row, so that no action can be
    # guessed from the one before. Other names: constant (repeats `action`), sequence (repeats
    # `actions`), always_stay, always_move, alternate, double_move, triple_move, and recorded (takes
    # the actions of the session in the folder `session`, and ends with them).
    config.selector = {
        "name": "random_duration",
        "min_steps": 1,
        "max_steps": 3,
        "action": 0,
        "actions": (),
        "session": "",
    }
    config.session = {
        # Default is the name of the folder.
        "name": config_dict.placeholder(str),
        # jpeg (quality 85) or png (lossless).
        "image_format": "jpeg",
        "shard_size": 1000,
        # Limit for all sessions in the folder that holds this one, 10**9 bytes each.
        "max_disk_gb": 10.0,
        # At the limit, delete the oldest finished sessions there; with dry_run only name them.
        "reclaim": False,
        "reclaim_dry_run": True,
        "protect": (),
        # Wait for the disk after every event. A simulation can be recorded again after a power cut.
        "sync": False,
    }
    return config
