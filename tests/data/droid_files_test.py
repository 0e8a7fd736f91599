import dataclasses

import h5py
import numpy as np
import pytest

from attn_jax.core.errors import EpisodeError
from attn_jax.data import droid_files
from tests import testing
from tests.data import fake_droid


def test_gripper_as_a_column_is_read_too(tmp_path):
    folder = fake_droid.save_droid(tmp_path)
    expected = droid_files.read_trajectory(folder).gripper_position
    with h5py.File(folder / "trajectory.h5", "a") as file:
        rows = file["action/gripper_position"][:]
        del file["action/gripper_position"]
        file["action/gripper_position"] = rows[:, None]
    found = droid_files.read_trajectory(folder)
    np.testing.assert_array_equal(found.gripper_position, expected)
    np.testing.assert_array_equal(found.gripper_action, rows)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "observation/robot_state/joint_positions",
            None,
            "has no dataset observation/robot_state/j",
        ),
        ("observation/timestamp/start", np.zeros(3), "datasets differ in length"),
        ("observation/timestamp/start", np.zeros((17, 2)), r"start: .*expected numbers \(T,\)"),
        ("observation/camera_intrinsics/1", np.full((3, 3), np.nan), "intrinsics/1: NaN or inf"),
        ("observation/camera_extrinsics/1", np.array([b"a"]), "extrinsics/1: .*is no number"),
        ("action/joint_velocity", np.zeros((17, 6)), r"expected numbers \(T, 7\)"),
        ("action/joint_velocity", np.zeros((16, 7)), "datasets differ in length"),
        ("action/gripper_position", np.zeros((17, 2)), r"expected numbers \(T,\)"),
        ("action/gripper_position", np.array([b"a"] * 17), "expected numbers"),
        ("action/gripper_position", np.float64(1.0), "expected numbers"),
        ("action/joint_velocity", np.zeros((0, 7)), r"expected numbers \(T, 7\)"),
    ],
)
def test_wrong_datasets(tmp_path, name, value, message):
    folder = fake_droid.save_droid(tmp_path)
    with h5py.File(folder / "trajectory.h5", "a") as file:
        if name in file:
            del file[name]
        if value is not None:
            file[name] = value
    with pytest.raises(EpisodeError, match=message):
        droid_files.read_trajectory(folder)


def test_all_that_the_layout_knows(tmp_path):
    """Poses, cameras and times come back as they were written."""
    rng = np.random.default_rng(0)
    rows = dataclasses.replace(
        fake_droid.trajectory(),
        cartesian_position=rng.normal(size=(17, 6)),
        cartesian_velocity=rng.normal(size=(17, 6)),
        intrinsics={"hand_left": rng.normal(size=(3, 3))},
        extrinsics={"hand_left": rng.normal(size=(17, 6)), "left": rng.normal(size=6)},
        timestamps={"control/step_start": np.arange(17.0)},
    )
    found = droid_files.read_trajectory(fake_droid.save_droid(tmp_path, trajectory=rows))
    for field in dataclasses.fields(rows):
        expected, got = getattr(rows, field.name), getattr(found, field.name)
        if isinstance(expected, np.ndarray):
            np.testing.assert_array_equal(got, expected)
        else:
            assert got.keys() == expected.keys()
            assert all(np.array_equal(got[name], expected[name]) for name in expected)


def test_prompt_is_one_line(tmp_path):
    (tmp_path / "instruction.txt").write_text("  find the\n duck \n")
    assert droid_files.read_prompt(tmp_path) == "find the duck"


def test_keyframes():
    assert droid_files.keyframes(testing.ROOT, 181, 8) == tuple(range(0, 177, 8))
    assert len(droid_files.keyframes(testing.ROOT, 181, 8)) == 23  # as the reference episode has


if __name__ == "__main__":
    testing.main()
