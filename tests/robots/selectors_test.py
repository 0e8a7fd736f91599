import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_jax.core.errors import ConfigError, InputError
from attn_jax.data.sessions import SessionReader
from robots import selectors
from tests import testing
from tests.data import fake_sessions

SPACE = [{"action": 0}, {"action": 1}]
FRAME = np.zeros((4, 4, 3), np.uint8)


def run(select, steps):
    history = []
    for _ in range(steps):
        history.append(select(FRAME, SPACE, history))
    return [action["action"] for action in history]


def test_constant():
    assert run(selectors.constant({"action": 1}), 3) == [1, 1, 1]


def test_sequence_cycles_with_the_history():
    select = selectors.sequence([{"action": 1}, {"action": 1}, {"action": 0}])
    assert run(select, 7) == [1, 1, 0, 1, 1, 0, 1]
    assert run(select, 2) == [1, 1]  # a new episode begins at the start
    with pytest.raises(ConfigError):
        selectors.sequence([])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("always_stay", [0, 0, 0, 0, 0]),
        ("always_move", [1, 1, 1, 1, 1]),
        ("alternate", [0, 1, 0, 1, 0]),
        ("double_move", [1, 1, 0, 1, 1]),
        ("triple_move", [1, 1, 1, 0, 1]),
    ],
)
def test_predefined(name, expected):
    assert run(selectors.make_selector(name, SPACE, seed=0), 5) == expected


@given(st.integers(1, 4), st.integers(0, 4), st.integers(0, 99))
def test_random_durations(shortest, extra, seed):
    actions = run(selectors.random_duration(shortest, shortest + extra, seed), 300)
    runs = [len(list(group)) for _, group in itertools.groupby(actions)][:-1]
    assert min(runs, default=shortest) >= shortest  # equal neighbours may join
    assert actions == run(selectors.random_duration(shortest, shortest + extra, seed), 300)


def test_random_durations_cover_actions_and_lengths():
    actions = run(selectors.random_duration(1, 3, 0), 2000)
    assert 0.4 < np.mean(actions) < 0.6
    pairs = set(itertools.pairwise(actions))
    assert pairs == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert actions != run(selectors.random_duration(1, 3, 1), 2000)


@pytest.mark.parametrize(("shortest", "longest"), [(0, 3), (4, 3)])
def test_bad_durations(shortest, longest):
    with pytest.raises(ConfigError):
        selectors.random_duration(shortest, longest)


def test_recorded_actions_then_the_end(tmp_path):
    session = fake_sessions.write_session(tmp_path / "s", 3, episodes=2)
    select = selectors.recorded(SessionReader(session))
    assert run(select, 4) == [0, 1, 0, 1]
    with pytest.raises(StopIteration):
        select(FRAME, SPACE, [])
    only_moves = selectors.recorded(SessionReader(session), lambda action: action["action"] == 1)
    assert run(only_moves, 2) == [1, 1]


def test_foreign_selectors():
    select = selectors.from_features_function(lambda features=None: ({"action": 1}, []))
    assert run(select, 2) == [1, 1]


def test_unknown_name():
    with pytest.raises(ConfigError, match="random_duration, constant, sequence, recorded, always"):
        selectors.make_selector("greedy", SPACE, seed=0)


def test_by_name(tmp_path):
    session = fake_sessions.write_session(tmp_path / "s", 4)

    def chosen(name, **options):
        return run(selectors.make_selector(name, SPACE, seed=3, **options), 3)

    assert chosen("constant", action=1) == [1, 1, 1]
    assert chosen("sequence", actions=(0, 1)) == [0, 1, 0]
    assert chosen("recorded", session=str(session)) == [0, 1, 0]
    expected = run(selectors.random_duration(2, 4, 3), 3)
    assert chosen("random_duration", min_steps=2, max_steps=4) == expected


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sequence", {}, "at least one action.*selector.actions"),
        ("sequence", {"actions": (1, 2)}, r"sequence: unknown action {'action': 2}.*space is"),
        ("constant", {"action": 7}, r"constant: unknown action {'action': 7}"),
        ("recorded", {}, "needs a session.*selector.session"),
        ("recorded", {"session": "SESSION"}, r"unknown action {'action': 1}"),
        ("recorded", {"session": "nowhere"}, "not a session"),
    ],
)
def test_bad_choices_end_before_the_recording(tmp_path, name, options, message):
    session = fake_sessions.write_session(tmp_path / "s", 4)
    options = {key: str(session) if v == "SESSION" else v for key, v in options.items()}
    space = SPACE[:1] if name == "recorded" else SPACE  # the session holds an action more
    with pytest.raises(InputError, match=message):
        selectors.make_selector(name, space, seed=0, **options)


if __name__ == "__main__":
    testing.main()
