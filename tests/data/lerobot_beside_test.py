import json

import numpy as np
import pytest

from attn_jax.core.errors import EpisodeError
from attn_jax.data.lerobot_beside import (
    EPISODES_FILE,
    MASK_FILE,
    object_masks,
    read_masks,
    read_note,
    read_notes,
)
from tests import testing

IDS = np.array([[[0, 1, 1], [2, 3, 255]], [[3, 3, 3], [0, 0, 2]]], np.uint8)


def test_masks_by_hand():
    found = object_masks({"front": IDS}, ("basket", "milk", "robot arm"))
    expected = [
        [[[0, 1, 1], [0, 0, 0]], [[0, 0, 0], [1, 0, 0]], [[0, 0, 0], [0, 1, 0]]],
        [[[0, 0, 0], [0, 0, 0]], [[0, 0, 0], [0, 0, 1]], [[1, 1, 1], [0, 0, 0]]],
    ]
    np.testing.assert_array_equal(found["front"], np.array(expected, bool))


def test_an_id_without_a_name():
    with pytest.raises(EpisodeError, match=r"ids \[3\] in the masks of 'front'.*2 objects: a, b"):
        object_masks({"front": IDS}, ("a", "b"))


def test_notes(tmp_path):
    assert read_note(tmp_path, 0) is None
    with pytest.raises(EpisodeError, match=r"episodes.jsonl: is missing.*launch.record"):
        read_notes(tmp_path)
    notes = [{"episode_index": number, "objects": ["a"]} for number in range(3)]
    path = tmp_path / EPISODES_FILE
    path.write_text("".join(json.dumps(note) + "\n" for note in notes))
    assert read_notes(tmp_path) == notes and read_note(tmp_path, 2) == notes[2]
    with pytest.raises(EpisodeError, match="no line of episode 3"):
        read_note(tmp_path, 3)
    path.write_text(json.dumps(notes[0]) + '\n{"episode_index": 1')
    with pytest.raises(EpisodeError, match="line 2 is no note"):
        read_note(tmp_path, 0)


def test_mask_files(tmp_path):
    with pytest.raises(EpisodeError, match=r"episode_000001.npz: is missing.*dataset.masks=true"):
        read_masks(tmp_path, 1)
    path = tmp_path / MASK_FILE.format(1)
    path.parent.mkdir()
    np.savez_compressed(path, front=IDS)
    np.testing.assert_array_equal(read_masks(tmp_path, 1)["front"], IDS)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(EpisodeError, match=r"episode_000001.npz: is damaged"):
        read_masks(tmp_path, 1)


if __name__ == "__main__":
    testing.main()
