"""Action selectors: what a robot does next while it is recorded.

Every selector is a function `select(observation, action_space, history) -> action`. `observation`
is the current frame (h, w, 3), `history` the actions so far. `StopIteration` ends a recording.

    select = random_duration(min_steps=1, max_steps=3, seed=0)
    action = select(frame, robot.action_space, ())
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from attn_jax.core.errors import ConfigError, SessionError
from attn_jax.data.sessions import ACTION, SessionReader, action_index

Action = Mapping[str, Any]

SEQUENCES = {
    "always_stay": (0,),
    "always_move": (1,),
    "alternate": (0, 1),
    "double_move": (1, 1, 0),
    "triple_move": (1, 1, 1, 0),
}

_STREAM = 1  # keeps a selector's draws apart from others that use the same seed


class Selector(Protocol):
    """Chooses the next action."""

    def __call__(
        self, observation: np.ndarray, action_space: Sequence[Action], history: Sequence[Action]
    ) -> Action:
        """The next action; raises StopIteration when there is none."""
        ...


def constant(action: Action) -> Selector:
    """Always the same action."""
    return sequence([action])


def sequence(actions: Sequence[Action]) -> Selector:
    """The given actions over and over; raises ConfigError when there are none."""
    if not actions:
        raise ConfigError(
            "a sequence needs at least one action", fix="For example --config.selector.actions=1,0"
        )
    return lambda observation, action_space, history: actions[len(history) % len(actions)]


def random_duration(min_steps: int = 5, max_steps: int = 15, seed: int = 0) -> Selector:
    """Draws an action and how long to hold it.

    The action comes evenly from the action space, the number of steps evenly from `min_steps` to
    `max_steps`, both included.

    Raises:
      ConfigError: min_steps < 1 or max_steps < min_steps.
    """
    if min_steps < 1 or max_steps < min_steps:
        raise ConfigError(
            f"durations must be 1 <= min_steps <= max_steps, got {min_steps} and {max_steps}"
        )
    generator = np.random.default_rng([seed, _STREAM])
    current: Action = {}
    remaining = 0

    def select(
        observation: np.ndarray, action_space: Sequence[Action], history: Sequence[Action]
    ) -> Action:
        nonlocal current, remaining
        if remaining == 0:
            current = action_space[int(generator.integers(len(action_space)))]
            remaining = int(generator.integers(min_steps, max_steps + 1))
        remaining -= 1
        return current

    return select


def recorded(
    reader: SessionReader, action_filter: Callable[[Action], bool] | None = None
) -> Selector:
    """The actions of a recording in their order, then StopIteration.

    Args:
      reader: read by nobody else, because frames are skipped.
      action_filter: keeps the actions for which it is true.
    """

    def select(
        observation: np.ndarray, action_space: Sequence[Action], history: Sequence[Action]
    ) -> Action:
        while (event := reader.peek()) is not None:
            reader.seek(event.step + 1)
            if event.type == ACTION and (action_filter is None or action_filter(event.data)):
                return dict(event.data)
        raise StopIteration("the recording has no further action")

    return select


def from_features_function(function: Callable[..., tuple[Action, list[Any]]]) -> Selector:
    """Wraps a foreign selector `f(features=None) -> (action, extras)`; the extras are dropped."""
    return lambda observation, action_space, history: function(features=None)[0]


def make_selector(
    name: str,
    action_space: Sequence[Action],
    *,
    seed: int,
    min_steps: int = 5,
    max_steps: int = 15,
    action: int = 0,
    actions: Sequence[int] = (),
    session: str = "",
) -> Selector:
    """Selector by name.

    Args:
      name: `random_duration`, `constant`, `sequence`, `recorded` or a name of `SEQUENCES`.
      action_space: of the robot.
      seed: of `random_duration`.
      min_steps: of `random_duration`.
      max_steps: of `random_duration`.
      action: code that `constant` repeats.
      actions: codes that `sequence` repeats.
      session: folder whose actions `recorded` takes.

    Raises:
      ConfigError: unknown name, bad value, or an action that the robot does not have.
      SessionError: the session is missing or corrupt.
    """
    known = ("random_duration", "constant", "sequence", "recorded", *SEQUENCES)
    if name not in known:
        raise ConfigError(f"unknown selector {name!r}", fix=f"Use one of {', '.join(known)}")
    if name == "random_duration":
        return random_duration(min_steps, max_steps, seed)
    if name == "recorded":
        if not session:
            raise ConfigError(
                "selector recorded needs a session", fix="Give --config.selector.session=FOLDER"
            )
        reader = SessionReader(session)
        _require([e.data for e in reader.events if e.type == ACTION], action_space, session)
        return recorded(reader)
    codes = {"constant": (action,), "sequence": tuple(actions)} | SEQUENCES
    chosen = [{"action": code} for code in codes[name]]
    _require(chosen, action_space, f"selector {name}")
    return sequence(chosen)


def _require(actions: Sequence[Action], action_space: Sequence[Action], where: str) -> None:
    """Raises ConfigError for an action that is not in the space."""
    for action in actions:
        try:
            action_index(action, action_space)
        except SessionError as error:
            raise ConfigError(error.what, where=where, fix=error.fix) from error
