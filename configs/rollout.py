"""Rollouts of a policy in an environment.

    python -m launch.evaluate --checkpoint=CHECKPOINT --workdir=RUN \
        --config=configs/rollout.py:libero,suite=libero_object --config.episodes=5 \
        --capture="streams=suffix;layers=last:2"

Arguments: `libero` or `tabletop`; of LIBERO the `suite`, of the tabletop the `task` and the number
of `distractors` beside its target; `size` of the pictures, pixels. Shapes, colours, cameras and
shadows of the tabletop are fields: see `configs/tabletop.py`. `tiny` runs a few steps of one
episode. A LIBERO episode of 280 steps takes about 30 s of simulation with video on one core, and
the predictions of the policy beside it.
"""

from __future__ import annotations

import ml_collections
from ml_collections import config_dict

from attn_jax.core.errors import ConfigError
from configs import common, tabletop

#: Of each environment, with defaults.
_ARGUMENTS = {
    "libero": {"suite": "libero_object"},
    "tabletop": {"task": "pick", "distractors": tabletop.SCENE["distractors"]},
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Configuration of launch.evaluate; `arg` as in the module docstring."""
    names = {item.partition("=")[0] for item in (arg or "").split(",")} & _ARGUMENTS.keys()
    if len(names) != 1:
        raise ConfigError(
            f"{arg!r} does not name one environment", fix="Begin with libero or tabletop"
        )
    name = names.pop()
    given = common.parse_arg(arg, **{name: False}, **_ARGUMENTS[name], size=0, tiny=False)
    config = ml_collections.ConfigDict()
    # Of the first episode of every task, as in lerobot-eval; later ones count up. Noise of the
    # policy is drawn by seed, episode and call.
    config.seed = 1000
    # Of every task.
    config.episodes = 1 if given.tiny else 10
    # Environments side by side, which share one prediction.
    config.n_envs = 1
    # Actions of a chunk that are carried out, and steps of an episode; default: the checkpoint's
    # and the environment's.
    config.n_action_steps = config_dict.placeholder(int)
    config.max_steps = config_dict.placeholder(int)
    if given.tiny:
        config.max_steps = 4
    # Record where the objects are at every prediction, and a video of every episode.
    config.masks = True
    config.video = True
    if name == "libero":
        config.env = {
            "name": name,
            "suite": given.suite,
            # Numbers of tasks; empty means all.
            "task_ids": (0,) if given.tiny else (),
            "size": given.size or (128 if given.tiny else 256),
            "settle_steps": 10,
        }
    else:
        config.env = {
            "name": name,
            "task": given.task,
            "size": given.size or 64,
            **tabletop.SCENE,
            "distractors": given.distractors,
        }
    return config
