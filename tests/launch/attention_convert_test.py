"""Records as HDF5 files per frame and prompt, and back. Other formats: attention_test.py."""

import h5py
import numpy as np
import pytest

from attn_jax.core.errors import RecordError
from attn_jax.core.layout import TokenGroup, TokenLayout
from attn_jax.core.record import AttentionRecord
from attn_jax.data.episodes import episode_folder, read_episode
from attn_jax.probe.store import RecordReader, RecordWriter
from launch.attention_convert import convert, inspect_seed
from tests import testing
from tests.viz import recorded


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = recorded.save_run(tmp_path_factory.mktemp("a") / "run", calls=2)
    np.save(episode_folder(run, 0) / "recorded_actions.npy", np.ones((2, 5, 2), np.float32))
    recorded.save_run(run / "variants" / "banana", calls=2, seed=3)
    return run


@pytest.fixture(scope="module")
def files(run):
    convert(run, run.parent / "files", to="hdf5")
    return run.parent / "files"


def test_files_hold_the_maps(files):
    names = [f"{step:05d}_{key}.h5" for step in (0, 5) for key in ("banana", "base")]
    assert sorted(f.name for f in files.iterdir()) == names
    maps = recorded.full_maps(2, 1)[0]  # (denoise, layer, head, action, key)
    with h5py.File(files / "00005_base.h5") as file:
        np.testing.assert_allclose(
            file["suffix/layer_5/action_to_img"][:], maps[-1, 1, ..., :512], rtol=1e-6
        )
        np.testing.assert_allclose(
            file["suffix_denoising/layer_2/action_to_img_steps"][:],
            maps[:, 0, ..., :512].mean(2),
            rtol=1e-5,
        )
        np.testing.assert_allclose(
            file["suffix_denoising/layer_2/group_masses"][:], [[0.3, 0.3, 0.3, 0.1]] * 4, rtol=1e-5
        )
        assert file["meta"].attrs["instruction"] == "pick the duck"
        assert file["meta/token_texts"].asstr()[:].tolist() == ["pick", "duck"]
        assert file["images/exterior"].shape == (224, 224, 3)
        assert file["gt_action"][:].sum() == 10


def test_there_and_back(run, files, tmp_path):
    done = convert(files, tmp_path / "again")
    assert done["episodes"]["banana"] == {"run": "variants/banana", "calls": 2}
    for key in ("", "variants/banana"):
        one, other = RecordReader(run / key), RecordReader(tmp_path / "again" / key)
        assert other.complete and other.env_step == (0, 5)
        for name in ("suffix.patch_map", "suffix.group_mass"):
            mine, back = one.record(name), other.record(name)
            assert (mine.layers, mine.denoise) == (back.layers, back.denoise)
        for old, new in (("front", "exterior"), ("wrist", "wrist")):
            expected = one.record("suffix.patch_map").select(query="action", key=f"image/{old}")
            found = other.record("suffix.patch_map").select(query="action", key=f"image/{new}")
            np.testing.assert_allclose(found, expected, rtol=1e-6)
    episode = read_episode(episode_folder(tmp_path / "again", 0))
    assert episode.prompt == "pick the duck" and episode.cameras == ("exterior", "wrist")
    assert episode.actions is not None and episode.actions.shape == (2, 5, 2)


def test_ids_of_the_prompt_survive(tmp_path):
    """In the order of the prompt: start, text, state, text again."""
    images = [
        TokenGroup(f"image/{name}", tuple(range(256 * i, 256 * (i + 1))), (16, 16))
        for i, name in enumerate(("front", "wrist"))
    ]
    words = (
        TokenGroup("bos", (512,), labels=("<bos>",), ids=(2,)),
        TokenGroup("text", (513, 515), labels=("pick", ";"), ids=(40, 42)),
        TokenGroup("state", (514,), labels=("7",), ids=(41,)),
        TokenGroup("pad", (516,), valid=False),
    )
    prompt = TokenGroup("prompt", (512, 513, 514, 515))
    layout = TokenLayout(517, (*images, *words), (prompt,))
    maps = np.zeros((1, 1, 1, 1, 517, 517), np.float32)
    maps[..., np.arange(517), np.arange(517)] = 1
    maps[..., 514, 514], maps[..., 514, 3] = 0, 1
    with RecordWriter(tmp_path / "run", codec="float32") as writer:
        writer.append([AttentionRecord("prefix", maps, layout, (0,), (0,))], env_step=0)
    assert RecordReader(tmp_path / "run").record("prefix").layout == layout
    convert(tmp_path / "run", tmp_path / "files", to="hdf5", cameras=["front", "wrist"])
    with h5py.File(tmp_path / "files" / "00000_base.h5") as file:
        assert file["meta/token_ids"][:].tolist() == [2, 40, 41, 42]
        assert file["meta/token_texts"].asstr()[:].tolist() == ["<bos>", "pick", "7", ";"]
        found = file["prefix/layer_0/text_to_img"][0]
        assert found.shape == (4, 512) and found[2, 3] == found.sum() == 1
    convert(tmp_path / "files", tmp_path / "again")
    text = RecordReader(tmp_path / "again").record("prefix").layout.group("text")
    assert text.ids == (2, 40, 41, 42) and text.labels == ("<bos>", "pick", "7", ";")


def test_inspect(files):
    found = inspect_seed(files, None, (16, 16))
    assert found["files"] == 4 and found["first"] == "00000_banana.h5"
    assert found["shapes"]["suffix"] == [1, 1, 2, 3, 5, 512]


def test_cameras_that_do_not_fit(run, tmp_path):
    with pytest.raises(RecordError, match="two cameras, the record has front"):
        convert(run, tmp_path / "x", to="hdf5", cameras=["front"])


def test_some_of_the_denoising_steps_are_refused(tmp_path):
    run = recorded.save_run(tmp_path / "run", calls=1, denoising_steps=10)
    with pytest.raises(RecordError, match=r"needs all 10 denoising steps; suffix has 0, 1, 2, 3"):
        convert(run, tmp_path / "files", to="hdf5")


if __name__ == "__main__":
    testing.main()
