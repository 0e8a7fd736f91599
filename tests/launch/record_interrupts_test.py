"""Recordings of demonstrations that signals end, and that the same command finishes."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from attn_jax.core.errors import SessionError
from attn_jax.data.lerobot import open_dataset
from attn_jax.data.lerobot_beside import read_masks, read_notes
from configs import tabletop
from launch import record
from tests import testing

EPISODES, EVERY = 18, 3
SETTINGS = {"episodes": EPISODES, "commit_every": EVERY, "robot.size": 8, "seed": 5}


def config(**fields):
    settings = tabletop.get_config("tiny")
    settings.update_from_flattened_dict(SETTINGS | fields)
    return settings


def start(folder):
    overrides = [f"--config.{name}={value}" for name, value in SETTINGS.items()]
    command = ["-m", "launch.record", "--config=configs/tabletop.py:tiny", f"--workdir={folder}"]
    return subprocess.Popen(
        [sys.executable, *command, *overrides, "--json"],
        cwd=testing.ROOT,
        env=testing.child_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def lines(folder):
    path = folder / "episodes.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def interrupt(folder, number):
    """Starts the command, sends a signal after four more episodes, and returns the exit code."""
    before = lines(folder)
    child = start(folder)
    while child.poll() is None and lines(folder) < before + 4:
        time.sleep(0.02)
    child.send_signal(number)
    _, errors = child.communicate(timeout=240)
    return child.returncode, errors


@pytest.mark.slow
def test_signals_lose_little_and_the_same_command_finishes(tmp_path):
    folder = tmp_path / "d"
    assert interrupt(folder, signal.SIGKILL)[0] == -signal.SIGKILL
    committed, written = len(open_dataset(folder).episodes), lines(folder)
    assert committed % EVERY == 0 and written - EVERY <= committed <= written and committed >= 3
    assert json.loads((folder / "config.json").read_text())["seed"] == 5
    assert json.loads((folder / "run.json").read_text())["seed"] == 5

    for number in (signal.SIGTERM, signal.SIGINT):
        code, errors = interrupt(folder, number)
        assert code == 128 + number, errors
        assert f"stopped after {lines(folder)} episodes; the same command continues" in errors
        assert committed < len(open_dataset(folder).episodes) == lines(folder) < EPISODES
        committed = lines(folder)

    out, errors = (child := start(folder)).communicate(timeout=240)
    assert child.returncode == 0, errors
    summary = record.main(config(), tmp_path / "whole")
    last = json.loads(out.splitlines()[-1])
    assert last | {"dataset": ""} == summary | {"dataset": ""}
    assert read_notes(folder) == read_notes(tmp_path / "whole")
    found, expected = open_dataset(folder), open_dataset(tmp_path / "whole")
    assert found.tasks == expected.tasks and found.columns.keys() == expected.columns.keys()
    np.testing.assert_array_equal(found.episodes, expected.episodes)
    for key in found.columns:
        np.testing.assert_array_equal(found.columns[key], expected.columns[key])
    for key in found.cameras:
        frames = np.arange(len(found))
        np.testing.assert_array_equal(found.frames(key, frames), expected.frames(key, frames))
    for episode in range(EPISODES):
        masks, of_whole = (read_masks(root, episode) for root in (folder, tmp_path / "whole"))
        assert all(np.array_equal(masks[camera], of_whole[camera]) for camera in of_whole)
    for key, stats in expected.stats.items():
        for name, value in stats.items():
            np.testing.assert_allclose(found.stats[key][name], value, rtol=1e-12, atol=1e-12)


def test_another_configuration_is_refused_untouched(tmp_path):
    writing = config(episodes=2)
    record.main(writing, tmp_path / "d")
    with pytest.raises(SessionError, match="already holds a dataset"):
        record.main(writing, tmp_path / "d")
    progress = {"settings": {"seed": 0, "episodes": 9}}
    (tmp_path / "d/meta/progress.json").write_text(json.dumps(progress))
    before = (tmp_path / "d/config.json").read_bytes()
    with pytest.raises(SessionError, match=r"unfinished dataset of other settings.*seed: was 0"):
        record.main(config(seed=1), tmp_path / "d")
    assert (tmp_path / "d/config.json").read_bytes() == before


if __name__ == "__main__":
    testing.main()
