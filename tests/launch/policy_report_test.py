"""Tests of launch.policy_report and of launch.report --run."""

import json
import shutil

import pandas as pd
import pytest
from absl.testing import flagsaver

from attn_jax.core.errors import ConfigError, InputError
from attn_jax.probe.schema import RUN
from attn_jax.viz.policy_report import SUCCESS_COLUMNS, build_policy_report
from attn_jax.viz.report import Table, render
from configs.analysis import all as all_hypotheses
from launch import app, report
from launch.aggregate import aggregate_runs
from launch.analyze import analyse_run
from launch.policy_report import load_policy_run
from tests import testing
from tests.analysis import runs


def make(folder, outcomes):
    """Episodes with other prompts, one per outcome, analysed and aggregated."""
    config = all_hypotheses.get_config("lenient,tiny")
    for name in [*config.hypotheses]:
        if name not in ("h1_1", "h2_1", "h4"):
            del config.hypotheses[name]
    for number, success in enumerate(outcomes):
        runs.write_run(folder / "run", number, success=success, share=0.5 if success else 0.3)
        runs.write_variants(folder / "run", number, success=success)
    facts = {"provenance": {"source": "tabletop", "seed": 3, "config": {"env": {}}}}
    facts["provenance"] |= {"command": ["evaluate.py", "--capture=layers=all;heads=0"]}
    facts["provenance"] |= {"supervision": [{"layers": "1", "heads": "0"}]}
    app.write_json(folder / "run" / RUN, facts)
    analyse_run(folder / "run", config, folder / "analysis")
    aggregate_runs([folder / "analysis"], folder / "aggregate", seed=0)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two successes and two failures."""
    return make(tmp_path_factory.mktemp("study"), (True, True, False, False))


def test_reads_outcomes_examples_and_tables(folder):
    run = load_policy_run(folder / "run", folder / "aggregate")
    assert [outcome["success"] for outcome in run.outcomes] == [True, True, False, False]
    assert [example.outcome for example in run.examples] == ["success", "failure"]
    assert set(run.examples[0].others) == {"please", "ball", "empty"}
    assert run.facts["source"] == "tabletop" and "config" not in run.provenance
    assert run.provenance["command"] == "evaluate.py '--capture=layers=all;heads=0'"
    assert run.supervision == [{"layers": "1", "heads": "0"}]
    assert "target_lift" in set(run.table.family)
    alone = load_policy_run(folder / "run")
    assert alone.table is None and alone.summary["episodes"] == 4


def test_launcher_writes_page_and_twin(folder, tmp_path):
    done = testing.run_python(
        "-m", "launch.report", f"--run={folder / 'run'}", f"--aggregate={folder / 'aggregate'}",
        f"--output={tmp_path / 'r.html'}",
    )  # fmt: skip
    assert done.returncode == 0 and "r.html" in done.stdout, done.stderr
    html = (tmp_path / "r.html").read_text()
    assert "Does attention lie on the object" in html and "Example 2: failure" in html
    numbers = json.loads((tmp_path / "r.json").read_text())
    assert sum(rates["episodes"] for rates in numbers["success"].values()) == 4
    assert len(numbers["tests"]) > 8
    success = pd.read_csv(tmp_path / "r.success.csv")
    for line in success.to_dict("records"):
        task = line.pop("task")
        assert line["rate"] == numbers["success"][task]["rate"] and set(line) == {*SUCCESS_COLUMNS}
    assert success.episodes.sum() == 4
    drawn = [b for s in numbers["sections"] for b in s["blocks"] if b["kind"] == "picture"]
    assert len(drawn) > 10 and all(picture["data"] for picture in drawn)


def test_an_aggregate_alone_has_a_page(folder, tmp_path):
    """Two analyses, pooled; no run is both of them."""
    again = tmp_path / "again"
    shutil.copytree(folder / "analysis", again)
    for done in again.rglob("done.json"):  # as of other recordings
        facts = json.loads(done.read_text())
        done.write_text(json.dumps(facts | {"recording": f"other {done.parent.name}"}))
    pooled = aggregate_runs([folder / "analysis", again], tmp_path / "pooled", seed=0)
    assert pooled["episodes"] == 8
    run = load_policy_run(aggregate=tmp_path / "pooled")
    rates = build_policy_report(run).data["success"]
    assert {task: (r["episodes"], r["successes"]) for task, r in rates.items()} == {
        "again": (4, 2),
        "analysis": (4, 2),
        "all": (8, 4),
    }
    assert run.examples == () and run.provenance["seed"] == 0
    with pytest.raises(ConfigError, match="8 of its episodes are not in the run 'run'"):
        load_policy_run(folder / "run", tmp_path / "pooled")
    with flagsaver.flagsaver():
        output = tmp_path / "pooled.html"
        report.flags.FLAGS(["report", f"--aggregate={tmp_path / 'pooled'}", f"--output={output}"])
        assert report.main()["report"] == str(output)
    assert "8 episodes" in output.read_text()


def test_a_run_and_an_aggregate_of_others_are_refused(folder, tmp_path):
    for number in range(4):
        runs.write_run(tmp_path / "run", number, success=number % 2 == 0)
    with pytest.raises(ConfigError, match="episode_00001 ended otherwise in the run 'run'"):
        load_policy_run(tmp_path / "run", folder / "aggregate")
    with pytest.raises(ConfigError, match="neither a run nor an aggregate"):
        load_policy_run()


def test_part_of_a_run_may_have_been_analysed(folder, tmp_path):
    shutil.copytree(folder / "run", tmp_path / "run")
    runs.write_run(tmp_path / "run", 4, success=True)
    report = build_policy_report(load_policy_run(tmp_path / "run", folder / "aggregate"))
    assert report.lead.startswith("4 of 5 episodes were analysed")


@pytest.mark.slow
@pytest.mark.parametrize("outcomes", [(True,), (True, True, True), (False, False, False)])
def test_one_episode_and_one_outcome_have_a_page(tmp_path, outcomes):
    make(tmp_path, outcomes)
    report = build_policy_report(load_policy_run(tmp_path / "run", tmp_path / "aggregate"))
    render(report)
    blocks = next(s for s in report.sections if s.name == "heads").blocks
    (heads,) = (block for block in blocks if isinstance(block, Table))
    assert heads.rows
    ranks = {row[-1] for row in heads.rows}
    assert (ranks == {"n/a"}) == (len(outcomes) == 1)
    by_outcome = next(s for s in report.sections if s.name == "objects-by-outcome").blocks
    assert "fewer than 2 episodes in a group" in str(by_outcome)


def test_a_damaged_aggregate_is_named(folder, tmp_path):
    shutil.copytree(folder / "aggregate", tmp_path / "aggregate")
    (tmp_path / "aggregate" / "table.parquet").write_bytes(b"no")
    with pytest.raises(InputError, match=r"table\.parquet"):
        load_policy_run(folder / "run", tmp_path / "aggregate")


if __name__ == "__main__":
    testing.main()
