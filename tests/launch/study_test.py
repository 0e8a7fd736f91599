"""A tiny checkpoint from rollouts to the report, as one command."""

import json
import re

import pytest

from tests import testing
from tests.policies import checkpoints

pytestmark = pytest.mark.slow


def test_from_a_checkpoint_to_a_report(tmp_path):
    checkpoint = checkpoints.write_checkpoint(
        tmp_path / "checkpoint", cameras=("front", "wrist"), state=7, action=7
    )
    flags = (
        f"--checkpoint={checkpoint}", "--env=tabletop,size=32", f"--workdir={tmp_path / 'study'}",
        "--trials=2", "--n_envs=2", "--max_steps=4", "--relevance",
        "--hypotheses=configs/analysis/all.py:lenient,tiny",
    )  # fmt: skip
    more = ("--noise_seeds=1", "--occlude_fills=mean,key_removal")
    done = testing.run_python("-m", "launch.study", *flags, *more, timeout_s=560.0)
    assert done.returncode == 0, done.stderr
    assert f"report: {tmp_path / 'study' / 'report.html'}" in done.stdout
    numbers = json.loads((tmp_path / "study" / "report.json").read_text())
    assert numbers["summary"]["episodes"] == 2
    families = {test["family"] for test in numbers["tests"]}
    assert {"target_lift", "prompt_moves_attention", "budget_by_outcome", "fidelity"} <= families
    assert {"relevance_lies_on_target", "cameras_agree"} <= families
    floors = {t["family"]: (t["floor_kinds"], t["null_floor"]) for t in numbers["tests"]}
    assert floors["prompt_moves_attention"][0] == "noise,frame,paraphrase"
    assert floors["prompt_moves_actions"][0] == "noise,paraphrase"
    assert floors["fidelity"][1] > 0
    variants = tmp_path / "study" / "run" / "variants"

    def variants_there():
        found = {folder.name for folder in variants.iterdir()}
        hidden = {name for name in found if name.startswith("occlude_")}
        return found - hidden, {re.split(r"_L\d+_|_(?:high|control)", n)[1] for n in hidden}

    assert variants_there() == ({"noise_1", "other_object", "politely"}, {"mean", "key_removal"})
    # Rollouts are not repeated for what only later steps use.
    again = testing.run_python("-m", "launch.study", *flags, "--hypotheses.resamples=49")
    assert again.returncode == 0, again.stderr
    assert "--noise_seeds=2 --occlude=last --occlude_fills=mean " in again.stdout
    # What the defaults add; what was there stays.
    assert variants_there()[0] == {"noise_1", "noise_2", "other_object", "politely"}
    assert variants_there()[1] == {"mean", "key_removal"}
    aggregate = json.loads((tmp_path / "study" / "aggregate" / "summary.json").read_text())
    assert aggregate["resamples"] == 49
    refused = testing.run_python("-m", "launch.study", *flags, "--seed=5")
    assert refused.returncode == 2 and "other settings" in refused.stderr


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--prompts=nope.yaml", "nope.yaml"),
        ("--noise_seeds=-1", "noise_seeds"),
        ("--occlude_fills=grey", "unknown fill 'grey'"),
        ("--occlude_fills=mean,mean", "repeat"),
        ("--capture=layers=99", "layers"),
        ("--capture=streams=sufix", "unknown stream 'sufix'"),
        ("--hypotheses=nope.py", "nope.py"),
        ("--hypotheses.hypotheses.h1_1.tau=5.0", "tau is 5"),
        ("--env=moon", "moon"),
        ("--max_steps=0", "max_steps"),
        ("--seed=-1", "seed"),
    ],
)
def test_bad_input_is_found_before_the_first_step(tmp_path, flag, said):
    checkpoint = checkpoints.write_checkpoint(
        tmp_path / "checkpoint", cameras=("front", "wrist"), state=7, action=7
    )
    flags = (f"--checkpoint={checkpoint}", f"--workdir={tmp_path / 'study'}", "--env=tabletop")
    done = testing.run_python("-m", "launch.study", *flags, flag)
    assert done.returncode == 2 and said in done.stderr, done.stderr
    assert not (tmp_path / "study").exists() and "[rollouts]" not in done.stdout


if __name__ == "__main__":
    testing.main()
