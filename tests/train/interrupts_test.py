"""Signals become reasons."""

import os
import signal

import pytest

from attn_jax.train.interrupts import Interrupts, agree
from attn_jax.train.stopping import StopKind, StopReason
from tests import testing


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_first_signal_is_a_reason_and_the_second_is_not_ours(number):
    caught = []
    before = signal.signal(number, lambda *_: caught.append("outer"))
    try:
        with Interrupts() as interrupts:
            assert interrupts.reason() is None
            os.kill(os.getpid(), number)
            reason = interrupts.reason()
            assert caught == []
            os.kill(os.getpid(), number)
            assert caught == ["outer"]
        assert reason == StopReason(StopKind.INTERRUPTED, f"received {number.name}")
        os.kill(os.getpid(), number)
        assert caught == ["outer", "outer"]
    finally:
        signal.signal(number, before)


def test_one_process_agrees_with_itself():
    reason = StopReason(StopKind.SECONDS, "1 of 1 s")
    assert agree(reason) is reason
    assert agree(None) is None


if __name__ == "__main__":
    testing.main()
