import json

import h5py
import numpy as np
import pytest

from attn_jax.core.errors import EpisodeError
from attn_jax.data import droid_masks
from tests import testing
from tests.data import fake_droid


def test_source_is_chosen_and_named(tmp_path):
    plain = fake_droid.save_droid(tmp_path / "a")
    later = fake_droid.save_droid(tmp_path / "b", layout="perception")
    assert droid_masks.mask_source(plain) == "dinox"
    assert droid_masks.mask_source(later) == "perception"
    (later / "dinox_info.json").write_text("{}")
    assert droid_masks.mask_source(later) == "perception"
    assert droid_masks.mask_source(later, "dinox") == "dinox"
    assert droid_masks.mask_source(later, "none") == "none"
    with pytest.raises(EpisodeError, match="no perception/"):
        droid_masks.mask_source(plain, "perception")
    with pytest.raises(EpisodeError, match=r"unknown mask source 'sam'.*Use one of"):
        droid_masks.mask_source(plain, "sam")


@pytest.mark.parametrize("layout", ["dinox", "perception"])
def test_instances_of_a_category_are_one_mask(tmp_path, layout):
    masks = fake_droid.object_masks()
    folder = fake_droid.save_droid(tmp_path, masks=masks, layout=layout)
    if layout == "dinox":
        path = folder / "dinox_info.json"
        data = json.loads(path.read_text())
        for entries in data.values():
            for entry in entries:
                entry["category"] = "thing"
        path.write_text(json.dumps(data))
    else:
        for frame in (0, 8):
            with h5py.File(droid_masks.perception_file(folder, frame), "a") as file:
                file["wrist/bboxes/labels"][...] = "thing"
    objects, found = droid_masks.read_masks(folder, layout, [0, 8], fake_droid.SIZE)
    assert objects == ("thing",)
    both = masks["duck toy"] | masks["bowl"]
    np.testing.assert_array_equal(found[:, 0], both[[0, 8]])


def test_mask_files_cannot_lie_elsewhere(tmp_path):
    """Only the name of the file counts: absolute paths of another machine, and no way out."""
    folder = fake_droid.save_droid(tmp_path)
    path = folder / "dinox_info.json"
    data = json.loads(path.read_text())
    for entry in data["0"]:
        entry["mask_file"] = "/data3/somebody/" + entry["mask_file"]
    path.write_text(json.dumps(data))
    objects, _ = droid_masks.read_masks(folder, "dinox", [0], fake_droid.SIZE)
    assert objects == ("bowl", "duck toy")
    data["0"][0]["mask_file"] = "../instruction.txt"
    path.write_text(json.dumps(data))
    with pytest.raises(EpisodeError, match=r"masks/instruction.txt: mask is missing"):
        droid_masks.read_masks(folder, "dinox", [0], fake_droid.SIZE)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"category": "a"}, "entry 0: is no detection"),
        ({"category": "a", "score": "high"}, "entry 0: is no detection"),
        ("duck", "entry 0: is no detection"),
        ({"category": "", "score": 1.0}, "category '' or mask file"),
        ({"category": "a", "score": 1.0, "mask_file": 3}, "mask file 3 is no text"),
        ({"category": "a", "score": 1.0, "mask_file": "gone.npy"}, "gone.npy: mask is missing"),
        ({"category": "a", "score": 1.0, "mask_file": "text.npy"}, "text.npy: mask is damaged"),
        ({"category": "a", "score": 1.0, "mask_file": "cube.npy"}, "cube.npy: is no"),
    ],
)
def test_wrong_detections(tmp_path, entry, message):
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "text.npy").write_text("text")
    np.save(tmp_path / "masks" / "cube.npy", np.zeros((2, 2, 2), bool))
    (tmp_path / "dinox_info.json").write_text(json.dumps({"0": [entry]}))
    with pytest.raises(EpisodeError, match=message):
        droid_masks.read_masks(tmp_path, "dinox", [0], (2, 2))


def test_wrong_perception_files(tmp_path):
    folder = fake_droid.save_droid(tmp_path, layout="perception")
    path = droid_masks.perception_file(folder, 8)
    with h5py.File(path, "a") as file:
        del file["wrist/bboxes/labels"]
    with pytest.raises(EpisodeError, match=r"00008/perception.h5: detections are damaged"):
        droid_masks.read_masks(folder, "perception", [8], fake_droid.SIZE)
    with h5py.File(path, "a") as file:
        file["wrist/bboxes/labels"] = ["one"]
    with pytest.raises(EpisodeError, match="1 labels for masks of shape"):
        droid_masks.read_masks(folder, "perception", [8], fake_droid.SIZE)
    path.unlink()
    with pytest.raises(EpisodeError, match=r"00008/perception.h5: detections are missing"):
        droid_masks.read_masks(folder, "perception", [8], fake_droid.SIZE)


@pytest.mark.parametrize("layout", ["dinox", "perception"])
def test_masks_of_floats_are_yes_or_no(tmp_path, layout):
    """A probability of 0.1 would count as part of the object, and so would NaN."""
    folder = fake_droid.save_droid(tmp_path, layout=layout)

    def save(value):
        if layout == "perception":
            with h5py.File(droid_masks.perception_file(folder, 8), "a") as file:
                masks = np.where(np.asarray(file["wrist/masks"]), np.float32(value), 0)
                del file["wrist/masks"]
                file["wrist/masks"] = masks
            return
        for path in (folder / "masks").glob("00008_*.npy"):
            np.save(path, np.where(np.load(path), np.float32(value), 0))

    _, before = droid_masks.read_masks(folder, layout, [8], fake_droid.SIZE)
    save(1)
    _, same = droid_masks.read_masks(folder, layout, [8], fake_droid.SIZE)
    np.testing.assert_array_equal(same, before)
    for value in (0.1, np.nan):
        save(value)
        with pytest.raises(EpisodeError, match=r"neither yes nor no.*threshold"):
            droid_masks.read_masks(folder, layout, [8], fake_droid.SIZE)


@pytest.mark.parametrize(
    ("prompt", "roles"),
    [
        ("find the duck toy and pick it up", ("target", "distractor", "distractor")),
        ("put the duck toy in the bowl", ("target", "place", "distractor")),
        ("Place the DUCK  toy onto a red bowl!", ("target", "place", "distractor")),
        ("pick up the bowl", ("distractor", "target", "distractor")),
        ("do something", ("other", "other", "other")),
    ],
)
def test_roles_by_prompt(prompt, roles):
    objects = ("duck_toy", "bowl", "banana")
    assert droid_masks.roles_by_prompt(objects, prompt) == dict(zip(objects, roles, strict=True))


@pytest.mark.parametrize(
    ("objects", "prompt", "roles"),
    [
        ("cube tray", "pick up the cube from the tray", "target other"),
        ("cup table", "pick the cup on the table", "target other"),
        ("cup table", "put the cup on the table", "target place"),
        ("duck duck_toy bowl", "put the duck toy in the bowl", "distractor target place"),
        ("duck duck_toy bowl", "put the duck in the bowl", "target distractor place"),
        ("duck_toy bowl", "find the toy duck", "target distractor"),
        ("cube tray bowl", "get the cube from the tray and put it in a bowl", "target other place"),
        # The words are there, but not side by side.
        ("red_cube red_tray blue_cube blue_tray", "put the red cube in the blue tray",
         "target distractor distractor place"),
    ],
)  # fmt: skip
def test_roles_of_overlapping_names_and_of_sources(objects, prompt, roles):
    expected = dict(zip(objects.split(), roles.split(), strict=True))
    assert droid_masks.roles_by_prompt((*expected,), prompt) == expected


def test_roles_of_a_matching_file(tmp_path):
    expected = {"duck toy": "target", "bowl": "place", "banana": "distractor", "hand": "other"}
    for text in (
        "grasp: [duck_toy]\nplace: bowl\nother: [banana]\n",
        "Duck toy: grasp\nbowl: place\nbanana: other\n",
    ):
        (tmp_path / "object_matching.yaml").write_text(text)
        assert droid_masks.read_roles(tmp_path, tuple(expected), "take the hand") == expected
    for text, message in (
        ("grasp: [", "is no YAML"),
        ("[1]", "holds no mapping"),
        ("duck: hold", "'duck' has the role 'hold'.*grasp"),
        ("!!python/object/apply:os.getcwd []", "is no YAML"),
    ):
        (tmp_path / "object_matching.yaml").write_text(text)
        with pytest.raises(EpisodeError, match=message):
            droid_masks.read_roles(tmp_path, ("duck",), "")


if __name__ == "__main__":
    testing.main()
