"""Scene of the tabletop: things of a shape and a colour, the gripper, and their MJCF text.

World frame: metres, z up, the table's top is z = 0, the robot reaches from above. x points from the
far edge of the table to the exterior camera `front`, y to the right of its picture. The hand's
frame has its origin between the fingertips and is parallel to the world's when the gripper points
straight down; the fingers close along its y axis.

    scene = Scene((Thing("cube", "red", (0.0, 0.1)), Thing("ball", "blue", (0.0, -0.1))))
    model = mujoco.MjModel.from_xml_string(scene.mjcf())
"""

from __future__ import annotations

import dataclasses
import math

from attn_jax.core.errors import ConfigError

#: Colour name -> RGB, each 0 to 1.
COLOURS = {
    "red": (0.90, 0.10, 0.10),
    "green": (0.10, 0.70, 0.15),
    "blue": (0.10, 0.25, 0.95),
    "yellow": (0.98, 0.85, 0.08),
    "purple": (0.55, 0.15, 0.75),
    "orange": (0.98, 0.50, 0.05),
    "cyan": (0.10, 0.80, 0.85),
    "pink": (0.98, 0.45, 0.70),
}
#: Ids of pixels that show no thing: table and floor, and the gripper. Thing i has id i + 1.
BACKGROUND_ID = 0
ROBOT_ID = 255

MAX_OPENING_M = 0.08
TIMESTEP_S = 0.004
_SOCKET_HEIGHT_M = 0.03
_SOCKET_HALF_M = 0.032
_HOLE_HALF_M = 0.0125
_TRAY_HALF_M = 0.05
_TRAY_HEIGHT_M = 0.022


@dataclasses.dataclass(frozen=True)
class Geom:
    """A MuJoCo primitive: type, half sizes, and position in the frame of its body, metres."""

    kind: str
    size: tuple[float, ...]
    position: tuple[float, float, float] = (0.0, 0.0, 0.0)
    euler: tuple[float, float, float] = (0.0, 0.0, 0.0)
    shade: float = 1.0  # factor on the thing's colour


@dataclasses.dataclass(frozen=True)
class Shape:
    """What things of one shape have in common; lengths in metres.

    Attributes:
      geoms: the primitives, around the body's origin.
      rest_m: height of the origin when the thing stands on the table.
      radius_m: of a circle around the origin that holds the thing seen from above.
      symmetry_rad: turning the thing by this about z leaves it the same to the gripper; 0 means by
        any angle.
      fixed: it is part of the table and cannot be moved.
      grasp_m: height above the origin where the fingers' tips take hold.
    """

    geoms: tuple[Geom, ...]
    rest_m: float
    radius_m: float
    symmetry_rad: float = 0.0
    fixed: bool = False
    grasp_m: float = 0.0


def _frame(half: float, hole: float, height: float, shade: float) -> tuple[Geom, ...]:
    """Four walls around a square hole, standing on z = 0."""
    thick, middle = (half - hole) / 2, (half + hole) / 2
    return tuple(
        Geom("box", size, (x, y, height / 2), shade=shade)
        for size, x, y in (
            ((thick, half, height / 2), middle, 0.0),
            ((thick, half, height / 2), -middle, 0.0),
            ((hole, thick, height / 2), 0.0, middle),
            ((hole, thick, height / 2), 0.0, -middle),
        )
    )


SHAPES = {
    "cube": Shape((Geom("box", (0.021, 0.021, 0.021)),), 0.021, 0.030, math.pi / 2),
    "ball": Shape((Geom("sphere", (0.024,)),), 0.024, 0.024),
    "cylinder": Shape((Geom("cylinder", (0.019, 0.026)),), 0.026, 0.019, grasp_m=0.004),
    "stick": Shape(
        (Geom("capsule", (0.014, 0.036), euler=(0.0, 90.0, 0.0)),), 0.014, 0.050, math.pi
    ),
    "bar": Shape((Geom("box", (0.040, 0.018, 0.014)),), 0.014, 0.044, math.pi),
    "plug": Shape(
        (
            Geom("box", (0.020, 0.017, 0.020)),
            Geom("box", (0.0115, 0.0115, 0.014), (0.0, 0.0, -0.034), shade=0.6),
        ),
        _SOCKET_HEIGHT_M + 0.0205,
        0.026,
        math.pi,
    ),
    "socket": Shape(
        _frame(_SOCKET_HALF_M, _HOLE_HALF_M, _SOCKET_HEIGHT_M, 0.35), 0.0, 0.046, fixed=True
    ),
    "tray": Shape(
        (
            Geom("box", (_TRAY_HALF_M, _TRAY_HALF_M, 0.002), (0.0, 0.0, 0.002)),
            *_frame(_TRAY_HALF_M + 0.004, _TRAY_HALF_M, _TRAY_HEIGHT_M, 0.8),
        ),
        0.0,
        0.076,
        fixed=True,
    ),
}
#: Shapes that lie on the table and can be picked up.
PORTABLE = ("cube", "ball", "cylinder", "stick", "bar")


@dataclasses.dataclass(frozen=True)
class Thing:
    """One object of a scene.

    Attributes:
      shape: key of SHAPES.
      colour: key of COLOURS.
      place: (x, y) of its origin in the world, metres.
      yaw_rad: its turn about z.
      role: "target", "distractor", "place" (where the target goes) or "other".

    Raises:
      ConfigError: an unknown shape or colour.
    """

    shape: str
    colour: str
    place: tuple[float, float]
    yaw_rad: float = 0.0
    role: str = "other"

    def __post_init__(self):
        for kind, name, known in (("shape", self.shape, SHAPES), ("colour", self.colour, COLOURS)):
            if name not in known:
                raise ConfigError(
                    f"unknown {kind} {name!r}", fix=f"Known {kind}s: {', '.join(known)}"
                )

    @property
    def name(self) -> str:
        """As the prompt says it: colour and shape."""
        return f"{self.colour} {self.shape}"

    @property
    def position(self) -> tuple[float, float, float]:
        """Origin in the world at rest, metres."""
        return (*self.place, SHAPES[self.shape].rest_m)


@dataclasses.dataclass(frozen=True)
class Scene:
    """Things on the table, and where the hand starts.

    Attributes:
      things: their ids in segmentations are 1, 2, ... in this order.
      hand_position: of the hand's frame in the world, metres.
      hand_yaw_rad: turn of the hand about z.
    """

    things: tuple[Thing, ...]
    hand_position: tuple[float, float, float] = (0.0, 0.0, 0.16)
    hand_yaw_rad: float = 0.0

    def __post_init__(self):
        names = [thing.name for thing in self.things]
        if len(set(names)) < len(names):
            raise ConfigError(f"two things of one name: {', '.join(names)}")

    def mjcf(self) -> str:
        """The model as MJCF text. Bodies `thing0`, `thing1`, ...; `hand`, `left`, `right`."""
        bodies = "\n".join(_thing_xml(index, thing) for index, thing in enumerate(self.things))
        hand = _pose_xml(self.hand_position, self.hand_yaw_rad)
        return _WORLD.format(bodies=bodies, hand=hand, timestep=TIMESTEP_S)


def _thing_xml(index: int, thing: Thing) -> str:
    shape = SHAPES[thing.shape]
    rgb = COLOURS[thing.colour]
    joint = "" if shape.fixed else f'<freejoint name="thing{index}"/>'
    geoms = "".join(
        f'<geom class="thing" type="{geom.kind}" size="{_text(geom.size)}"'
        f' pos="{_text(geom.position)}" euler="{_text(geom.euler)}"'
        f"{_ROLLING if geom.kind in ('sphere', 'capsule') else ''}"
        f' rgba="{_text([channel * geom.shade for channel in rgb])} 1"/>'
        for geom in shape.geoms
    )
    pose = _pose_xml(thing.position, thing.yaw_rad)
    return f'<body name="thing{index}" {pose}>{joint}{geoms}</body>'


def _pose_xml(position: tuple[float, float, float], yaw_rad: float) -> str:
    return f'pos="{_text(position)}" euler="0 0 {math.degrees(yaw_rad)!r}"'


def _text(numbers: tuple[float, ...] | list[float]) -> str:
    return " ".join(repr(float(number)) for number in numbers)


# What is round rolls away without it.
_ROLLING = ' condim="6"'
# The hand is a free body that a weld draws to the mocap body `aim`: it follows commands, and gives
# way when it meets something. Fingers are coupled, so that a grasp does not drift sideways.
_WORLD = """
<mujoco model="tabletop">
  <compiler angle="degree" autolimits="true"/>
  <option timestep="{timestep}" integrator="implicitfast" cone="elliptic" impratio="10"/>
  <default>
    <default class="thing">
      <geom condim="4" density="400" friction="1 0.02 0.002" solref="0.01 1"/>
    </default>
    <default class="finger">
      <joint type="slide" range="0 0.04" damping="8" armature="0.02"/>
      <geom type="box" size="0.011 0.006 0.038" condim="4" friction="2 0.05 0.005" mass="0.05"
            solref="0.01 1" rgba="0.30 0.30 0.34 1"/>
      <position kp="300" ctrlrange="0 0.04" forcerange="-6 6"/>
    </default>
  </default>
  <worldbody>
    <geom name="floor" type="plane" pos="0 0 -0.4" size="4 4 0.1" rgba="0.42 0.44 0.48 1"/>
    <geom name="table" type="box" pos="0 0 -0.02" size="0.30 0.34 0.02" friction="1 0.02 0.002"
          rgba="0.86 0.84 0.80 1"/>
    {bodies}
    <body name="aim" mocap="true" {hand}/>
    <body name="hand" {hand} gravcomp="1">
      <freejoint name="hand"/>
      <geom name="palm" type="box" size="0.018 0.052 0.010" pos="0 0 0.075" mass="0.3"
            rgba="0.16 0.16 0.18 1"/>
      <geom name="stem" type="cylinder" size="0.016 0.05" pos="0 0 0.135" mass="0.1"
            contype="0" conaffinity="0" rgba="0.22 0.22 0.25 1"/>
      <body name="left" gravcomp="1">
        <joint name="left" class="finger" axis="0 1 0"/>
        <geom name="left" class="finger" pos="0 0.006 0.027"/>
      </body>
      <body name="right" gravcomp="1">
        <joint name="right" class="finger" axis="0 -1 0"/>
        <geom name="right" class="finger" pos="0 -0.006 0.027"/>
      </body>
    </body>
  </worldbody>
  <equality>
    <weld body1="aim" body2="hand" solref="0.01 1" solimp="0.98 0.99 0.001"/>
    <joint joint1="left" joint2="right" solref="0.01 1"/>
  </equality>
  <contact>
    <exclude body1="left" body2="right"/>
    <exclude body1="hand" body2="left"/>
    <exclude body1="hand" body2="right"/>
  </contact>
  <actuator>
    <position name="left" joint="left" class="finger"/>
    <position name="right" joint="right" class="finger"/>
  </actuator>
</mujoco>
"""
