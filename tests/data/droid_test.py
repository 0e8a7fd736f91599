import dataclasses
import json

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from attn_jax.core.errors import ConfigError, EpisodeError
from attn_jax.data import droid
from attn_jax.data.droid import DroidOptions, droid_episodes, read_droid
from attn_jax.data.droid_files import Trajectory
from attn_jax.data.droid_writer import LAYOUTS
from tests import testing
from tests.data import fake_droid


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_recording_becomes_an_episode(tmp_path, layout):
    folder = fake_droid.save_droid(
        tmp_path, layout=layout, calibration={"wrist": [1.0, 2.0]}, success=False
    )
    episode = read_droid(folder)
    assert episode.env_step.tolist() == [0, 8, 16]
    assert episode.prompt == fake_droid.PROMPT
    assert episode.info["success"] is False and episode.info["masks"] == layout
    assert episode.info["source"] == "droid:failure/2025-12-10/2025-12-10_12-34-00"
    assert episode.info["calibration"] == {"wrist": [1.0, 2.0]}
    assert (episode.info["num_frames"], episode.info["num_rows"]) == (19, 17)
    assert episode.cameras == ("left", "wrist") and episode.objects == ("bowl", "duck toy")
    assert episode.roles == {"bowl": "place", "duck toy": "target"}

    masks = fake_droid.object_masks()
    for name in episode.objects:
        found = episode.masks["wrist"][:, episode.objects.index(name)]
        np.testing.assert_array_equal(found, masks[name][[0, 8, 16]])
    for camera, seed in (("wrist", 0), ("left", 50)):
        expected = fake_droid.pictures(seed=seed)[[0, 8, 16]].astype(int)
        assert np.abs(episode.images[camera] - expected).max() < 16  # JPEG

    rows = fake_droid.trajectory()
    assert rows.joint_velocity is not None and rows.gripper_action is not None
    np.testing.assert_array_equal(episode.state[1, :7], rows.joint_position[8])
    assert episode.state[2, 7] == rows.gripper_position[16]
    assert episode.actions is not None and episode.actions.shape == (3, 15, 8)
    np.testing.assert_array_equal(episode.actions[0, :, :7], rows.joint_velocity[:15])
    # Frame 8 + 9 is beyond the last row, 16: its action is repeated.
    np.testing.assert_array_equal(episode.actions[1, 8, :7], rows.joint_velocity[16])
    np.testing.assert_array_equal(episode.actions[1, 9:, 7], rows.gripper_action[[16] * 6])


@hypothesis.given(
    frames=st.integers(1, 12),
    rows=st.integers(1, 12),
    step=st.integers(1, 5),
    layout=st.sampled_from(LAYOUTS),
    white_list=st.one_of(st.none(), st.lists(st.integers(0, 11), min_size=1, max_size=3)),
    size=st.tuples(st.integers(2, 9), st.integers(2, 9)),
    seed=st.integers(0, 50),
)
@hypothesis.settings(max_examples=25)
def test_round_trip(tmp_path_factory, frames, rows, step, layout, white_list, size, seed):
    if white_list is not None:
        white_list = [number % frames for number in white_list]
    rng = np.random.default_rng(seed)
    masks = {name: rng.random((frames, *size)) < 0.2 for name in ("a b", "c")}
    trajectory = fake_droid.trajectory(rows, seed)
    folder = fake_droid.save_droid(
        tmp_path_factory.mktemp("root"),
        frames={"wrist": fake_droid.pictures(frames, size)},
        trajectory=trajectory,
        masks=masks,
        layout=layout,
        keyframe_step=step,
        white_list=white_list,
    )
    options = DroidOptions(cameras=("wrist",), keyframe_step=step, horizon=4)
    episode = read_droid(folder, options)
    expected = sorted(set(white_list)) if white_list else list(range(0, frames, step))
    assert episode.env_step.tolist() == expected
    assert set(episode.objects) == {n for n, mask in masks.items() if mask[expected].any()}
    for place, name in enumerate(episode.objects):
        np.testing.assert_array_equal(episode.masks["wrist"][:, place], masks[name][expected])
    at = np.minimum(expected, rows - 1)
    np.testing.assert_array_equal(episode.state[:, :7], trajectory.joint_position[at])
    at = np.minimum(np.asarray(expected)[:, None] + np.arange(4), rows - 1)
    assert episode.actions is not None and trajectory.joint_velocity is not None
    np.testing.assert_array_equal(episode.actions[..., :7], trajectory.joint_velocity[at])


def test_without_masks(tmp_path):
    folder = fake_droid.save_droid(tmp_path, masks=None)
    with pytest.raises(EpisodeError, match=r'no object masks.*ask for the masks "none"'):
        read_droid(folder)
    episode = read_droid(folder, DroidOptions(masks="none"))
    assert episode.objects == () and episode.masks == {} and episode.info["masks"] == "none"
    # The exterior camera has no masks, so none are missing.
    assert read_droid(folder, DroidOptions(cameras=("left",))).cameras == ("left",)


def test_episodes_of_a_root_in_order(tmp_path):
    for success, number in ((False, 0), (True, 2), (True, 1)):
        fake_droid.save_droid(tmp_path, success=success, number=number)
    names = [droid.droid_name(folder) for folder in droid_episodes(tmp_path)]
    assert names == [
        "success/2025-12-10/2025-12-10_12-34-01",
        "success/2025-12-10/2025-12-10_12-34-02",
        "failure/2025-12-10/2025-12-10_12-34-00",
    ]
    one = droid_episodes(tmp_path)[0]
    assert droid_episodes(one) == (one,)
    with pytest.raises(EpisodeError, match="no recordings here"):
        droid_episodes(tmp_path / "success")


def test_outcome_is_unknown_outside_the_layout(tmp_path):
    folder = fake_droid.save_droid(tmp_path / "a")
    moved = tmp_path / "other"
    folder.rename(moved)
    episode = read_droid(moved)
    assert episode.info["success"] is None and episode.info["source"] == "droid:other"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cameras": ("top",)}, "top"),
        ({"cameras": ()}, "Choose"),
        ({"cameras": ("left", "left")}, "different ones"),
        ({"keyframe_step": 0}, "at least 1"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ConfigError, match=message):
        DroidOptions(**options)


def _remove(name):
    return lambda folder: (folder / name).unlink()


def _write(name, content):
    return lambda folder: (folder / name).write_bytes(content)


WRIST = "recordings/frames/hand_camera"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_remove("instruction.txt"), r"instruction.txt: the prompt is missing.*Write"),
        (_write("instruction.txt", b" \n"), r"instruction.txt: the prompt is empty"),
        (_write("instruction.txt", b"\xff\xfe\xff"), r"instruction.txt: cannot be read"),
        (_remove("trajectory.h5"), r"trajectory.h5: the trajectory is missing"),
        (_write("trajectory.h5", b"HDF"), r"trajectory.h5: is no readable HDF5"),
        (_remove(f"{WRIST}/00008.jpg"), r"hand_camera/00008.jpg: frame is missing.*Copy it"),
        (_remove(f"{WRIST}/00018.jpg"), r"recordings/frames: cameras differ"),
        (_write(f"{WRIST}/00016.jpg", b"\xff\xd8\xff"), r"00016.jpg: frame cannot be decoded"),
        (_write("white_list.json", b"{}"), r"white_list.json: is no list"),
        (_write("white_list.json", b"[true]"), r"white_list.json: is no list"),
        (_write("white_list.json", b"[0"), r"white_list.json: is no JSON"),
        (_write("white_list.json", b"[0, 40]"), r"white_list.json: names frames \[40\].*0 to 18"),
        (_write("white_list.json", b"[3]"), r"dinox_info.json: has no detections of frame 3"),
        (_write("dinox_info.json", b"[1"), r"dinox_info.json: is no JSON"),
        (_write("dinox_info.json", b"[]"), r"dinox_info.json: has no detections of frame 0"),
        (_write("calibration.json", b"x"), r"calibration.json: is no JSON"),
    ],
)
def test_damage_names_the_file(tmp_path, damage, message):
    folder = fake_droid.save_droid(tmp_path)
    damage(folder)
    with pytest.raises(EpisodeError, match=message):
        read_droid(folder)


def test_missing_folders(tmp_path):
    with pytest.raises(EpisodeError, match="no such recording"):
        read_droid(tmp_path / "none")
    folder = fake_droid.save_droid(tmp_path)
    with pytest.raises(EpisodeError, match=r"varied_camera_2: no frames.*hand_camera, varied"):
        read_droid(folder, DroidOptions(cameras=("right",)))


def test_pictures_of_two_sizes(tmp_path):
    folder = fake_droid.save_droid(tmp_path)
    from PIL import Image

    Image.fromarray(np.zeros((5, 5, 3), np.uint8)).save(folder / WRIST / "00008.jpg")
    with pytest.raises(EpisodeError, match=r"00008.jpg: is \(5, 5\) pixels, frame 0 is \(36, 64\)"):
        read_droid(folder)


def test_spec_size_of_masks(tmp_path):
    """A mask of another size than the frames is named with its file."""
    folder = fake_droid.save_droid(tmp_path)
    path = next(iter(sorted((folder / "masks").glob("00008_*"))))
    np.save(path, np.zeros((4, 4), bool))
    with pytest.raises(EpisodeError, match=r"00008_.*npy: mask of .* is \(4, 4\), the frames"):
        read_droid(folder)


def test_actions_in_the_hands_frame_or_none(tmp_path):
    rows = fake_droid.trajectory()
    poses = np.arange(17 * 6, dtype=float).reshape(17, 6)
    moved = dataclasses.replace(rows, cartesian_velocity=poses)
    folder = fake_droid.save_droid(tmp_path, trajectory=moved)
    found = read_droid(folder, DroidOptions(actions="cartesian_velocity", horizon=2)).actions
    assert found is not None and found.shape == (3, 2, 7)
    np.testing.assert_array_equal(found[1, :, :6], poses[8:10])
    np.testing.assert_array_equal(found[1, :, 6], np.float32(rows.gripper_action[8:10]))
    watched = Trajectory(rows.joint_position, rows.gripper_position)
    folder = fake_droid.save_droid(tmp_path, number=1, trajectory=watched)
    episode = read_droid(folder)
    assert episode.actions is None and episode.state.shape == (3, 8)
    with pytest.raises(ConfigError, match="unknown actions 'torque'"):
        DroidOptions(actions="torque")


def test_state_that_is_not_finite(tmp_path):
    rows = fake_droid.trajectory()
    assert rows.joint_velocity is not None
    rows.joint_velocity[3, 2] = np.inf
    folder = fake_droid.save_droid(tmp_path, trajectory=rows)
    with pytest.raises(EpisodeError, match=r"joint_velocity: NaN or infinite in row 3"):
        read_droid(folder)


@pytest.mark.parametrize("score", [0, -1.0, np.nan, np.inf])
def test_a_detection_without_a_file_or_score_does_not_count(tmp_path, score):
    folder = fake_droid.save_droid(tmp_path)
    path = folder / "dinox_info.json"
    data = json.loads(path.read_text())
    data["0"][0]["score"] = score
    data["0"][1]["mask_file"] = None
    path.write_text(json.dumps(data))
    episode = read_droid(folder)
    seen = episode.masks["wrist"].any((2, 3))  # frame, (bowl, duck)
    assert seen.tolist() == [[False, False], [True, True], [True, False]]


if __name__ == "__main__":
    testing.main()
