"""Input pipeline: canvases assembled on the fly from frames that are stored once.

Axis names: b batch, H W of a canvas. A batch is a dict of numpy arrays:

| key         | shape        | type  | meaning                                             |
|-------------|--------------|-------|-----------------------------------------------------|
| canvas      | (b, H, W, 3) | uint8 | frames and action stripes, the last frame included  |
| index       | (b,)         | int32 | canvas number in the source                         |
| last_action | (b,)         | int32 | position in `action_space` of the last stripe       |
| valid       | (b,)         | bool  | `full_pass` only: False on padding                  |

    source = CanvasSource(load_frames("sessions/dot"), CanvasGeometry((64, 64)))
    batches = make_iterator(source, batch_size=8, seed=0)
    batch = next(batches)
    state = batches.get_state()         # JSON; set_state continues with the very next batch
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from attn_jax.core.canvas import CanvasGeometry
from attn_jax.core.errors import ConfigError, SessionError
from attn_jax.core.typing import Int
from attn_jax.data import augment as augmentation
from attn_jax.data.batches import BatchIterator
from attn_jax.data.canvas import stripe_colour
from attn_jax.data.frames import FrameStore, load_frames
from attn_jax.data.sampling import make_sampler

__all__ = [
    "CanvasSource",
    "FrameStore",
    "full_pass",
    "load_frames",
    "make_iterator",
]


class CanvasSource:
    """Random access to canvases; fits grain's `RandomAccessDataSource`.

    Args:
      store: frames and actions.
      geometry: sizes of the canvas; its frame size must be the store's.
      keep: numbers of the canvases to keep, in order; default all.
      strict: see `attn_jax.data.canvas.stripe_colour`.

    Attributes:
      store, geometry: as given.
      rows: (c, K) rows of `store.frames` of every canvas, oldest first.
      actions: (c, K - 1) positions in `store.action_space` of the stripes.

    Raises:
      SessionError: frame sizes differ, an action has no colour, or no canvas can be built.
    """

    def __init__(
        self,
        store: FrameStore,
        geometry: CanvasGeometry,
        *,
        keep: Int[np.ndarray, " c"] | None = None,
        strict: bool = True,
    ):
        if store.frame_size != geometry.frame_size:
            raise SessionError(
                f"frames are {store.frame_size} (height, width), the canvas takes "
                f"{geometry.frame_size}",
                where=", ".join(store.names),
                fix="A model takes frames of the one size that it was trained on",
            )
        self.store = store
        self.geometry = geometry
        rows = store.windows(geometry.history)
        self.rows = rows if keep is None else rows[keep]
        if not len(self.rows):
            raise SessionError(
                f"no canvas of {geometry.history} frames can be built from {len(store)} "
                "observations",
                where=", ".join(store.names),
                fix="Record a longer session; no canvas crosses a gap or an episode",
            )
        self.actions = store.action_after[self.rows[:, :-1]]
        colours = [stripe_colour(action, strict) for action in store.action_space]
        self._colours = np.array(colours, np.uint8)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """One sample: the arrays of a batch without the batch axis."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"canvas {index} of {len(self)}")
        sample = self.gather(np.array([index % len(self)]))
        return {name: value[0] for name, value in sample.items()}

    def gather(
        self,
        indices: Int[np.ndarray, " b"],
        shifts: Int[np.ndarray, "b 2"] | None = None,
    ) -> dict[str, np.ndarray]:
        """The batch of the given canvases; `shifts` (dy, dx) rolls the frames of each."""
        geometry = self.geometry
        canvas = np.zeros((len(indices), *geometry.canvas_size, 3), np.uint8)
        for row, index in enumerate(indices):
            frames = self.store.frames[self.rows[index]]
            if shifts is not None:
                frames = augmentation.roll_frames(frames, shifts[row])
            for slot in range(geometry.history):
                start, stop = geometry.frame_columns(slot)
                canvas[row, :, start:stop] = frames[slot]
        for number in range(geometry.history - 1):
            start, stop = geometry.separator_columns(number)
            colours = self._colours[self.actions[indices, number]]
            canvas[:, :, start:stop] = colours[:, None, None, :]
        return {
            "canvas": canvas,
            "index": indices.astype(np.int32),
            "last_action": self.actions[indices, -1].astype(np.int32),
        }


def make_iterator(
    source: CanvasSource,
    batch_size: int,
    seed: int,
    sampling: str = "epoch",
    *,
    temperature: float = 0.5,
    refresh_every: int = 50,
    augment: str | None = None,
    rows: slice = slice(None),
    prefetch: int = 2,
) -> BatchIterator:
    """Endless training batches, assembled by a thread while the ones before are used.

    Args:
      source: canvases.
      batch_size: samples per batch.
      seed: of sampling and augmentation.
      sampling: `epoch` (a new order every pass), `random` (with replacement) or `loss_weighted`
        (with replacement, by the losses told to `feedback`).
      temperature: of `loss_weighted`; small values prefer large losses more.
      refresh_every: batches between looks at new losses, for `loss_weighted`.
      augment: None or `toroidal_shift`.
      rows: the rows of every batch to assemble, see `BatchIterator`.
      prefetch: batches assembled ahead; 0 works without a thread.

    Raises:
      ConfigError: a value out of range or an unknown name.
    """
    sampler = make_sampler(
        sampling,
        size=len(source),
        batch_size=batch_size,
        seed=seed,
        temperature=temperature,
        refresh_every=refresh_every,
    )
    augmentation.check_augmentation(augment)

    def assemble(positions: np.ndarray, indices: np.ndarray) -> dict[str, np.ndarray]:
        if augment is None:
            return source.gather(indices)
        size = source.geometry.frame_size
        return source.gather(indices, augmentation.draw_shifts(augment, seed, positions, size))

    return BatchIterator(
        assemble, sampler, len(source), unit="canvases", rows=rows, prefetch=prefetch
    )


def full_pass(source: CanvasSource, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
    """Every canvas once, in order.

    The last batch repeats its last canvas up to `batch_size`; `valid` is False there.

    Raises:
      ConfigError: `batch_size` is not positive.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size must be positive, got {batch_size}")
    for start in range(0, len(source), batch_size):
        wanted = np.arange(start, start + batch_size)
        batch = source.gather(np.minimum(wanted, len(source) - 1))
        yield {**batch, "valid": wanted < len(source)}
