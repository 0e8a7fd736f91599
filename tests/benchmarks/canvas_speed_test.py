"""The speed benchmark runs the programs that it names, on a small model."""

import pytest

from tests import testing

testing.require_module("torch")
pytestmark = pytest.mark.bridge

from benchmarks import canvas_speed  # noqa: E402

SIZE = canvas_speed.Size(frame=32, dim=64, depth=1, batches=(1, 2))


@pytest.mark.slow
def test_every_program_is_measured_and_judged():
    table = canvas_speed.measure(SIZE, 1, compiled=False)
    sides = ("torch", "full", "last_layer", "slot")
    assert set(table) == {
        f"{what}/{batch}/{side}"
        for what in ("train", "infer")
        for batch in (1, 2)
        for side in sides
    }
    for name, row in table.items():
        batch = int(name.split("/")[1])
        assert row["samples_per_s"] * row["seconds"] == pytest.approx(batch)
    text = canvas_speed.render(table, canvas_speed.verdicts(table, SIZE))
    assert text.count("\n") == len(table) + len(canvas_speed.TARGETS)


def test_verdicts_compare_with_the_quicker_torch():
    def rows(train, infer):
        return {
            f"{what}/{batch}/{side}": {"seconds": s}
            for what, seconds in (("train", train), ("infer", infer))
            for batch in (1, 2)
            for side, s in seconds.items()
        }

    table = rows(
        {"torch": 3.0, "torch.compile": 2.0, "last_layer": 1.0, "slot": 0.5},
        {"torch": 4.0, "torch.compile": 5.0, "last_layer": 2.5, "slot": 1.0},
    )
    found = canvas_speed.verdicts(table, SIZE)
    assert [v["ratio"] for v in found] == [2.0, 1.6, 4.0, 1.6]
    assert [v["holds"] for v in found] == [True, True, True, False]
    assert [v["batch"] for v in found] == [2, 2, 2, 1]


if __name__ == "__main__":
    testing.main()
