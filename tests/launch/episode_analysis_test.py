"""Tests of launch.episode_analysis."""

import json
import shutil

import pandas as pd
import pytest

from attn_jax.analysis import hypotheses, tables
from attn_jax.core.errors import ConfigError, RecordError
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


def test_other_recordings_are_not_done(tmp_path):
    run = tmp_path / "run"
    runs.write_run(run)
    work = job(run, tmp_path / "out")
    analyse(work)
    runs.write_variants(run)
    assert not work.is_done()
    assert analyse(work).skipped == {} and work.is_done()
    runs.write_run(run / "variants" / "ball", number=1)  # the variant has another episode now
    assert work.is_done()
    shutil.rmtree(run / "variants" / "empty")
    assert not work.is_done()
    analyse(work)
    shutil.rmtree(run / "episodes")
    runs.write_run(run, success=False)
    assert not work.is_done()
    assert analyse(work).problem == "" and work.is_done()
    assert app.read_json(work.folder / "done.json")["outcome"] == "failure"


def test_lost_rows_are_not_done(tmp_path):
    runs.write_run(tmp_path / "run")
    work = job(tmp_path / "run", tmp_path / "out")
    analyse(work)
    path = work.folder / "rows.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert not work.is_done()
    pd.read_parquet(work.folder / "frames.parquet").to_parquet(path)  # other rows than were counted
    assert not work.is_done()
    path.unlink()
    assert not work.is_done()
    path.write_bytes(whole)
    assert work.is_done()
    facts = app.read_json(work.folder / "done.json")
    app.write_json(work.folder / "done.json", facts | {"schema_version": 0})
    assert not work.is_done()


def test_a_failure_leaves_no_rows_of_an_earlier_configuration(tmp_path):
    folder = runs.write_run(tmp_path / "run")
    analyse(job(tmp_path / "run", tmp_path / "out"))
    path = folder / "observations.npz"
    path.write_bytes(path.read_bytes()[:-9])
    other = job(tmp_path / "run", tmp_path / "out", {"hypotheses": {"h4": {}}})
    assert analyse(other).problem and not (other.folder / "done.json").exists()


def test_a_missing_input_skips_or_fails_as_asked(tmp_path):
    runs.write_run(tmp_path / "run")
    done = analyse(job(tmp_path / "run", tmp_path / "out"))
    assert "--noise_seeds" in done.skipped["h2_1"] and done.problem == ""
    strict = {"hypotheses": {"h1_1": {}, "h2_1": {}}}
    work = job(tmp_path / "run", tmp_path / "strict", strict)
    done = analyse(work)
    assert "h2_1: no run with another prompt" in done.problem and not work.is_done()


@pytest.mark.parametrize("name", ["prefix/values/zarr.json", "prefix/values/c.0.0.0.0.0.0"])
def test_damage_is_not_skipped(tmp_path, name):
    path = runs.write_run(tmp_path / "run") / name
    path.write_bytes(b"xx")
    skipping = {n: {"streams": ["prefix:text"], "missing": "skip"} for n in ("h1_1", "h2_1")}
    work = job(tmp_path / "run", tmp_path / "out", {"hypotheses": skipping})
    assert "h1_1" in analyse(work).problem and not work.is_done()


def test_a_stream_that_was_not_recorded_is_skipped(tmp_path):
    runs.write_run(tmp_path / "run")
    given = {"streams": ["suffix:text"], "missing": "skip"}  # a suffix has no queries of text
    config = {"hypotheses": {"h1_1": given, "h3": given, "budget": given, "h4": {}}}
    done = analyse(job(tmp_path / "run", tmp_path / "out", config))
    assert set(done.skipped) == {"h1_1", "h3", "budget"} and done.problem == ""
    assert "queries=text" in done.skipped["budget"]
    wrong = {"hypotheses": {"h1_1": {"cameras": ["left"], "missing": "skip"}, "h4": {}}}
    assert "no camera 'left'" in analyse(job(tmp_path / "run", tmp_path / "w", wrong)).problem


def test_a_damaged_episode_is_a_problem_and_not_done(tmp_path):
    folder = runs.write_run(tmp_path / "run")
    work = job(tmp_path / "run", tmp_path / "out")
    analyse(work)
    path = folder / "observations.npz"
    path.write_bytes(path.read_bytes()[:-9])
    assert "episode_00000" in analyse(work).problem


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("commits.jsonl", lambda data: b"", "0 calls are committed, 3 were"),
        ("commits.jsonl", lambda data: bytes(x ^ 0x5A for x in data), "0 calls are committed, 3"),
        ("commits.jsonl", lambda data: data[: len(data) // 2], "1 calls are committed, 3 were"),
        ("prefix/values/c.1.0.0.0.0.0", lambda data: data[:100], "h1_1: calls 1 to 1 cannot be"),
        ("prefix/values/c.1.0.0.0.0.0", None, "values: h1_1: file of call 1 is missing"),
        ("prefix/values/zarr.json", lambda data: b"xx", "h1_1: array cannot be opened"),
    ],
)
def test_a_damaged_record_is_a_problem_and_not_done(tmp_path, name, content, said):
    path = runs.write_run(tmp_path / "run") / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content(path.read_bytes()))
    work = job(tmp_path / "run", tmp_path / "out")
    done = analyse(work)
    assert said in done.problem and "episode_00000" in done.problem and done.defect == ""
    assert not work.is_done()


def test_a_record_without_a_commit_log_is_damaged(tmp_path):
    folder = runs.write_run(tmp_path / "run")
    (folder / "commits.jsonl").unlink()
    with pytest.raises(RecordError, match="0 calls are committed"):
        open_study(tmp_path / "run", "episode_00000")
    runs.write_run(tmp_path / "bare", attention=False)
    assert open_study(tmp_path / "bare", "episode_00000").base.reader is None


@pytest.mark.parametrize("error", [ZeroDivisionError, MemoryError])
def test_a_defect_comes_back_with_its_traceback(tmp_path, monkeypatch, error):
    def broken(study, options):
        raise error("planted")
        yield

    runs.write_run(tmp_path / "run")
    monkeypatch.setitem(hypotheses.HYPOTHESES, "h1_1", broken)
    work = job(tmp_path / "run", tmp_path / "out")
    done = analyse(work)
    assert done.problem == f"{error.__name__}: planted" and not work.is_done()
    assert "in broken" in done.defect and "Traceback" in done.defect


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
