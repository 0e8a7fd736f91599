"""Recorded LIBERO demonstrations: read back, and continued after a stop; real assets."""

from __future__ import annotations

import dataclasses
import os
import signal

import numpy as np
import pytest

from attn_jax.core.calibration import unproject
from attn_jax.core.errors import ConfigError, SessionError
from attn_jax.data.lerobot import open_dataset
from attn_jax.data.lerobot_beside import read_notes, read_views
from attn_jax.data.lerobot_episodes import read_lerobot
from robots.libero import record as record_module
from robots.libero.record import LiberoRecording, record
from tests import testing

testing.require_module("libero")
testing.require_library("OSMesa")
pytestmark = [pytest.mark.bridge, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

SMALL = LiberoRecording(
    "libero_object", (0,), size=64, episodes=2, keep_every=20, views=("depth",), look_at=True
)


def test_a_recording_that_is_stopped_goes_on(tmp_path, monkeypatch):
    demonstrate = record_module.demonstrate

    def stopped(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        return demonstrate(*args, **kwargs)

    monkeypatch.setattr(record_module, "demonstrate", stopped)
    summary = record(SMALL, tmp_path)
    assert (summary.attempts, summary.episodes, summary.signal) == (1, 1, signal.SIGTERM)
    monkeypatch.undo()
    with pytest.raises(SessionError, match="episodes: was 2, now 3"):
        record(dataclasses.replace(SMALL, episodes=3), tmp_path)
    summary = record(SMALL, tmp_path)
    assert (summary.attempts, summary.episodes, summary.signal) == (2, 2, None)
    assert [note["start_state"] for note in read_notes(tmp_path)] == [0, 1]
    episode = read_lerobot(open_dataset(tmp_path), 1, step=1, horizon=1)
    assert episode.prompt == "pick up the alphabet soup and place it in the basket"
    assert episode.roles["alphabet_soup_1"] == "target" and episode.roles["basket_1"] == "place"
    calls = len(episode.state)
    assert episode.masks["image"].shape == (calls, len(episode.objects), 64, 64)
    # Depth lies beside it, with the geometry to use it.
    views = read_views(tmp_path, 1)
    points = unproject(views["depth.image"], views["pose.image"], views["intrinsics.image"])[0]
    number = episode.objects.index("alphabet_soup_1")
    middle = np.median(points[episode.masks["image"][0, number]], axis=0)
    assert np.linalg.norm(middle[:2]) < 0.5 and 0 < middle[2] < 1.2


def test_what_cannot_be_recorded():
    with pytest.raises(ConfigError, match="divisor of 20"):
        LiberoRecording("libero_object", keep_every=3)
    with pytest.raises(ConfigError, match="at least one episode"):
        LiberoRecording("libero_object", episodes=0)
    with pytest.raises(ConfigError, match="Use depth, or none"):
        LiberoRecording("libero_object", views=("points",))


if __name__ == "__main__":
    testing.main()
