"""Language tasks on the table: what lies there, what the prompt says, and when it is done.

| task    | prompt                            | done when                                        |
|---------|-----------------------------------|--------------------------------------------------|
| pick    | find the red cube and pick it up  | held between the fingers, 7 cm above its rest    |
| unplug  | unplug the red plug               | held, 6 cm above its rest in the socket          |
| place   | put the red cube in the blue tray | lies inside the tray, let go                     |

Only the prompt says which thing is meant: target and distractors are drawn alike.

    task = TaskConfig("pick", distractors=2)
    scene = task.sample(np.random.default_rng(0))
    task.prompt(scene)                                # "find the red cube and pick it up"
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from attn_jax.core.errors import ConfigError
from robots.tabletop.scene import COLOURS, PORTABLE, SHAPES, Scene, Thing

#: Task name -> steps after which an episode is cut off.
TASKS = {"pick": 60, "unplug": 60, "place": 90}
MAX_DISTRACTORS = 3

_LIFT_M = 0.07
_PROMPTS = {
    "pick": "find the {target} and pick it up",
    "unplug": "unplug the {target}",
    "place": "put the {target} in the {place}",
}
_UNPLUG_M = 0.06  # 28 mm free the plug
# Where things may stand: (x, y) from, to, in metres; seen well by both cameras.
_AREA = ((-0.09, -0.12), (0.10, 0.12))
_NEAR = ((-0.01, -0.12), (0.10, 0.12))  # in front of the trays
_GAP_M = 0.035  # between the circles around two things: a finger fits in with room to spare
_SOCKET_RADIUS_M = 0.036  # the fingers stay above the sockets
_TURN_RAD = 0.35
_HAND_M = (0.0, 0.0, 0.16)
_HAND_NOISE_M = (0.02, 0.03, 0.015)
_HAND_TURN_RAD = 0.1


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """Which task, and from what its scenes are drawn.

    Attributes:
      name: key of TASKS.
      colours: of portable things, plugs and trays.
      shapes: of portable things.
      distractors: things of the target's kind beside it, 0 to 3. In `place` there are also as many
        trays beside the one that is meant, at most 1.

    Raises:
      ConfigError: an unknown name, a number that is not whole, or too few names for distinct
        things.
    """

    name: str = "pick"
    colours: tuple[str, ...] = ("red", "green", "blue", "yellow")
    shapes: tuple[str, ...] = ("cube", "ball", "cylinder")
    distractors: int = 1

    def __post_init__(self):
        if self.name not in TASKS:
            raise ConfigError(f"unknown task {self.name!r}", fix=f"Use one of {', '.join(TASKS)}")
        for field, names, known in (
            ("colours", self.colours, COLOURS),
            ("shapes", self.shapes, PORTABLE),
        ):
            if not names or len(set(names)) < len(names) or set(names) - set(known):
                raise ConfigError(
                    f"cannot draw from {list(names)}",
                    where=field,
                    fix=f"Name one or more of {', '.join(known)}, each once",
                )
        if not is_whole(self.distractors):
            raise ConfigError(
                f"{self.distractors!r} distractors", where="distractors", fix="Use a whole number"
            )
        kinds = len(self.colours) * (1 if self.name == "unplug" else len(self.shapes))
        trays = len(self.colours) > 1 or not self.distractors or self.name != "place"
        if not 0 <= self.distractors <= MAX_DISTRACTORS or self.distractors >= kinds or not trays:
            raise ConfigError(
                f"{self.distractors} distractors",
                where="distractors",
                fix=f"Use 0 to {MAX_DISTRACTORS}, and more colours or shapes than things",
            )

    @property
    def max_steps(self) -> int:
        """Steps after which an episode is cut off."""
        return TASKS[self.name]

    def sample(self, random: np.random.Generator) -> Scene:
        """Draws a scene; the first thing is not more often the target than any other."""
        things = {"pick": self._pick, "unplug": self._unplug, "place": self._place}[self.name]
        noise = random.uniform(-1, 1, 4)
        hand = np.add(_HAND_M, np.multiply(_HAND_NOISE_M, noise[:3]))
        x, y, z = (float(value) for value in hand)
        return Scene(tuple(things(random)), (x, y, z), float(_HAND_TURN_RAD * noise[3]))

    def _pick(self, random: np.random.Generator, area=_AREA) -> list[Thing]:
        kinds = list(itertools.product(self.shapes, self.colours))
        chosen = [kinds[i] for i in random.choice(len(kinds), self.distractors + 1, replace=False)]
        target = int(random.integers(len(chosen)))
        radii = [SHAPES[shape].radius_m for shape, _ in chosen]
        places = scatter(random, radii, area)
        return [
            Thing(shape, colour, place, turn(random), "target" if i == target else "distractor")
            for i, ((shape, colour), place) in enumerate(zip(chosen, places, strict=True))
        ]

    def _unplug(self, random: np.random.Generator) -> list[Thing]:
        count = self.distractors + 1
        colours = [self.colours[i] for i in random.choice(len(self.colours), count, replace=False)]
        target = int(random.integers(count))
        places = scatter(random, [_SOCKET_RADIUS_M] * count, _AREA)
        things = []
        for i, (colour, place) in enumerate(zip(colours, places, strict=True)):
            yaw = turn(random)
            role = "target" if i == target else "distractor"
            things.append(Thing("plug", colour, place, yaw, role))
            things.append(Thing("socket", colour, place, yaw, "other"))
        return things

    def _place(self, random: np.random.Generator) -> list[Thing]:
        things = self._pick(random, _NEAR)
        count = min(self.distractors, 1) + 1
        colours = [self.colours[i] for i in random.choice(len(self.colours), count, replace=False)]
        chosen = int(random.integers(count))
        columns = [-0.075, 0.075] if count == 2 else [0.0]
        for i, (colour, y) in enumerate(zip(colours, columns, strict=True)):
            x, shift = random.uniform(-0.015, 0.0), random.uniform(-0.01, 0.01)
            role = "place" if i == chosen else "other"
            things.append(Thing("tray", colour, (-0.11 + float(x), y + float(shift)), 0.0, role))
        return things

    @property
    def lift_m(self) -> float:
        """How far above its rest a thing that is held counts as lifted, metres."""
        return _UNPLUG_M if self.name == "unplug" else _LIFT_M

    def check(self, scene: Scene) -> None:
        """Raises ConfigError for a scene without the roles that the task needs."""
        roles = [thing.role for thing in scene.things]
        needed = ("target", "place") if self.name == "place" else ("target",)
        if any(roles.count(role) != 1 for role in needed):
            raise ConfigError(
                f"a scene for {self.name!r} with the roles {roles}",
                fix=f"Give one thing each the role {' and '.join(needed)}",
            )

    def prompt(self, scene: Scene, target: str | None = None) -> str:
        """The instruction; with `target`, the one for another thing of the same scene."""
        names = {thing.role: thing.name for thing in scene.things}
        return _PROMPTS[self.name].format(
            target=target or names["target"], place=names.get("place")
        )

    def prompts(self, scene: Scene) -> dict[str, str]:
        """Name of every thing that could be meant -> the instruction that means it."""
        meant = [thing.name for thing in scene.things if thing.role in ("target", "distractor")]
        return {name: self.prompt(scene, name) for name in meant}

    def retarget(self, scene: Scene, target: str) -> Scene:
        """The same scene with another target.

        Raises:
          ConfigError: the scene has no such thing that could be meant.
        """
        if target not in (meant := self.prompts(scene)):
            raise ConfigError(f"no {target!r} to ask for", fix=f"There are: {', '.join(meant)}")
        things = [
            dataclasses.replace(thing, role="target" if thing.name == target else "distractor")
            if thing.name in meant
            else thing
            for thing in scene.things
        ]
        return dataclasses.replace(scene, things=tuple(things))

    def done(self, scene: Scene, held: str | None, positions: Sequence[Sequence[float]]) -> bool:
        """Whether the task is fulfilled.

        Args:
          scene: the scene as drawn, with roles.
          held: name of the thing between the fingers, or None.
          positions: (x, y, z) of every thing's origin now, metres in the world.
        """
        roles = {thing.role: i for i, thing in enumerate(scene.things)}
        target = scene.things[roles["target"]]
        x, y, z = positions[roles["target"]]
        height = z - target.position[2]
        if self.name != "place":
            return held == target.name and height >= self.lift_m
        tray = scene.things[roles["place"]].position
        inside = max(abs(x - tray[0]), abs(y - tray[1])) < 0.05
        return held != target.name and inside and height < 0.015


def is_whole(value: object) -> bool:
    """Whether a value is a whole number; true and false are none."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def turn(random: np.random.Generator) -> float:
    """A small turn about z, radians."""
    return float(random.uniform(-_TURN_RAD, _TURN_RAD))


def scatter(
    random: np.random.Generator, radii: Sequence[float], area: tuple[tuple[float, float], ...]
) -> list[tuple[float, float]]:
    """Places circles in a rectangle, 35 mm apart, or nearer where so many do not fit.

    Args:
      random: source of all numbers.
      radii: of the circles, metres.
      area: ((x, y) of the lowest, (x, y) of the highest centre), metres.

    Returns:
      (x, y) of every centre.

    Raises:
      ConfigError: they do not fit.
    """
    low, high = area
    for attempt in range(400):
        gap = _GAP_M * 0.98 ** max(0, attempt - 40)
        places: list[tuple[float, float]] = []
        while len(places) < len(radii):
            tries = random.uniform(low, high, (20, 2))
            others = np.array(places).reshape(-1, 2)
            distance = np.linalg.norm(tries[:, None] - others, axis=-1)
            needed = radii[len(places)] + np.array(radii[: len(places)]) + gap
            fits = (distance > needed).all(axis=1)
            if not fits.any():
                break
            x, y = tries[fits.argmax()]
            places.append((float(x), float(y)))
        else:
            return places
    raise ConfigError(
        f"{len(radii)} things do not fit on the table",
        fix="Use fewer distractors or smaller shapes",
    )
