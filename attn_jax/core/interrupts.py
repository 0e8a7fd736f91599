"""Signals that wait until a step is whole.

Usage:

    with Interrupts() as interrupts:
        while interrupts.signal_name is None:
            ...
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class Interrupts:
    """Keeps SIGTERM and SIGINT for the end of the current step.

    A second signal acts at once, as if nothing were installed. Outside the main thread, where
    Python allows no handlers, nothing is installed. The handlers of before come back at the end.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    @property
    def signal_name(self) -> str | None:
        """SIGTERM or SIGINT once it came, else None."""
        return None if self.signal_number is None else signal.Signals(self.signal_number).name

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.signal_number = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
