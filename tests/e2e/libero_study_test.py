"""A study on LIBERO: an untrained checkpoint, real assets, from rollouts to the page."""

import json

import pytest

from attn_jax.data.episodes import read_meta
from tests import testing
from tests.policies import checkpoints

testing.require_module("libero")
pytestmark = [pytest.mark.bridge, pytest.mark.slow, pytest.mark.timeout(900)]


def test_a_study_on_libero_has_its_page(tmp_path):
    checkpoint = checkpoints.write_checkpoint(
        tmp_path / "checkpoint", cameras=("image", "image2"), state=8, action=7, prompt=60
    )
    out = tmp_path / "study"
    done = testing.run_python(
        "-m", "launch.study", f"--checkpoint={checkpoint}",
        "--env=libero,suite=libero_object,size=64,tiny", f"--workdir={out}", "--trials=1",
        "--n_envs=1", "--max_steps=4", "--hypotheses=configs/analysis/all.py:lenient,tiny",
        timeout_s=900.0, environment={"MUJOCO_GL": "osmesa"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    numbers = json.loads((out / "report.json").read_text())
    (task,) = numbers["success"]
    assert "alphabet_soup" in task and numbers["success"][task]["episodes"] == 1
    families = {test["family"] for test in numbers["tests"]}
    assert {"target_lift", "prompt_moves_attention", "fidelity", "budget_by_outcome"} <= families
    # Its scene knows other instructions, so another prompt was asked for.
    other = next((out / "run" / "variants" / "other_object" / "episodes").iterdir())
    info = read_meta(other)["info"]
    assert info["method"] == "object_swap" and "alphabet soup" not in info["prompt"]
    lifts = [t for t in numbers["tests"] if t["family"] == "target_lift"]
    assert {t["camera"] for t in lifts} == {"image", "image2"}
    assert all(t["n"] <= 1 and t["p"] is None for t in lifts), "one episode tests nothing"
    assert "Does attention lie on the object" in (out / "report.html").read_text()


if __name__ == "__main__":
    testing.main()
