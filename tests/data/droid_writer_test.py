import json

import h5py
import numpy as np
import pytest

from attn_jax.core.errors import EpisodeError
from attn_jax.data import droid_masks
from attn_jax.data.droid import read_droid
from attn_jax.data.droid_writer import droid_folder, write_droid
from tests import testing
from tests.data import fake_droid


def test_files_lie_where_the_layout_says(tmp_path):
    folder = droid_folder(tmp_path, success=False, date="2025-12-10", name="e")
    assert folder == tmp_path / "failure" / "2025-12-10" / "e"
    folder = fake_droid.save_droid(tmp_path, white_list=[8, 3])
    files = {str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()}
    frames = {
        f"recordings/frames/{camera}/{n:05d}.jpg"
        for camera in ("hand_camera", "varied_camera_1")
        for n in range(fake_droid.FRAMES)
    }
    masks = {f"masks/{n:05d}_{k}.npy" for n in (3, 8) for k in ("duck_toy_0", "bowl_1")}
    other = {"instruction.txt", "trajectory.h5", "dinox_info.json", "white_list.json"}
    assert files == frames | masks | other
    assert json.loads((folder / "white_list.json").read_text()) == [8, 3]


def test_boxes_are_in_raw_pixels(tmp_path):
    """The duck covers rows 4 to 11 and columns 4 f to 4 f + 7 of frame f."""
    folder = fake_droid.save_droid(tmp_path / "a")
    entry = json.loads((folder / "dinox_info.json").read_text())["8"][0]
    assert (entry["category"], entry["bbox"]) == ("duck toy", [32, 4, 39, 11])
    folder = fake_droid.save_droid(tmp_path / "b", layout="perception")
    with h5py.File(droid_masks.perception_file(folder, 8)) as file:
        assert file["wrist/bboxes/box_2d"][0].tolist() == [32, 4, 39, 11]
        assert file["wrist/bboxes/labels"].asstr()[:].tolist() == ["duck toy", "bowl"]
        np.testing.assert_array_equal(file["wrist/image"][:], fake_droid.pictures()[8])


def test_an_object_out_of_sight_has_no_detection(tmp_path):
    folder = fake_droid.save_droid(tmp_path, white_list=[16])
    assert [e["category"] for e in json.loads((folder / "dinox_info.json").read_text())["16"]] == [
        "bowl"
    ]
    assert read_droid(folder).objects == ("bowl",)


@pytest.mark.parametrize("layout", ["dinox", "perception"])
def test_roles_are_read_back(tmp_path, layout):
    roles = {"duck toy": "distractor", "bowl": "target"}
    folder = fake_droid.save_droid(tmp_path, roles=roles, layout=layout)
    assert read_droid(folder).roles == roles


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": {}}, "cameras"),
        ({"frames": {"top": fake_droid.pictures()}}, "Use some of"),
        ({"frames": {"wrist": fake_droid.pictures(3), "left": fake_droid.pictures(2)}}, "differ"),
        ({"frames": {"left": fake_droid.pictures()}}, "belong to the wrist camera"),
        ({"masks": fake_droid.object_masks(3)}, r"masks of 'duck toy' are \(3, 36, 64\)"),
        ({"layout": "sam"}, "unknown layout"),
        ({"roles": {"bowl": "goal"}}, "role 'goal'"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, options, message):
    with pytest.raises(EpisodeError, match=message):
        fake_droid.save_droid(tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_recording_is_kept(tmp_path):
    folder = fake_droid.save_droid(tmp_path)
    with pytest.raises(EpisodeError, match="exists already"):
        write_droid(
            folder,
            prompt="x",
            frames={"wrist": fake_droid.pictures()},
            trajectory=fake_droid.trajectory(),
        )


if __name__ == "__main__":
    testing.main()
