"""The speed benchmark runs both sides on a tiny network and judges what it measures."""

from __future__ import annotations

import pytest

from tests import testing

testing.require_module("torch", "lerobot")
# lerobot's own imports warn.
pytestmark = [pytest.mark.bridge, pytest.mark.filterwarnings("ignore")]

from benchmarks import pi05_speed as benchmark  # noqa: E402


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True])
def test_both_sides_are_measured_and_agree(shared: bool):
    found = benchmark.measure(benchmark.TINY, "float32", rounds=1, compiled=False, shared=shared)
    assert set(found["seconds"]) == {
        *(f"{part}/{side}" for part in benchmark.PARTS for side in ("torch", "ours")),
        *("dense/torch", "dense/ours", "captured/ours"),
    }
    assert all(seconds > 0 for seconds in found["seconds"].values())
    assert 0 < found["action_error"] < 1e-5  # the same weights and noise
    text = benchmark.render(benchmark.verdict(found, "float32"), "float32")
    assert text.count("\n") == len(benchmark.PARTS) + 2


def test_the_reference_is_the_quicker_torch():
    seconds = {
        f"{part}/{side}": value
        for part in (*benchmark.PARTS, "dense")
        for side, value in (("torch", 6.0), ("torch.compile", 4.5), ("ours", 2.0))
    }
    found = {"seconds": seconds, "capture_ratio": 1.06, "action_error": 0.0}
    judged = benchmark.verdict(found, "float32")
    assert judged["ratios"]["action"] == 2.25
    assert not judged["holds"] and not judged["capture_holds"]
    assert benchmark.verdict(found, "bfloat16_lerobot")["holds"]


if __name__ == "__main__":
    testing.main()
