"""Stopping from outside: signals, and agreement between the processes of one run.

Usage:

    with Interrupts() as interrupts:
        while not interrupts.reason():
            ...
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from attn_jax.train.sharding import gather_text
from attn_jax.train.stopping import StopKind, StopReason

_KINDS = tuple(StopKind)


class Interrupts:
    """Turns SIGTERM and SIGINT into a reason to stop after the current step.

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

    def reason(self) -> StopReason | None:
        """Why to stop, or None."""
        if self.signal_number is None:
            return None
        name = signal.Signals(self.signal_number).name
        return StopReason(StopKind.INTERRUPTED, f"received {name}")

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.signal_number = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}


def agree(reason: StopReason | None) -> StopReason | None:
    """The reason of the first process that has one; all processes must call this together."""
    if jax.process_count() == 1:
        return reason
    code = -1 if reason is None else _KINDS.index(reason.kind)
    codes = np.asarray(multihost_utils.process_allgather(np.asarray(code, np.int32))).reshape(-1)
    if (codes < 0).all():
        return None
    details = gather_text("" if reason is None else reason.detail)
    first = int(np.argmax(codes >= 0))
    return StopReason(_KINDS[int(codes[first])], details[first])
