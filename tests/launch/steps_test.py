"""Tests of launch.steps."""

import pytest

from attn_jax.core.errors import ConfigError
from launch import app
from launch.steps import Step, prepare, run_steps
from tests import testing


def test_prepare_keeps_settings_apart(tmp_path):
    folder = prepare(tmp_path / "a", {"seed": 1}, kind="demo")
    assert app.read_json(folder / "demo.json") == {"seed": 1}
    (folder / "made").write_text("x")
    assert prepare(folder, {"seed": 1}, kind="demo") == folder and (folder / "made").exists()
    with pytest.raises(ConfigError, match="other settings"):
        prepare(folder, {"seed": 2}, kind="demo")
    with pytest.raises(ConfigError, match="not the folder of a study"):
        prepare(folder, {"seed": 1}, kind="study")
    prepare(folder, {"seed": 2}, kind="demo", fresh=True)
    assert not (folder / "made").exists()


def test_steps_run_are_timed_and_done_ones_are_not(tmp_path, capfd):
    leftovers = tmp_path / "old"
    leftovers.mkdir()
    steps = [
        Step("first", ("answer", "--help"), done=True),
        Step("second", ("aggregate", "--helpshort", "--x"), leftovers=leftovers),
    ]
    with pytest.raises(SystemExit) as stopped:
        run_steps(tmp_path, steps)
    assert stopped.value.code != 0 and not leftovers.exists()
    said = capfd.readouterr()
    assert "[first] already done" in said.out and "python -m launch.aggregate" in said.out
    assert "the step 'second' failed" in said.err
    assert set(run_steps(tmp_path, steps[:1])) == {"total"}
    assert "total" in app.read_json(tmp_path / "timing.json")


if __name__ == "__main__":
    testing.main()
