"""Tabletop manipulation with language, simulated by MuJoCo and rendered without OpenGL.

Importing this package registers `attn_jax/TabletopPick-v0`, `attn_jax/TabletopUnplug-v0` and
`attn_jax/TabletopPlace-v0` with Gymnasium.

    env = gymnasium.make("attn_jax/TabletopPick-v0", size=64)
    observation, info = env.reset(seed=0)
"""

from __future__ import annotations

import gymnasium

# Named as text, so that importing this does not import mujoco. The environment truncates itself.
for _task in ("pick", "unplug", "place"):
    gymnasium.register(
        id=f"attn_jax/Tabletop{_task.capitalize()}-v0",
        entry_point="robots.tabletop.env:TabletopEnv",
        kwargs={"task": _task},
    )
