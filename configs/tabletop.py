"""Recording demonstrations on the tabletop.

    python -m launch.record --config=configs/tabletop.py:size=64,task=pick --workdir=DATASET \
        --config.seed=0 --config.episodes=200

Arguments: `size` (side of the pictures, pixels), `task` (pick, unplug or place), `tiny` (2 episodes
of 32 pixels). The work directory becomes a LeRobotDataset v3, or DROID-style folders. Expect every
expert to succeed in at least 95 % of its episodes, and about 25 steps an episode for pick and
unplug, 45 for place.
"""

from __future__ import annotations

import ml_collections
from ml_collections import config_dict

from attn_jax.core.errors import ConfigError
from configs import common

#: As in robots/tabletop/tasks.py, which is not imported here.
_TASKS = ("pick", "unplug", "place")
#: What can be set of a tabletop, besides its task and the size of the pictures; of rollouts too.
SCENE = {
    # front, wrist, side, top
    "cameras": ("front", "wrist"),
    "colours": ("red", "green", "blue", "yellow"),
    # cube, ball, cylinder, stick, bar
    "shapes": ("cube", "ball", "cylinder"),
    "distractors": 1,
    "shadows": True,
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Configuration for launch.record; raises ConfigError for a bad argument."""
    arg = common.parse_arg(arg, size=64, task="pick", tiny=False)
    if arg.task not in _TASKS:
        raise ConfigError(f"unknown task {arg.task!r}", fix=f"Use one of {', '.join(_TASKS)}")
    config = ml_collections.ConfigDict()
    # Scene i is that of the environment's seed + i; an episode each, but with every_target.
    config.seed = 0
    config.episodes = 2 if arg.tiny else 200
    # Processes; -1 is one per core. The dataset does not depend on it.
    config.jobs = 1
    # Episodes after which the folder is a whole dataset again; the most that a crash may cost.
    config.commit_every = 50
    config.robot = {
        "name": "tabletop",
        "task": arg.task,
        "size": 32 if arg.tiny else arg.size,
        **SCENE,
        # Default is the task's.
        "max_steps": config_dict.placeholder(int),
    }
    config.expert = {
        # Disturbs what the expert does, not what is recorded; in units of actions.
        "noise": 0.1,
        # Demonstrate each scene once for every thing that could be meant.
        "every_target": False,
    }
    # Scenes that come before the episodes, cut off after some steps: what a policy that has to read
    # its prompt needs most of, since a hand half way tells where it is going.
    config.starts = {"scenes": 0, "steps": 8}
    config.dataset = {
        # lerobot (LeRobotDataset v3) or droid (DROID-style folders: front is the left camera)
        "format": "lerobot",
        # Of the masks in DROID-style folders: dinox or perception
        "layout": "dinox",
        # image (PNG, lossless) or video (H.264)
        "storage": "image",
        "masks": True,
        # depth, points: beside the dataset, with the poses and intrinsics of the cameras
        "views": (),
        # For supervised attention: which cells of a grid the target covers, in every frame.
        "look_at": False,
        "keep_failures": True,
    }
    return config
