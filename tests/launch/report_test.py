"""Tests of launch.report."""

import dataclasses
import json

import pytest
from absl.testing import flagsaver

from attn_jax.core.errors import ConfigError, InputError
from attn_jax.probe.store import RecordWriter
from launch import report
from tests import testing
from tests.viz import canvas_runs


def _report(*flags):
    return testing.run_python("-m", "launch.report", *flags)


def test_the_launcher_writes_page_and_twin(tmp_path):
    canvas_runs.write(canvas_runs.run(attention_layers=1), tmp_path / "eval", tmp_path / "train")
    done = _report(
        f"--evaluation={tmp_path / 'eval'}",
        f"--train={tmp_path / 'train'}",
        f"--output={tmp_path / 'out.html'}",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "out.html") in done.stdout
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["verdict"] == "good"
    numbers = json.loads((tmp_path / "out.json").read_text())
    assert numbers["skill"] == canvas_runs.evaluation()["skill"]
    assert (tmp_path / "out.html").stat().st_size < 2_000_000


def test_flags_choose_which_attention_is_drawn(tmp_path):
    run = canvas_runs.run(attention_layers=1)
    canvas_runs.write(run, tmp_path / "eval", tmp_path / "train")
    with RecordWriter(tmp_path / "eval" / "attention") as writer:
        for call in range(3):
            part = [
                dataclasses.replace(record, values=record.values[call : call + 1])
                for record in run.records.values()
            ]
            writer.append(part, env_step=call)
    flags = ["--heads=3,1", "--join_heads=max", "--join_patches=sum", "--queries=frame1"]
    flags += ["--patches=0,5-6", "--quantile=0.5"]
    folders = [f"--evaluation={tmp_path / 'eval'}", f"--train={tmp_path / 'train'}"]
    with flagsaver.flagsaver():
        report.flags.FLAGS(["report", *folders, f"--output={tmp_path / 'a.html'}", *flags])
        report.main()
    page = (tmp_path / "a.html").read_text()
    assert "patches of frame1 that are outlined in magenta (numbers 0,5-6) look" in page
    assert "largest over heads 3, 1, sum over the outlined patches" in page
    assert "The strongest 50\u202f% of connections" in page
    with flagsaver.flagsaver(), pytest.raises(ConfigError, match="--heads=a are no numbers"):
        report.flags.FLAGS(["report", *folders, f"--output={tmp_path / 'b.html'}", "--heads=a"])
        report.main()


def test_bad_input_is_one_sentence_and_exit_code_2(tmp_path):
    done = _report("--evaluation=nowhere", "--train=nowhere", f"--output={tmp_path / 'out.html'}")
    assert done.returncode == 2
    assert "nowhere/evaluation.json: file is missing" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.html").exists()


def test_every_folder_must_be_named():
    with (
        flagsaver.flagsaver(),
        pytest.raises(ConfigError, match=r"--output is required\. It means: "),
    ):
        report.flags.FLAGS(["report", "--evaluation=x", "--train=y", "--output="])
        report.main()


def test_a_page_of_another_suffix_is_refused_before_anything_is_read():
    with pytest.raises(InputError, match=r"ending in \.html"):
        report.write("nowhere", "nowhere", "page.txt")


if __name__ == "__main__":
    testing.main()
