"""Attention files of earlier tools, there and back."""

from __future__ import annotations

import numpy as np
import pytest

from attn_jax.bridge import seed_formats
from attn_jax.bridge.seed_formats import read_seed
from attn_jax.core.errors import RecordError
from tests import testing
from tests.bridge import seed_files

WHERE = {"cameras": ("wrist", "empty"), "grid": (2, 2)}


def check_layout(layout):
    assert layout.group("image/wrist").valid and not layout.group("image/empty").valid
    assert layout.group("text").indices == (8, 9)
    assert layout.group("pad").indices == (10,) and not layout.group("pad").valid


@pytest.mark.bridge
@pytest.mark.parametrize("spelling", ["code", "text"])
def test_episode(spelling, tmp_path):
    testing.require_module("torch")
    path = tmp_path / "episode_00007_attention.pt"
    values = seed_files.save_episode(path, number=7, spelling=spelling)
    episode = read_seed(path, **WHERE)
    assert (episode.number, episode.env_step, episode.layers) == (7, (0, 10, 20), (16, 17))
    assert episode.times == (1.0, 0.5)  # the file says 1.0 and 0.0
    check_layout(episode.layout)
    record = episode.record(2)
    np.testing.assert_array_equal(record.values, values[2:3])
    camera = record.select(query="action", key="image/wrist")
    assert camera.shape == (1, 2, 2, 2, 3, 2, 2)
    np.testing.assert_array_equal(camera.reshape(*camera.shape[:-2], 4), values[2:3][..., :4])


@pytest.mark.bridge
def test_times_of_a_part_of_the_steps(tmp_path):
    testing.require_module("torch")
    import torch

    def read(edit):
        data = seed_files.episode_data(seed_files.rows(0, 1, 3, 2, 2, 3, 14))
        maps = data["rollout_steps"][0]["attention_maps"]
        data["metadata"]["num_denoising_steps_per_action"] = 10
        for step, time in ((0, 1.0), (1, 0.9), (2, 0.0)):
            maps[step]["time"] = time
        maps[9] = maps.pop(2)
        edit(data)
        torch.save(data, tmp_path / "x.pt")
        return read_seed(tmp_path / "x.pt", **WHERE)

    episode = read(lambda data: None)
    assert episode.denoise == (0, 1, 9)
    np.testing.assert_allclose(episode.times, (1.0, 0.9, 0.1))
    assert episode.info["denoising_steps"] == 10 == len(episode.info["times"])
    assert episode.info["times"][:3] == [1.0, 0.9, None]
    # Fewer than its own steps: nobody knows how many there were.
    episode = read(lambda data: data["metadata"].update(num_denoising_steps_per_action=3))
    assert episode.times == (1.0, 0.9, 0.0) and episode.info["denoising_steps"] is None


@pytest.mark.bridge
def test_episode_in_bfloat16(tmp_path):
    testing.require_module("torch")
    import torch

    values = seed_files.save_episode(tmp_path / "x.pt", dtype=torch.bfloat16)
    got = read_seed(tmp_path / "x.pt", **WHERE).read(0)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, values[0], rtol=2**-8)


@pytest.mark.bridge
def test_damaged_episodes(tmp_path):
    testing.require_module("torch")
    import torch

    path = tmp_path / "x.pt"
    values = seed_files.rows(0, 2, 2, 2, 2, 3, 14)

    def saved(edit):
        data = seed_files.episode_data(values)
        edit(data["rollout_steps"])
        torch.save(data, path)
        return path

    with pytest.raises(RecordError, match=r"no attention episode.*KeyError"):
        read_seed(saved(lambda calls: calls[0].pop("rollout_step")), **WHERE)
    with pytest.raises(RecordError, match=r"no attention episode"):
        read_seed(saved(lambda calls: calls.clear()), **WHERE)
    with pytest.raises(RecordError, match="prefix_len 10"):
        read_seed(saved(lambda c: c[0]["attention_maps"][0].update(prefix_len=10)), **WHERE)
    with pytest.raises(RecordError, match="call 1, step 1, layer 17: is missing"):
        read_seed(saved(lambda c: c[1]["attention_maps"][1]["attention_weights"].pop(17)), **WHERE)
    torch.save([1], path)
    with pytest.raises(RecordError, match="no attention episode"):
        read_seed(path, **WHERE)


def test_one_layer_and_folder_and_archive(tmp_path):
    seed_files.save_layers(tmp_path / "maps")
    np.savez(tmp_path / "attn_all_layers.npz", layer_10=seed_files.prefix_maps(1))
    one = read_seed(tmp_path / "maps" / "attn_map_layer_11.npy", **WHERE)
    assert one.layers == (11,)
    whole = read_seed(tmp_path / "maps", **WHERE)
    assert whole.layers == (3, 11) and whole.stream == "prefix"
    check_layout(whole.layout)
    np.testing.assert_array_equal(whole.record(0).values[0, 0, 1], seed_files.prefix_maps(11)[0])
    assert read_seed(tmp_path / "attn_all_layers.npz", **WHERE).layers == (10,)


def test_suffix_of_one_step(tmp_path):
    values = seed_files.rows(0, 4, 1, 2, 3, 14)
    np.save(tmp_path / "suffix.npy", values)
    episode = read_seed(tmp_path / "suffix.npy", **WHERE)
    assert episode.stream == "suffix" and episode.layers == (0, 1, 2, 3)
    check_layout(episode.layout)
    np.testing.assert_array_equal(episode.record(0).values[0, 0], values[:, 0])


def test_cameras_are_counted_where_the_prompt_has_its_usual_length():
    unused = np.zeros(968, bool)
    layout = seed_formats.seed_layout(968, 50, None, (16, 16), unused, "x")
    assert layout.names == ("image/camera0", "image/camera1", "image/camera2", "text", "action")
    assert layout.group("text").indices[0] == 768 and layout.length == 1018
    with pytest.raises(RecordError, match="cannot tell how many cameras"):
        seed_formats.seed_layout(967, 50, None, (16, 16), unused[:967], "x")
    with pytest.raises(RecordError, match="3 cameras of 4 tokens do not fit into 11"):
        seed_formats.seed_layout(11, 3, ("a", "b", "c"), (2, 2), unused[:11], "x")


def test_what_is_no_seed_file(tmp_path):
    with pytest.raises(RecordError, match="no such file"):
        read_seed(tmp_path / "x.npy")
    (tmp_path / "x.txt").touch()
    with pytest.raises(RecordError, match="unknown kind"):
        read_seed(tmp_path / "x.txt")
    with pytest.raises(RecordError, match="has no attn_map_layer"):
        read_seed(tmp_path)
    np.save(tmp_path / "objects.npy", np.array([{}], object))
    with pytest.raises(RecordError, match="no readable array"):
        read_seed(tmp_path / "objects.npy")
    np.savez(tmp_path / "other.npz", a=np.ones(3))
    with pytest.raises(RecordError, match="expected layer_0"):
        read_seed(tmp_path / "other.npz")
    np.save(tmp_path / "attn_map_layer_0.npy", np.ones((2, 2, 3, 3)))
    with pytest.raises(RecordError, match="shapes"):
        read_seed(tmp_path / "attn_map_layer_0.npy", **WHERE)


def test_extractor():
    weights = seed_files.rows(0, 2, 8, 3, 14)
    got = seed_formats.extract_action_to_visual_attention(weights, 11, 3, 4)
    np.testing.assert_array_equal(got, weights[..., :4])
    got = seed_formats.extract_action_to_visual_attention(weights, 11, 3, 4, camera=1)
    assert not got.any()
    named = {"camera": "wrist", "cameras": ("wrist", "empty")}
    got = seed_formats.extract_action_to_visual_attention(weights, 11, 3, 4, **named)
    np.testing.assert_array_equal(got, weights[..., :4])
    with pytest.raises(RecordError, match=r"no camera 'top'.*wrist, empty"):
        seed_formats.extract_action_to_visual_attention(
            weights, 11, 3, 4, camera="top", cameras=("wrist", "empty")
        )
    with pytest.raises(RecordError, match="ends at token 12 of 11"):
        seed_formats.extract_action_to_visual_attention(weights, 11, 3, 4, camera=2)
    with pytest.raises(RecordError, match="lengths say"):
        seed_formats.extract_action_to_visual_attention(weights, 10, 3, 4)


if __name__ == "__main__":
    testing.main()
