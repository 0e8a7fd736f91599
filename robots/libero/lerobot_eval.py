"""LeRobot's `lerobot-eval` on LIBERO, offline, with the installed files.

    python -m robots.libero.lerobot_eval --env.type=libero --env.task=libero_object
        --env.task_ids=[0] --policy.discover_packages_path=robots.lerobot_policy_attn_jax
        --policy.type=attn_jax --policy.checkpoint=CHECKPOINT --policy.device=cpu
        --policy.attention_dir=RUN --eval.n_episodes=2 --eval.batch_size=2
        --eval.use_async_envs=false --output_dir=OUT

Flags are those of `lerobot-eval`, which runs in this process; OUT receives `eval_info.json` and
videos. Environments in other processes (`use_async_envs`) would read their start states without the
shims, so LeRobot has to be told not to use them.
"""

from __future__ import annotations

import os

from robots.libero import shims


def main() -> None:
    """Runs `lerobot-eval` with the arguments of this process."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        os.environ.setdefault(name, "1")
    shims.prepare_lerobot()
    from lerobot.scripts import lerobot_eval  # pyright: ignore[reportMissingImports]

    lerobot_eval.main()


if __name__ == "__main__":
    main()
