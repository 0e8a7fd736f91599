"""What a task family gives to `launch.train`.

Built(task, data, metadata, ("validation/loss", "min"))
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

from attn_jax.train.task import Task


def _nothing(_: pathlib.Path) -> None:
    """Leaves the work directory as it is."""


@dataclasses.dataclass(frozen=True)
class Built:
    """What `launch.train` trains.

    Attributes:
      task: see `attn_jax.train.task`.
      data: iterator of batches with get_state, set_state and, where sampling wants it, feedback.
      metadata: JSON-able description of the model, kept in every checkpoint.
      best: evaluation metric that ranks checkpoints (empty for none), and `min` or `max`.
      frozen: patterns of parameters that are not trained, see `OptimConfig.frozen`.
      params: parameters to start from; None for fresh ones.
      prepare: writes what belongs beside the checkpoints into the work directory, before training.
      finish: writes what a finished run leaves besides; not called when a run was interrupted.
    """

    task: Task
    data: Any
    metadata: dict[str, Any]
    best: tuple[str, str]
    frozen: tuple[str, ...] = ()
    params: Any = None
    prepare: Callable[[pathlib.Path], None] = _nothing
    finish: Callable[[pathlib.Path], None] = _nothing
