"""How long the rest of many like items will take, by the mean time of those that are done.

pace = Pace(40)
pace.done()                # "3 of 40; about 12 min left", after the third one
"""

from __future__ import annotations

import time
from collections.abc import Callable


class Pace:
    """Counts items.

    Args:
      total: how many there are.
      clock: seconds.
    """

    def __init__(self, total: int, *, clock: Callable[[], float] = time.monotonic):
        self.total, self.count = total, 0
        self._clock, self._started = clock, clock()

    def done(self) -> str:
        """Counts one more; returns its number, the total and, before the last, the time left."""
        self.count += 1
        words = f"{self.count} of {self.total}"
        if self.count >= self.total:
            return words
        mean = (self._clock() - self._started) / self.count
        return f"{words}; about {_words(mean * (self.total - self.count))} left"


def _words(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"
