"""Tests of launch.episode_analysis."""

import json

import pandas as pd
import pytest

from attn_jax.analysis import tables
from attn_jax.core.errors import ConfigError
from launch import app
from launch.episode_analysis import Job, analyse, open_study, options_of, run_action_std
from tests import testing
from tests.analysis import runs

CONFIG = {
    "hypotheses": {
        "h1_1": {"streams": ["prefix:text"]},
        "h2_1": {"streams": ["prefix:text"], "missing": "skip"},
    }
}


def job(run, out, config=None, number=0):
    config = config or CONFIG
    return Job(run, f"episode_{number:05d}", out, config, run_action_std(run, config))


def test_an_episode_is_written_whole(tmp_path):
    run = tmp_path / "run"
    runs.write_run(run)
    runs.write_variants(run)
    work = job(run, tmp_path / "out")
    assert not work.is_done()
    done = analyse(work)
    assert done.problem == "" and done.skipped == {} and work.is_done()
    rows = pd.read_parquet(work.folder / "rows.parquet")
    assert tuple(rows.columns) == tables.COLUMNS and len(rows) == done.rows
    assert tuple(pd.read_parquet(work.folder / "frames.parquet").columns) == tables.FRAME_COLUMNS
    assert len(pd.read_csv(work.folder / "rows.csv")) == len(rows)
    assert len(json.loads((work.folder / "rows.json").read_text())) == len(rows)
    facts = app.read_json(work.folder / "done.json")
    assert facts["outcome"] == "success" and facts["prompt"] == "find the red cube"
    seeds = app.read_json(work.folder / "object" / "h1_1_obj_attn_results.json")
    assert seeds["episode_id"] == "episode_00000" and seeds["keyframes"] == [0, 5, 10]
    changes = app.read_json(work.folder / "counterfactual" / "h2_1_counterfactual_results.json")
    assert set(changes["prompts"]) == {"noise_1", "please", "ball", "empty"}


def test_another_configuration_is_not_done(tmp_path):
    runs.write_run(tmp_path / "run")
    analyse(job(tmp_path / "run", tmp_path / "out"))
    other = {"hypotheses": {"h1_1": {"streams": ["suffix:action"]}}}
    assert job(tmp_path / "run", tmp_path / "out").is_done()
    assert not job(tmp_path / "run", tmp_path / "out", other).is_done()


def test_a_missing_input_skips_or_fails_as_asked(tmp_path):
    runs.write_run(tmp_path / "run")
    done = analyse(job(tmp_path / "run", tmp_path / "out"))
    assert "--noise_seeds" in done.skipped["h2_1"] and done.problem == ""
    strict = {"hypotheses": {"h1_1": {}, "h2_1": {}}}
    work = job(tmp_path / "run", tmp_path / "strict", strict)
    done = analyse(work)
    assert "h2_1: no run with another prompt" in done.problem and not work.is_done()


def test_a_damaged_episode_is_a_problem_and_not_done(tmp_path):
    folder = runs.write_run(tmp_path / "run")
    work = job(tmp_path / "run", tmp_path / "out")
    analyse(work)
    path = folder / "observations.npz"
    path.write_bytes(path.read_bytes()[:-9])
    assert "episode_00000" in analyse(work).problem


def test_a_defect_names_the_episode(tmp_path, monkeypatch):
    from attn_jax.analysis import hypotheses

    def broken(study, options):
        raise ZeroDivisionError("planted")
        yield

    runs.write_run(tmp_path / "run")
    monkeypatch.setitem(hypotheses.HYPOTHESES, "h1_1", broken)
    with pytest.raises(ZeroDivisionError) as caught:
        analyse(job(tmp_path / "run", tmp_path / "out"))
    assert any("episode_00000" in note for note in caught.value.__notes__)


def test_options_are_checked():
    with pytest.raises(ConfigError, match="'h9'"):
        options_of({"hypotheses": {"h9": {}}})
    with pytest.raises(ConfigError, match="'colour'"):
        options_of({"hypotheses": {"h1_1": {"colour": 1}}})
    with pytest.raises(ConfigError, match="perhaps"):
        options_of({"hypotheses": {"h1_1": {"missing": "perhaps"}}})


def test_variants_without_the_episode_are_left_out(tmp_path):
    runs.write_run(tmp_path)
    runs.write_run(tmp_path, number=1)
    runs.write_variants(tmp_path, number=1)
    assert open_study(tmp_path, "episode_00000").variants == {}
    assert len(open_study(tmp_path, "episode_00001").variants) == 4


if __name__ == "__main__":
    testing.main()
