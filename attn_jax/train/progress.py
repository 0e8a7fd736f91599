"""A progress bar with rate and time left; nothing when the output is not a terminal.

Usage:

    with ProgressBar(total_steps=1000, enabled=None) as bar:
        bar.update(step=10, samples_per_s=84.0, values={"loss": 0.5})
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

import rich.console
import rich.progress

_REMEMBERED_S = 3600.0


class ProgressBar:
    """Bar on standard error.

    Args:
      total_steps: where the bar ends; None shows a pulse instead of a time left.
      enabled: None = only on a terminal.
    """

    def __init__(self, total_steps: int | None, *, enabled: bool | None = None):
        self.enabled = sys.stderr.isatty() if enabled is None else enabled
        self._bar = rich.progress.Progress(
            rich.progress.TextColumn("step {task.completed:.0f}"),
            rich.progress.BarColumn(bar_width=20),
            rich.progress.TextColumn("{task.fields[rate]}"),
            rich.progress.TimeElapsedColumn(),
            rich.progress.TextColumn("left"),
            rich.progress.TimeRemainingColumn(),
            rich.progress.TextColumn("{task.fields[values]}"),
            # rich forgets what is older, and one step may be an episode of minutes.
            speed_estimate_period=_REMEMBERED_S,
            console=rich.console.Console(stderr=True, force_terminal=self.enabled or None),
            disable=not self.enabled,
            transient=True,
        )
        self._task = self._bar.add_task("train", total=total_steps, rate="", values="")

    def __enter__(self) -> ProgressBar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(
        self,
        *,
        step: int,
        samples_per_s: float | None = None,
        values: Mapping[str, float] | None = None,
    ) -> None:
        """Moves the bar to `step`; a rate or values given before stay when left out."""
        fields: dict[str, str] = {}
        if samples_per_s is not None:
            fields["rate"] = f"{samples_per_s:.1f} samples/s"
        if values:
            fields["values"] = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        self._bar.update(self._task, completed=step, **fields)  # type: ignore[arg-type]
