"""Demonstrations of the tabletop's experts, one after the other or in parallel.

Axis names: t steps, h w pixels.

    for demo in demonstrations(TabletopConfig(), seeds=range(200), jobs=2):
        demo.success, demo.frames["action"].shape        # True, (25, 7)
"""

from __future__ import annotations

import dataclasses
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import joblib
import numpy as np

from attn_jax.core.errors import ConfigError
from attn_jax.core.typing import NumpyArray
from robots.dataset import Demonstration
from robots.tabletop.env import TabletopEnv
from robots.tabletop.experts import Expert
from robots.tabletop.tasks import TaskConfig

#: Views of the environment that are not recorded unless asked for.
VIEWS = ("depth", "points")
_BATCH = 8  # episodes that one worker makes before it hands them over


@dataclasses.dataclass(frozen=True)
class TabletopConfig:
    """Everything that decides what a demonstration looks like, besides its seed.

    Attributes:
      task: what is asked for, and in what scenes.
      size: side of the pictures, pixels.
      cameras: names of cameras.
      shadows: draw cast shadows.
      max_steps: None for the task's own number.
      noise: standard deviation of the Gaussian noise that is added to the expert's translation and
        turn when they are carried out, in units of actions. What is recorded is the expert's own
        action, so that the data show how errors are put right.
      every_target: demonstrate each scene once for every thing in it that could be meant, so that
        the prompt alone says which way to go.
      views: what the cameras give besides pictures and masks, of "depth" and "points".

    Raises:
      ConfigError: negative noise, or an unknown view.
    """

    task: TaskConfig = dataclasses.field(default_factory=TaskConfig)
    size: int = 64
    cameras: tuple[str, ...] = ("front", "wrist")
    shadows: bool = True
    max_steps: int | None = None
    noise: float = 0.1
    every_target: bool = False
    views: tuple[str, ...] = ()

    def __post_init__(self):
        if not 0 <= self.noise < 1:
            raise ConfigError(f"noise of {self.noise}", where="noise", fix="Use 0 to below 1")
        if not set(self.views) <= set(VIEWS) or len(set(self.views)) != len(self.views):
            raise ConfigError(
                f"views {list(self.views)}", where="views", fix=f"Use some of {', '.join(VIEWS)}"
            )

    def make_env(self) -> TabletopEnv:
        """The environment; raises ConfigError for what it cannot be."""
        return TabletopEnv(
            self.task,
            size=self.size,
            cameras=self.cameras,
            shadows=self.shadows,
            max_steps=self.max_steps,
            views=("images", "masks", *self.views),
        )


def demonstrate(
    env: TabletopEnv, seed: int, noise: float = 0.0, target: str | None = None
) -> Demonstration:
    """Lets the expert act for one episode.

    Args:
      env: with the views images and masks.
      seed: of the scene, and of the noise.
      noise: see TabletopConfig.
      target: name of the thing to ask for; None for the one that the scene was drawn with.

    Raises:
      ConfigError: the scene has no such thing that could be meant.
    """
    random = np.random.default_rng([seed, 1])
    expert = Expert(env)
    observation, info = env.reset(seed=seed, options={} if target is None else {"target": target})
    rows: list[dict[str, Any]] = []
    poses: list[dict[str, NumpyArray]] = []
    over = False
    while not over:
        action = expert.act()
        rows.append(observation | {"action": action})
        poses.append(env.camera_poses)
        disturbed = action.astype(np.float64)
        disturbed[:6] += noise * random.normal(size=6)
        observation, _, terminated, truncated, info = env.step(disturbed)
        over = terminated or truncated
    columns = {key: np.stack([row[key] for row in rows]) for key in rows[0] if key != "task"}
    names = [camera.name for camera in env.cameras]

    def pop(view: str) -> dict[str, NumpyArray]:
        return {name: columns.pop(f"observation.{view}.{name}") for name in names}

    return Demonstration(
        masks=pop("masks"),
        views={view: pop(view) for view in VIEWS if view in env.views},
        frames=columns,  # what is left
        poses={name: np.stack([row[name] for row in poses]) for name in names},
        intrinsics={camera.name: camera.intrinsics for camera in env.cameras},
        info={
            "seed": seed,
            "task": env.task.name,
            "prompt": info["task"],
            "other_prompts": [p for p in info["prompts"].values() if p != info["task"]],
            "success": info["is_success"],
            "length": len(rows),
            "objects": list(info["objects"]),
            "roles": dict(info["roles"]),
            "grasped": info["grasped"],
            "lifted": info["lifted"],
        },
    )


def demonstrations(
    config: TabletopConfig, seeds: Sequence[int], jobs: int = 1
) -> Iterator[Demonstration]:
    """Demonstrations in the order of `seeds`; the same bytes for any number of processes.

    Under `config.every_target` a seed gives several, first the one that the scene was drawn with.
    """
    if jobs == 1:
        yield from _demonstrations(config, seeds)
        return
    batches = [seeds[i : i + _BATCH] for i in range(0, len(seeds), _BATCH)]
    parallel = joblib.Parallel(n_jobs=jobs, return_as="generator", pre_dispatch="2*n_jobs")
    for batch in parallel(joblib.delayed(_batch)(config, batch) for batch in batches):
        yield from batch


def _batch(config: TabletopConfig, seeds: Sequence[int]) -> list[Demonstration]:
    """What one worker makes before it hands over."""
    if threading.current_thread() is threading.main_thread():
        # Ctrl-C reaches the workers too; when to stop is for the process that reads them to say.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return list(_demonstrations(config, seeds))


def _demonstrations(config: TabletopConfig, seeds: Sequence[int]) -> Iterator[Demonstration]:
    env = config.make_env()
    for seed in seeds:
        yield demonstrate(env, seed, config.noise)
        if config.every_target:
            drawn = next(thing.name for thing in env.scene.things if thing.role == "target")
            others = [name for name in env.task.prompts(env.scene) if name != drawn]
            for target in others:
                yield demonstrate(env, seed, config.noise, target)
