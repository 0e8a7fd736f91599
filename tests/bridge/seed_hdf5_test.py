import dataclasses

import h5py
import numpy as np
import pytest

from attn_jax.bridge import seed_hdf5
from attn_jax.bridge.seed_hdf5 import read_frame, write_frame
from attn_jax.core.errors import RecordError
from tests import testing

HEADS, ACTIONS, STEPS, TEXT = 2, 3, 4, 5
LAYERS = (5, 17)


def save(path, *, full=False, seed=0):
    """A file as the later tool writes it, with everything random."""
    rng = np.random.default_rng(seed)
    data = {}
    for layer in LAYERS:
        if full:
            data[f"prefix/layer_{layer}/full"] = (HEADS, 773, 773)
        data[f"prefix/layer_{layer}/text_to_img"] = (HEADS, TEXT, 512)
        data[f"suffix/layer_{layer}/action_to_img"] = (HEADS, ACTIONS, 512)
        data[f"suffix_denoising/layer_{layer}/action_to_img_steps"] = (STEPS, HEADS, 512)
        data[f"suffix_denoising/layer_{layer}/group_masses"] = (STEPS, 4)
    data |= {"suffix_denoising/action_traj": (STEPS, 15, 8), "gt_action": (15, 8)}
    data["pred_action"] = (15, 8)
    with h5py.File(path, "w") as file:
        for name, shape in data.items():
            file[name] = rng.random(shape, np.float32)
        file["suffix_denoising/n_steps"] = STEPS
        for camera in ("exterior", "wrist"):
            file[f"images/{camera}"] = rng.integers(0, 256, (224, 224, 3), np.uint8)
        meta = file.create_group("meta")
        meta.attrs.update({"prefix_len": 768, "seq_len": 968, "n_real_tokens": TEXT})
        meta.attrs["instruction"] = "find the duck"
        meta["token_texts"] = [*"abcde"]
        meta["token_ids"] = np.arange(TEXT) + 10
    return path


def test_maps_by_name(tmp_path):
    path = save(tmp_path / "00008_base.h5")
    frame = read_frame(path)
    assert (frame.instruction, frame.token_texts) == ("find the duck", tuple("abcde"))
    assert set(frame.records) == {"prefix", "suffix", "suffix.patch_map", "suffix.group_mass"}
    with h5py.File(path) as file:
        wrist = frame.records["suffix"].select(query="action", key="image/wrist")
        assert wrist.shape == (1, 1, 2, HEADS, ACTIONS, 16, 16)
        expected = file["suffix/layer_17/action_to_img"][..., 256:]
        np.testing.assert_array_equal(wrist[0, 0, 1].reshape(HEADS, ACTIONS, 256), expected)
        patches = frame.records["suffix.patch_map"].select(query="action", key="image/exterior")
        expected = file["suffix_denoising/layer_5/action_to_img_steps"][:, :, :256]
        np.testing.assert_array_equal(patches[0, :, 0].reshape(STEPS, HEADS, 256), expected)
        mass = frame.records["suffix.group_mass"].select(query="action", key="text")
        expected = file["suffix_denoising/layer_17/group_masses"][:, 2]
        np.testing.assert_array_equal(mass[0, :, 1].ravel(), expected)
        words = frame.records["prefix"].select(query="text", key="image/wrist")
        expected = file["prefix/layer_5/text_to_img"][..., 256:]
        np.testing.assert_array_equal(words[0, 0, 0].reshape(HEADS, TEXT, 256), expected)
    assert frame.records["suffix"].denoise == (STEPS - 1,)
    assert frame.records["suffix"].layout.group("text").labels == tuple("abcde")
    assert not frame.records["suffix"].layout.group("image/dummy0").valid


@pytest.mark.parametrize("full", [False, True])
def test_there_and_back(tmp_path, full):
    path = save(tmp_path / "00008_base.h5", full=full)
    frame = read_frame(path)
    if full:
        assert frame.records["prefix"].shape == (1, 1, 2, HEADS, 773, 773)
        # What text sees is part of the whole map, and is written from it.
        with h5py.File(path, "a") as file:
            for layer in LAYERS:
                whole = file[f"prefix/layer_{layer}/full"][:, 768:, :512]
                file[f"prefix/layer_{layer}/text_to_img"][...] = whole
    write_frame(tmp_path / "00008_again.h5", frame)
    with h5py.File(path) as one, h5py.File(tmp_path / "00008_again.h5") as other:
        names = []
        one.visititems(lambda n, node: names.append(n) if isinstance(node, h5py.Dataset) else None)
        for name in names:
            np.testing.assert_array_equal(np.asarray(one[name]), np.asarray(other[name]), name)
        assert other["meta"].attrs["instruction"] == "find the duck"
        assert other["meta"].attrs["n_real_tokens"] == TEXT


def test_scalars_may_be_datasets(tmp_path):
    path = save(tmp_path / "00008_base.h5")
    with h5py.File(path, "a") as file:
        for name, value in dict(file["meta"].attrs).items():
            del file["meta"].attrs[name]
            file["meta"][name] = value
    frame = read_frame(path)
    assert (frame.instruction, len(frame.token_texts)) == ("find the duck", TEXT)


def test_what_is_wrong_is_named(tmp_path):
    with pytest.raises(RecordError, match="is no readable HDF5"):
        read_frame(tmp_path / "0_base.h5")
    path = save(tmp_path / "00008_base.h5")
    with h5py.File(path, "a") as file:
        del file["suffix/layer_5/action_to_img"]
        file["suffix/layer_5/action_to_img"] = np.zeros((HEADS, 1, 512))
    with pytest.raises(RecordError, match="action_to_img differs in shape"):
        read_frame(path)
    with h5py.File(path, "a") as file:
        for name in ("prefix", "suffix", "suffix_denoising"):
            del file[name]
    with pytest.raises(RecordError, match="holds no attention"):
        read_frame(path)
    with h5py.File(path, "a") as file:
        del file["meta"]
    with pytest.raises(RecordError, match="is malformed"):
        read_frame(path)


def test_records_without_a_place(tmp_path):
    frame = read_frame(save(tmp_path / "00008_base.h5"))
    record = frame.records["suffix"]
    for records, message in (
        ({}, "no attention"),
        ({"decoder": record}, "no place for 'decoder'"),
        (
            {"suffix": dataclasses.replace(record, values=np.concatenate([record.values] * 2))},
            "2 calls",
        ),
    ):
        with pytest.raises(RecordError, match=message):
            write_frame(tmp_path / "x.h5", dataclasses.replace(frame, records=records))


def test_names(tmp_path):
    assert seed_hdf5.is_seed_hdf5(tmp_path / "00008_base.h5")
    assert not seed_hdf5.is_seed_hdf5(tmp_path / "trajectory.h5")
    assert not seed_hdf5.is_seed_hdf5(tmp_path)
    (tmp_path / "8_a_b.h5").touch()
    assert seed_hdf5.is_seed_hdf5(tmp_path)


if __name__ == "__main__":
    testing.main()
