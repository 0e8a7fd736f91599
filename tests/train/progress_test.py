"""The bar writes to standard error when wanted and is silent otherwise."""

import re

import pytest

from attn_jax.train.progress import ProgressBar
from tests import testing


def test_silent_when_not_a_terminal(capsys):
    with ProgressBar(10) as bar:
        bar.update(step=3, samples_per_s=1.0, values={"loss": 1.0})
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


@pytest.mark.parametrize(
    ("total_steps", "seconds_left", "shown"),
    [
        (100, 300.0, "left 0:03:00"),  # 90 steps at 2 s each
        (100, 75.9, "left 0:01:15"),
        (100, None, "left 0:03:00"),
        (None, 75.0, "left 0:01:15"),
        (100, -1.0, "left 0:00:00"),  # until the loop sees it
        (None, None, "left -:--:--"),
    ],
)
def test_time_left_is_that_of_the_nearer_limit(capsys, total_steps, seconds_left, shown):
    now = 0.0
    with ProgressBar(total_steps, enabled=True, clock=lambda: now) as bar:
        for step in range(11):
            bar.update(step=step, seconds_left=seconds_left)
            now += 2.0
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().err)
    assert shown in " ".join(plain.split())


def test_shows_rate_and_values(capsys):
    with ProgressBar(10, enabled=True) as bar:
        bar.update(step=4, samples_per_s=12.34, values={"loss": 0.125})
        bar.update(step=5)  # keeps what it showed
    captured = capsys.readouterr()
    assert captured.out == ""
    for text in ("step 5", "12.3 samples/s", "loss 0.125"):
        assert text in captured.err, captured.err


def test_steps_of_minutes_have_a_time_left():
    bar = ProgressBar(10, enabled=False)
    now = 0.0
    bar._bar.get_time = lambda: now
    for step in range(1, 5):
        now += 60.0
        bar.update(step=step)
    assert bar._bar.tasks[0].time_remaining == 6 * 60


if __name__ == "__main__":
    testing.main()
