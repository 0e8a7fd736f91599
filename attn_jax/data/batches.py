"""Endless batches with an exact, JSON-able position, for every kind of training data.

Axis names: b batch. A source is anything that makes a batch of sample numbers; a thread makes the
next batches while the current one is used. Of several processes each takes its rows of the same
batches.

    def assemble(positions, indices):       # (b,) places in the stream, (b,) sample numbers
        return {"image": images[indices], "index": indices}

    batches = BatchIterator(assemble, make_sampler("epoch", size=100, batch_size=8, seed=0), 100)
    batch = next(batches)
    state = batches.get_state()         # JSON; set_state continues with the very next batch
"""

from __future__ import annotations

import collections
import concurrent.futures
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from attn_jax.core.errors import ConfigError
from attn_jax.data.sampling import Sampler

# ((b,) places in the endless stream of samples, (b,) sample numbers) -> name -> array led by b
Assemble = Callable[[np.ndarray, np.ndarray], Mapping[str, Any]]


class BatchIterator:
    """Endless batches.

    The state counts only batches that were handed out, so prefetched ones are made again after
    `set_state`.

    Args:
      assemble: makes a batch; must depend on its arguments only.
      sampler: which samples form a batch.
      size: samples there are.
      unit: what a sample is, in the plural; names `size` in the state.
      rows: the rows of every batch to make; `feedback` is still about whole batches.
      prefetch: batches made ahead; 0 works without a thread.

    Raises:
      ConfigError: `prefetch` is negative.
    """

    def __init__(
        self,
        assemble: Assemble,
        sampler: Sampler,
        size: int,
        *,
        unit: str = "samples",
        rows: slice = slice(None),
        prefetch: int = 2,
    ):
        if prefetch < 0:
            raise ConfigError(f"prefetch must be at least 0, got {prefetch}")
        self._assemble = assemble
        self._sampler = sampler
        self._size = size
        self._unit = unit
        self._rows = rows
        self._prefetch = prefetch
        self._batch = 0
        self._ahead: collections.deque[concurrent.futures.Future] = collections.deque()
        self._worker = concurrent.futures.ThreadPoolExecutor(1, unit) if prefetch else None

    @property
    def wants_feedback(self) -> bool:
        """Whether sampling depends on `feedback`; if not, calling it does nothing."""
        return self._sampler.wants_feedback

    def __iter__(self) -> BatchIterator:
        return self

    def __next__(self) -> Mapping[str, Any]:
        self._sampler.begin(self._batch)
        if self._worker is None:
            batch = self._assemble(*self._draw(self._batch))
        else:
            self._fill()
            batch = self._ahead.popleft().result()
        self._batch += 1
        return batch

    def _fill(self) -> None:
        # Indices are drawn here, on the caller's thread, and never beyond the batch at which the
        # sampler will look at new losses: what is drawn cannot depend on how fast the worker is.
        assert self._worker is not None
        end = min(self._batch + 1 + self._prefetch, self._sampler.known_until(self._batch))
        for number in range(self._batch + len(self._ahead), end):
            self._ahead.append(self._worker.submit(self._assemble, *self._draw(number)))

    def _draw(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        indices = self._sampler.draw(number)
        positions = number * len(indices) + np.arange(len(indices))
        return positions[self._rows], indices[self._rows]

    def feedback(self, indices: np.ndarray, per_sample_loss: np.ndarray) -> None:
        """Tells the losses of the samples of a batch; kept for loss-weighted sampling.

        Args:
          indices: (b,) `index` of the batch, the rows of other processes included.
          per_sample_loss: (b,) losses; non-finite ones are ignored.
        """
        self._sampler.feedback(np.asarray(indices), np.asarray(per_sample_loss))

    def get_state(self) -> dict[str, Any]:
        """State before the next batch, as plain JSON types."""
        return {"batch": self._batch, self._unit: self._size, **self._sampler.get_state()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continues exactly where `get_state` was called.

        Raises:
          ConfigError: the state belongs to other data or another kind of sampling.
        """
        if state.get(self._unit) != self._size:
            raise ConfigError(
                f"data state is of {state.get(self._unit)} {self._unit}, the source has "
                f"{self._size}",
                fix="Resume with the data that the run was started with",
            )
        self._sampler.set_state(state)
        self._batch = int(state["batch"])
        self._ahead.clear()

    def close(self) -> None:
        """Stops the worker thread."""
        if self._worker is not None:
            self._worker.shutdown(cancel_futures=True)
