"""Stopping from outside: signals, and agreement between the processes of one run.

Usage:

    with Interrupts() as interrupts:
        while not agree(reason(interrupts)):
            ...
"""

from __future__ import annotations

import jax
import numpy as np
from jax.experimental import multihost_utils

from attn_jax.core.interrupts import Interrupts
from attn_jax.train.sharding import gather_text
from attn_jax.train.stopping import StopKind, StopReason

_KINDS = tuple(StopKind)


def reason(interrupts: Interrupts) -> StopReason | None:
    """Why to stop, or None without a signal."""
    if interrupts.signal_name is None:
        return None
    return StopReason(StopKind.INTERRUPTED, f"received {interrupts.signal_name}")


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
