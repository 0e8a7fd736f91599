"""The whole way from sensor to report, as a user runs it."""

from __future__ import annotations

import json
import pathlib
import re
import subprocess

import numpy as np
import pytest

from attn_jax.probe.store import RecordReader
from tests import checkout, testing

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("demo") / "out"
    clone = checkout.copy(tmp_path_factory.mktemp("clone"))
    testing.require_program("make")
    # The command of the README, and so the recipe of the Makefile, bootstrap.sh included.
    (command,) = re.findall("^make demo$", (clone / "README.md").read_text(), re.MULTILINE)
    done = subprocess.run(
        [*command.split(), f"DEMO_ARGS=--workdir={path} --tiny"],
        cwd=clone,
        env=checkout.environment(clone),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "bootstrap: ready" in done.stdout
    assert f"report: {path / 'report.html'}" in done.stdout
    return path


def last_json(text: str) -> dict:
    return json.loads(text.strip().splitlines()[-1])


def test_demo_leaves_what_it_promises(folder):
    twin = json.loads((folder / "report.json").read_text())
    for name in ("plain_mse", "copy_last_mse", "hit_rate_3px", "median_dot_error_px", "canvases"):
        assert name in twin["skill"]
    assert twin["skill"]["canvases"] == 32
    page = (folder / "report.html").read_bytes()
    assert len(page) < 2_000_000
    assert b"http://" not in page.replace(b"http://www.w3.org", b"")
    for name in ("config.json", "run.json", "metrics.jsonl", "result.json", "checkpoints"):
        assert (folder / "train" / name).exists()
    run = json.loads((folder / "train" / "run.json").read_text())
    assert run["seed"] == 0
    assert {"jax", "flax", "orbax-checkpoint"} <= run["packages"].keys()
    assert str(folder.parent) not in json.dumps(run["command"])


def test_the_policy_on_the_tabletop_has_a_report(folder):
    twin = json.loads((folder / "tabletop" / "report.json").read_text())
    assert twin["summary"]["episodes"] == 2 and twin["success"]["pick"]["episodes"] == 2
    assert {"target_lift", "prompt_moves_attention"} <= {test["family"] for test in twin["tests"]}
    assert (folder / "tabletop" / "report.html").stat().st_size < 2_000_000


def test_the_record_is_whole_and_names_the_stripes(folder):
    done = testing.run_python("-m", "launch.attention", "verify", folder / "attention", "--json")
    assert done.returncode == 0, done.stderr
    assert last_json(done.stdout)["ok"]
    reader = RecordReader(folder / "attention")
    assert reader.num_calls == 4
    for stream in ("encoder", "decoder"):
        record = reader.record(stream)
        np.testing.assert_allclose(np.asarray(record.values).sum(-1), 1.0, atol=2e-3)
    mass = reader.record("decoder.group_mass")
    stripes = mass.select(query="target", key="sep0") + mass.select(query="target", key="sep1")
    assert stripes.shape == (4, 1, 2, 2, 16, 1)
    assert np.all((stripes > 0) & (stripes < 1))


def test_evaluation_of_another_session_ends_in_json(folder):
    done = testing.run_python(
        "-m",
        "launch.evaluate",
        f"--checkpoint={folder / 'train'}",
        f"--data={folder / 'session_train'}",
        "--rollouts=0",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    numbers = last_json(done.stdout)
    assert numbers["canvases"] == 48
    assert numbers["plain_mse"] > 0
    assert numbers["rollout"] is None


def test_a_second_demo_does_nothing_twice_and_other_settings_are_refused(folder):
    again = testing.run_python("-m", "launch.demo", f"--workdir={folder}", "--tiny")
    assert again.returncode == 0, again.stderr
    for step in ("record", "record held-out", "train", "evaluate", "tabletop"):
        assert f"[{step}] already done" in again.stdout
    other = testing.run_python("-m", "launch.demo", f"--workdir={folder}", "--tiny", "--seed=5")
    assert other.returncode == 2
    assert "holds a demo with other settings" in other.stderr
    assert "Traceback" not in other.stderr


def test_bad_input_is_one_sentence_and_exit_code_2(folder, tmp_path):
    record = folder / "attention"
    cases = {
        f"--checkpoint={tmp_path} --data={folder / 'session_test'}": "no checkpoint here",
        f"--checkpoint={folder / 'train'} --data={tmp_path / 'x'}": "no such session",
        f"--checkpoint={folder / 'train'} --data={folder / 'session_test'} --capture=all": (
            "--capture needs --workdir"
        ),
        f"--checkpoint={folder / 'train'} --data={folder / 'session_test'} --capture=heads=x"
        f" --workdir={tmp_path / 'e'}": "heads",
        f"--checkpoint={folder / 'train'} --data={folder / 'session_test'} --capture=all"
        f" --workdir={tmp_path / 'e'} --record={record}": "holds an attention record already",
    }
    for arguments, message in cases.items():
        done = testing.run_python("-m", "launch.evaluate", *arguments.split(" "))
        assert done.returncode == 2, (arguments, done.stderr)
        assert message in done.stderr
        assert "Traceback" not in done.stderr


if __name__ == "__main__":
    testing.main()
