"""Recording demonstrations of a scripted controller in LIBERO.

    python -m launch.record --config=configs/libero.py:suite=libero_object --workdir=DATASET \
        --config.robot.task_ids=0,3 --config.episodes=10

Arguments: `suite`, `size` (side of the pictures, pixels), `tiny` (1 episode of task 0, 64 pixels,
two frames a second). The work directory becomes a LeRobotDataset v3. The controller only picks one
thing up and puts it somewhere, as the tasks of libero_object ask; episodes without success are kept
and flagged. An episode takes about 2 s to simulate and a tenth of a second for every frame.
"""

from __future__ import annotations

import ml_collections

from configs import common


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Configuration for launch.record; raises ConfigError for a bad argument."""
    arg = common.parse_arg(arg, suite="libero_object", size=256, tiny=False)
    config = ml_collections.ConfigDict()
    config.seed = 0
    # Of every task, at start states `first`, `first` + 1, ...; LIBERO has 50 of every task.
    config.episodes = 1 if arg.tiny else 10
    config.first = 0
    # Episodes that a crash may cost.
    config.commit_every = 10
    config.robot = {
        "name": "libero",
        "suite": arg.suite,
        # Numbers of tasks; empty takes all of the suite.
        "task_ids": (0,) if arg.tiny else (),
        "size": 64 if arg.tiny else arg.size,
    }
    config.dataset = {
        # Steps from one frame to the next, a divisor of the 20 of a second.
        "keep_every": 10 if arg.tiny else 1,
        # image (PNG, lossless) or video (H.264)
        "storage": "image",
        "masks": True,
        # depth: beside the dataset, with the poses and intrinsics of the cameras
        "views": (),
        # For supervised attention: which cells of a grid the target covers, in every frame.
        "look_at": False,
        "keep_failures": True,
    }
    return config
