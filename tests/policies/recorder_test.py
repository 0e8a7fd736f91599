"""One recorded episode: files, end, interruption."""

from __future__ import annotations

import numpy as np
import pytest

from attn_jax.core.errors import RecordError
from attn_jax.data.episodes import read_episode
from attn_jax.policies.recorder import OUTCOME, EpisodeRecorder, read_outcome
from attn_jax.probe.select import Selection
from attn_jax.probe.store import RecordReader
from tests import testing
from tests.probe.fake_records import call, expected

SELECTION = Selection(dtype="float32")


def record(run, calls=3, **options):
    recorder = EpisodeRecorder(run, 5, info={"prompt": "pick"}, **options)
    for number in range(calls):
        recorder.call(
            env_step=4 * number,
            images={"front": np.full((4, 6, 3), number, np.uint8)},
            state=np.full(2, number, np.float32),
            actions=np.zeros((3, 2), np.float32),
            records=call(number) if options else None,
            masks={"front": np.ones((1, 4, 6), bool)},
        )
    return recorder


def test_an_episode_on_disk(tmp_path):
    recorder = record(tmp_path, selection=SELECTION)
    assert recorder.num_calls == 3 and read_outcome(tmp_path, 5) is None
    recorder.close({"success": True, "steps": 9}, objects=["cube"], roles={"cube": "target"})
    assert read_outcome(tmp_path, 5) == {"success": True, "steps": 9}
    reader = RecordReader(tmp_path, 5)
    assert reader.complete and reader.env_step == (0, 4, 8)
    assert reader.info == {"prompt": "pick", "success": True}
    np.testing.assert_array_equal(reader.record("suffix").values[:], expected(3))
    episode = read_episode(recorder.folder)
    assert episode.images["front"][2, 0, 0, 0] == 2 and episode.roles == {"cube": "target"}
    with pytest.raises(RecordError, match="finished already"):
        EpisodeRecorder(tmp_path, 5, info={})


def test_an_interrupted_episode_is_readable_and_begun_again(tmp_path):
    record(tmp_path, selection=SELECTION).abort()
    assert RecordReader(tmp_path, 5).num_calls == 3
    again = record(tmp_path, calls=1, selection=SELECTION)
    again.close({"success": None}, objects=["cube"])
    assert RecordReader(tmp_path, 5).num_calls == 1


def test_observations_alone(tmp_path):
    recorder = record(tmp_path)
    recorder.close({"success": False}, objects=["cube"])
    assert sorted(f.name for f in recorder.folder.iterdir()) == [
        "observations.json",
        "observations.npz",
        OUTCOME,
    ]


if __name__ == "__main__":
    testing.main()
