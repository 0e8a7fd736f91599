"""Signals become reasons."""

import os
import signal

import pytest

from attn_jax.core.interrupts import Interrupts
from attn_jax.train.interrupts import agree, reason
from attn_jax.train.stopping import StopKind, StopReason
from tests import testing


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_a_reason(number):
    with Interrupts() as interrupts:
        assert reason(interrupts) is None
        os.kill(os.getpid(), number)
    assert reason(interrupts) == StopReason(StopKind.INTERRUPTED, f"received {number.name}")


def test_one_process_agrees_with_itself():
    stopped = StopReason(StopKind.SECONDS, "1 of 1 s")
    assert agree(stopped) is stopped
    assert agree(None) is None


if __name__ == "__main__":
    testing.main()
