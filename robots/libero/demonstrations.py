"""Demonstrations of a scripted controller in LIBERO's pick-and-place tasks.

Rendering takes ten times as long as simulating. So an episode is simulated without pictures first,
and only the frames that are kept are rendered, from the states of the simulator.

Axis names: t kept frames, h w pixels.

    env = LiberoEnv("libero_object", size=128)
    demo = demonstrate(env, env.tasks[0], seed=0, episode=0, keep_every=4)
    demo.success, demo.frames["observation.images.image"].shape      # True, (36, 128, 128, 3)
"""

from __future__ import annotations

import dataclasses

import numpy as np

from attn_jax.core.errors import ConfigError
from attn_jax.core.typing import Float, NumpyArray
from robots.dataset import Demonstration
from robots.interface import EnvTask
from robots.libero.env import CAMERAS, LiberoEnv

_GAIN = 12.0  # of the position's error, actions per metre
_ARRIVED_M = 0.01
_OPEN, _CLOSED = -1.0, 1.0


@dataclasses.dataclass(frozen=True)
class _Phase:
    """Goes to a height above where a thing was when the phase began, or waits.

    Attributes:
      above: `target` or `place`; empty stays above the point of the phase before.
      height_m: of the end effector above that thing.
      gripper: `_OPEN` or `_CLOSED`.
      wait: steps that it takes at least.
      patience: steps after which it ends, wherever the hand is.
    """

    above: str
    height_m: float
    gripper: float
    wait: int = 0
    patience: int = 60


_PHASES = (
    _Phase("target", 0.12, _OPEN),
    _Phase("target", 0.005, _OPEN),
    _Phase("", 0.005, _CLOSED, wait=12),
    _Phase("", 0.22, _CLOSED),
    _Phase("place", 0.26, _CLOSED),
    _Phase("place", 0.16, _CLOSED),
    _Phase("", 0.16, _OPEN, wait=25),
)


class Expert:
    """A proportional controller of the end effector's position, for one episode.

    Args:
      env: after `reset`.

    Raises:
      ConfigError: the task does not put one thing somewhere.
    """

    def __init__(self, env: LiberoEnv):
        self._env = env
        self._things = dict(zip(("target", "place"), env.of_interest, strict=False))
        if len(self._things) != 2:
            raise ConfigError(
                f"the scripted controller only puts one thing somewhere; this task is about "
                f"{', '.join(env.of_interest) or 'nothing'}",
                fix="Use tasks of libero_object",
            )
        self._phase = -1
        self._next_phase()

    def _next_phase(self) -> None:
        self._phase += 1
        self._steps = 0
        phase = _PHASES[self._phase]
        if phase.above:
            self._base = self._env.position(self._things[phase.above]).copy()
        self._goal = self._base + np.array([0, 0, phase.height_m])

    def act(self) -> Float[NumpyArray, "7"]:
        """The next action; after the last phase it stays where it is, open."""
        phase = _PHASES[self._phase]
        error = self._goal - self._env.position("gripper")
        arrived = bool(np.linalg.norm(error) < _ARRIVED_M)
        done = self._steps >= phase.wait if phase.wait else arrived or self._steps >= phase.patience
        if done and self._phase + 1 < len(_PHASES):
            self._next_phase()
            phase = _PHASES[self._phase]
            error = self._goal - self._env.position("gripper")
        self._steps += 1
        action = np.zeros(7)
        action[:3] = np.clip(_GAIN * error, -1, 1)
        action[6] = phase.gripper
        return action.astype(np.float32)


def demonstrate(
    env: LiberoEnv,
    task: EnvTask,
    *,
    seed: int,
    episode: int,
    keep_every: int = 1,
    depth: bool = False,
) -> Demonstration:
    """Lets the controller act for one episode.

    Args:
      env: whose pictures are recorded.
      task: one of `env.tasks`.
      seed: of the simulator.
      episode: number of the start state.
      keep_every: distance of the frames that are kept, in steps; the action of a kept frame is
        that of its own step.
      depth: render the depth of every kept frame, too.

    Returns:
      Frames in LeRobot's names for LIBERO, and ids of objects in both pictures.

    Raises:
      ConfigError: not a task for the controller, or no frames to keep.
    """
    if keep_every < 1:
        raise ConfigError(f"keep every {keep_every}th frame", fix="Use 1 or more")
    prompt = env.reset(task, seed=seed, episode=episode)
    expert = Expert(env)
    states, actions = [], []
    outcome = None
    while outcome is None or not outcome.done:
        states.append(env.simulator_state())
        actions.append(expert.act())
        outcome = env.step(actions[-1])
    others = list(env.other_prompts)
    columns: dict[str, list[NumpyArray]] = {}
    masks: dict[str, list[NumpyArray]] = {camera: [] for camera in CAMERAS}
    objects = env.objects()
    depths: dict[str, list[NumpyArray]] = {}
    poses: dict[str, list[NumpyArray]] = {camera: [] for camera in CAMERAS}
    for state, action in zip(states[::keep_every], actions[::keep_every], strict=True):
        env.restore(state)
        view, objects = env.view(), env.objects()
        row = {f"observation.images.{name}": picture for name, picture in view.images.items()}
        row |= {"observation.state": view.state, "action": action}
        for key, value in row.items():
            columns.setdefault(key, []).append(value)
        for camera, of_objects in objects.masks.items():
            ids = (of_objects * np.arange(1, len(of_objects) + 1)[:, None, None]).max(0)
            masks[camera].append(ids.astype(np.uint8))
            poses[camera].append(env.camera(camera)[1])
        for camera, metres in (env.depth() if depth else {}).items():
            depths.setdefault(camera, []).append(metres)
    return Demonstration(
        frames={key: np.stack(rows) for key, rows in columns.items()},
        masks={camera: np.stack(rows) for camera, rows in masks.items()},
        views={"depth": {c: np.stack(rows) for c, rows in depths.items()}} if depth else {},
        poses={camera: np.stack(rows) for camera, rows in poses.items()},
        intrinsics={camera: env.camera(camera)[0] for camera in CAMERAS},
        info={
            "seed": seed,
            "task": task.name,
            "prompt": prompt,
            "success": outcome.success,
            "length": len(states[::keep_every]),
            "steps": len(states),
            "start_state": episode,
            "objects": list(objects.names),
            "roles": dict(objects.roles),
            "other_prompts": others,
        },
    )
