"""Signals wait."""

import os
import signal

import pytest

from attn_jax.core.interrupts import Interrupts
from tests import testing


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_waits_and_the_second_is_not_ours(number):
    caught = []
    before = signal.signal(number, lambda *_: caught.append("outer"))
    try:
        with Interrupts() as interrupts:
            assert interrupts.signal_name is None
            os.kill(os.getpid(), number)
            assert (interrupts.signal_name, interrupts.signal_number) == (number.name, number)
            assert caught == []
            os.kill(os.getpid(), number)
            assert caught == ["outer"]
        os.kill(os.getpid(), number)
        assert caught == ["outer", "outer"]
    finally:
        signal.signal(number, before)


if __name__ == "__main__":
    testing.main()
