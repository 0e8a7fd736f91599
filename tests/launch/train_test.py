"""launch.train: what it leaves behind, continuing, refusing, exit codes."""

import contextlib
import json
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

from attn_jax.core.errors import CheckpointError, ConfigError
from attn_jax.train.checkpoints import load_metadata, load_params
from attn_jax.train.stopping import StopKind
from attn_jax.train.writers import read_jsonl
from configs import canvas as canvas_config
from launch import tasks, train
from tests import testing
from tests.launch import toy_task
from tests.launch.dot_session import record_dot

COMMAND = ("-m", "launch.train", f"--config={testing.ROOT}/tests/launch/toy_task.py")


def config(**changes):
    made = toy_task.settings()
    made.update_from_flattened_dict(changes)
    return made


def test_leaves_everything_behind(tmp_path):
    result = train.train(config(), tmp_path, toy_task.build)
    assert {p.name for p in tmp_path.iterdir()} == {
        "checkpoints",
        "config.json",
        "metrics.jsonl",
        "result.json",
        "run.json",
    }
    outcome = json.loads((tmp_path / "result.json").read_text())
    assert outcome["stop"] == {"kind": "steps", "detail": "8 of 8 steps done"}
    assert outcome["metrics"]["val/mse"] == pytest.approx(result.metrics["val/mse"])
    assert outcome["timing"]["compile_s"] > 0
    assert outcome["best"]["step"] in (4, 8)
    resolved = json.loads((tmp_path / "config.json").read_text())
    assert resolved["train"]["optim"]["decay_steps"] == 8  # was 0: as long as the run
    assert load_metadata(tmp_path)["config"] == resolved
    assert load_metadata(tmp_path)["model"] == 8
    np.testing.assert_array_equal(
        load_params(tmp_path)["out"]["bias"], result.state.ema["out"]["bias"]
    )


def test_continues_and_may_run_longer(tmp_path):
    fixed = {"train.optim.decay_steps": 12}
    whole = train.train(config(**fixed, **{"train.steps": 10}), tmp_path / "w", toy_task.build)
    for steps in (3, 10):
        made = config(**fixed, **{"train.steps": steps})
        split = train.train(made, tmp_path / "s", toy_task.build)
    assert split.metrics == whole.metrics
    losses = [
        [(line["step"], line["loss"]) for line in lines if "loss" in line]
        for lines in (read_jsonl(tmp_path / n / "metrics.jsonl") for n in "ws")
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 5


def test_another_configuration_is_refused_by_field(tmp_path):
    train.train(config(), tmp_path, toy_task.build)
    before = (tmp_path / "config.json").read_text()

    def never(_):
        raise AssertionError("nothing may be built")

    with pytest.raises(ConfigError) as error:
        train.train(config(seed=1, **{"train.batch_size": 4}), tmp_path, never)
    assert "seed: was 0, now 1" in str(error.value)
    assert "train.batch_size: was 8, now 4" in str(error.value)
    # Longer would stretch the cosine.
    with pytest.raises(ConfigError, match=r"train\.optim\.decay_steps: was 8, now 20") as longer:
        train.train(config(**{"train.steps": 20}), tmp_path, never)
    kept = re.findall(r"--config\.(\S+)=(\d+)", str(longer.value))
    assert dict(kept) == {"train.optim.warmup_steps": "0", "train.optim.decay_steps": "8"}
    assert (tmp_path / "config.json").read_text() == before
    along = {name: int(value) for name, value in kept}
    result = train.train(config(**along, **{"train.steps": 12}), tmp_path, toy_task.build)
    assert result.reason.detail == "12 of 12 steps done"


def test_another_model_is_refused_by_tensor(tmp_path):
    session = record_dot(tmp_path / "dot")

    def canvas(**changes):
        made = canvas_config.get_config("size=64,tiny")
        made.data.sessions = str(session)
        made.model.update(dim=16, decoder_dim=16, decoder_depth=1, head_dim=8)
        made.train.update(steps=1, eval_at_start=False, progress="off")
        made.train.optim.warmup_steps = 0
        made.model.update(changes)
        return made

    run = tmp_path / "run"
    train.train(canvas(), run, tasks.build)
    with pytest.raises(ConfigError) as error:
        train.train(canvas(dim=32, decoder_depth=2), run, tasks.build)
    text = str(error.value)
    assert "model.dim: was 16, now 32" in text
    assert "\n  shape of params/patch_embed/kernel: saved (768, 16), needed (768, 32)" in text
    assert "\n  missing tensor params/decoder/block_1/attention" in text
    # Not a model at all.
    with pytest.raises(ConfigError, match=r"patch: was 16, now 48\n  .*cannot be built: .* 64 is"):
        train.train(canvas(patch=48), run, tasks.build)


def test_an_edited_checkpoint_is_named(tmp_path):
    train.train(config(), tmp_path, toy_task.build)
    newest = max((tmp_path / "checkpoints").iterdir(), key=lambda path: int(path.name))
    (file,) = newest.glob("_CHECKPOINT_METADATA")
    text = file.read_text()
    assert text.count('"batch_size": 8') == 1
    file.write_text(text.replace('"batch_size": 8', '"batch_size": 16'))
    with pytest.raises(CheckpointError, match=rf"{newest.name}: .* is not the one that was saved"):
        train.train(config(), tmp_path, toy_task.build)
    with pytest.raises(CheckpointError, match=r"its hash is [0-9a-f]{16}, the checkpoint says"):
        load_metadata(tmp_path)


def test_a_stop_file_of_before_does_not_count(tmp_path):
    (tmp_path / "stop").touch()
    assert train.train(config(), tmp_path, toy_task.build).reason.kind is StopKind.STEPS
    assert not (tmp_path / "stop").exists()


def test_tensorboard_on_request(tmp_path):
    testing.require_module("tensorboardX")
    train.train(config(**{"train.tensorboard": True}), tmp_path, toy_task.build)
    assert any((tmp_path / "tensorboard").iterdir())


def test_one_process_needs_no_coordinator():
    train.start_distributed(config())
    wrong = config(
        **{
            "distributed.coordinator": "127.0.0.1:1",
            "distributed.num_processes": 2,
            "distributed.process_id": 2,
        }
    )
    with pytest.raises(ConfigError, match="2 of 2 processes"):
        train.start_distributed(wrong)


@pytest.mark.slow
def test_command_line(tmp_path):
    done = testing.run_python(*COMMAND, f"--workdir={tmp_path}", "--json", "--config.train.steps=4")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["step"] == 4
    assert "orbax" not in done.stderr
    again = testing.run_python(*COMMAND, f"--workdir={tmp_path}", "--config.seed=5")
    assert again.returncode == 2
    assert again.stderr.splitlines()[-1].startswith("error: ")
    assert "seed: was 0, now 5" in again.stderr
    unknown = testing.run_python(*COMMAND, f"--workdir={tmp_path}", "--config.train.step=5")
    assert unknown.returncode not in (0, None)


@pytest.mark.slow
def test_sigterm_saves_and_says_so(tmp_path):
    child = subprocess.Popen(
        [
            sys.executable,
            *COMMAND,
            f"--workdir={tmp_path}",
            "--config.train.steps=1000000",
            "--config.train.save_every=0",
            "--config.train.eval_every=0",
            "--config.train.keep_best=0",
        ],
        cwd=testing.ROOT,
        env=testing.child_environment(),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        metrics = tmp_path / "metrics.jsonl"
        while not (metrics.exists() and len(metrics.read_text().splitlines()) > 3):
            with contextlib.suppress(subprocess.TimeoutExpired):
                raise AssertionError(f"ended early: {child.wait(timeout=0.1)}")
        child.send_signal(signal.SIGTERM)
        _, errors = child.communicate(timeout=120)
    finally:
        child.kill()
    assert child.returncode == 128 + signal.SIGTERM
    assert errors.splitlines()[-1].startswith("stopped early: received SIGTERM")
    saved = json.loads((tmp_path / "result.json").read_text())
    assert saved["stop"]["kind"] == "interrupted"
    assert [int(p.name) for p in (tmp_path / "checkpoints").iterdir()] == [saved["step"]]


if __name__ == "__main__":
    testing.main()
