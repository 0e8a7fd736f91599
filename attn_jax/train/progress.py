"""A progress bar with rate and time left; nothing when the output is not a terminal.

Usage:

    with ProgressBar(total_steps=1000, enabled=None) as bar:
        bar.update(step=10, seconds_left=90.0, samples_per_s=84.0, values={"loss": 0.5})
"""

from __future__ import annotations

import datetime
import sys
import time
from collections.abc import Callable, Mapping

import rich.console
import rich.progress
import rich.text


class _TimeLeft(rich.progress.ProgressColumn):
    """Time until the steps are done or the time is up, whichever is nearer."""

    def render(self, task: rich.progress.Task) -> rich.text.Text:
        limits = (task.time_remaining, task.fields["seconds_left"])
        known = [seconds for seconds in limits if seconds is not None]
        if not known:
            return rich.text.Text("-:--:--")
        return rich.text.Text(str(datetime.timedelta(seconds=max(0, int(min(known))))))


_REMEMBERED_S = 3600.0


class ProgressBar:
    """Bar on standard error.

    Args:
      total_steps: where the bar ends; None shows a pulse.
      enabled: None = only on a terminal.
      clock: seconds, by which the speed of steps is measured.
    """

    def __init__(
        self,
        total_steps: int | None,
        *,
        enabled: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.enabled = sys.stderr.isatty() if enabled is None else enabled
        self._bar = rich.progress.Progress(
            rich.progress.TextColumn("step {task.completed:.0f}"),
            rich.progress.BarColumn(bar_width=20),
            rich.progress.TextColumn("{task.fields[rate]}"),
            rich.progress.TimeElapsedColumn(),
            rich.progress.TextColumn("left"),
            _TimeLeft(),
            rich.progress.TextColumn("{task.fields[values]}"),
            # rich forgets what is older, and one step may be an episode of minutes.
            speed_estimate_period=_REMEMBERED_S,
            console=rich.console.Console(stderr=True, force_terminal=self.enabled or None),
            disable=not self.enabled,
            transient=True,
            get_time=clock,
        )
        self._task = self._bar.add_task(
            "train", total=total_steps, rate="", values="", seconds_left=None
        )

    def __enter__(self) -> ProgressBar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(
        self,
        *,
        step: int,
        seconds_left: float | None = None,
        samples_per_s: float | None = None,
        values: Mapping[str, float] | None = None,
    ) -> None:
        """Moves the bar to `step`; a rate or values given before stay when left out.

        `seconds_left` is what a time limit leaves, None without one.
        """
        fields: dict[str, str | float | None] = {"seconds_left": seconds_left}
        if samples_per_s is not None:
            fields["rate"] = f"{samples_per_s:.1f} samples/s"
        if values:
            fields["values"] = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        self._bar.update(self._task, completed=step, **fields)  # type: ignore[arg-type]
