"""The bar writes to standard error when wanted and is silent otherwise."""

from attn_jax.train.progress import ProgressBar
from tests import testing


def test_silent_when_not_a_terminal(capsys):
    with ProgressBar(10) as bar:
        bar.update(step=3, samples_per_s=1.0, values={"loss": 1.0})
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


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
