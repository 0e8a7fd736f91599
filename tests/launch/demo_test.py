"""The demo's steps: what is finished, what is refused. The whole run is tests/e2e/demo_test.py."""

from __future__ import annotations

import pytest
from absl.testing import flagsaver

from attn_jax.core.errors import ConfigError
from launch import app, demo
from tests import testing
from tests.data.fake_sessions import write_session


@pytest.fixture(autouse=True)
def parsed_flags():
    with flagsaver.flagsaver():
        demo.flags.FLAGS(["demo"])
        yield


def test_a_step_counts_as_done_when_its_product_is_complete(tmp_path):
    assert [step.done for step in demo.steps(tmp_path)] == [False] * 7
    write_session(tmp_path / "session_train")
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "result.json").write_text("{}")
    done = {step.name: step.done for step in demo.steps(tmp_path)}
    assert done["record"] and done["train"]
    assert not done["record held-out"] and not done["evaluate"]


def test_an_unfinished_session_is_recorded_again(tmp_path):
    session = write_session(tmp_path / "session_train")
    meta = app.read_json(session / "session_meta.json")
    app.write_json(session / "session_meta.json", meta | {"end_time": None})
    step = demo.record_step("record", session, 0, 60)
    assert not step.done
    assert step.leftovers == session


def test_training_and_held_out_sessions_have_different_seeds(tmp_path):
    record, held_out, *_ = demo.steps(tmp_path)
    seeds = [[a for a in s.command if "config.seed" in a] for s in (record, held_out)]
    assert seeds == [["--config.seed=0"], ["--config.seed=10000"]]


def test_a_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with (
        flagsaver.flagsaver(workdir=str(tmp_path), fresh=True),
        pytest.raises(ConfigError, match="not the folder of a demo"),
    ):
        demo.main()
    assert (tmp_path / "thesis.txt").read_text() == "mine"


if __name__ == "__main__":
    testing.main()
