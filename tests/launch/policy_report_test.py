"""Tests of launch.policy_report and of launch.report --run."""

import json
import shutil

import pytest

from attn_jax.core.errors import InputError
from attn_jax.probe.schema import RUN
from configs.analysis import all as all_hypotheses
from launch import app
from launch.aggregate import aggregate_runs
from launch.analyze import analyse_run
from launch.policy_report import load_policy_run
from tests import testing
from tests.analysis import runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two successes and two failures with other prompts, analysed and aggregated."""
    folder = tmp_path_factory.mktemp("study")
    config = all_hypotheses.get_config("lenient,tiny")
    for name in [*config.hypotheses]:
        if name not in ("h1_1", "h2_1", "h4"):
            del config.hypotheses[name]
    for number in range(4):
        share = 0.5 if number < 2 else 0.3
        runs.write_run(folder / "run", number, success=number < 2, share=share)
        runs.write_variants(folder / "run", number)
    facts = {"provenance": {"source": "tabletop", "seed": 3, "config": {"env": {}}}}
    app.write_json(folder / "run" / RUN, facts)
    analyse_run(folder / "run", config, folder / "analysis")
    aggregate_runs([folder / "analysis"], folder / "aggregate", seed=0)
    return folder


def test_reads_outcomes_examples_and_tables(folder):
    run = load_policy_run(folder / "run", folder / "aggregate")
    assert [outcome["success"] for outcome in run.outcomes] == [True, True, False, False]
    assert [example.outcome for example in run.examples] == ["success", "failure"]
    assert set(run.examples[0].others) == {"please", "ball", "empty"}
    assert run.facts["source"] == "tabletop" and "config" not in run.provenance
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


def test_a_damaged_aggregate_is_named(folder, tmp_path):
    shutil.copytree(folder / "aggregate", tmp_path / "aggregate")
    (tmp_path / "aggregate" / "table.parquet").write_bytes(b"no")
    with pytest.raises(InputError, match=r"table\.parquet"):
        load_policy_run(folder / "run", tmp_path / "aggregate")


if __name__ == "__main__":
    testing.main()
