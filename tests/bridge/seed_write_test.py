"""Records in the attention files of earlier tools."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from attn_jax.bridge import seed_write
from attn_jax.bridge.seed_formats import read_seed
from attn_jax.core.errors import RecordError
from attn_jax.core.record import AttentionRecord
from tests import testing
from tests.bridge import seed_files

WHERE = {"cameras": ("wrist", "empty"), "grid": (2, 2)}


@pytest.mark.bridge
def test_episode_there_and_back(tmp_path):
    testing.require_module("torch")
    import torch

    seed_files.save_episode(tmp_path / "a.pt", number=5)
    episode = read_seed(tmp_path / "a.pt", **WHERE)
    records = [episode.record(call) for call in range(3)]
    seed_write.write_episode(tmp_path / "b.pt", records, episode.env_step, number=5)
    original, again = (torch.load(tmp_path / n, weights_only=True) for n in ("a.pt", "b.pt"))
    assert again["metadata"] == original["metadata"]
    assert (again["episode_index"], again["batch_index"]) == (5, 0)
    for one, other in zip(original["rollout_steps"], again["rollout_steps"], strict=True):
        assert one["rollout_step"] == other["rollout_step"]
        for step, maps in one["attention_maps"].items():
            copy = other["attention_maps"][step]
            assert copy["time"] == (1.0, 0.5)[step]
            assert (copy["prefix_len"], copy["suffix_len"]) == (11, 3)
            for layer, tensor in maps["attention_weights"].items():
                assert torch.equal(copy["attention_weights"][layer], tensor)


@pytest.mark.bridge
def test_some_of_the_denoising_steps_keep_their_times(tmp_path):
    testing.require_module("torch")
    import torch

    seed_files.save_episode(tmp_path / "a.pt")
    record = read_seed(tmp_path / "a.pt", **WHERE).record(0)
    times = [1.0, 0.9, 0.8, 0.7, None]
    part = dataclasses.replace(record, denoise=(1, 3))
    seed_write.write_episode(tmp_path / "b.pt", [part], [0], times=times)
    data = torch.load(tmp_path / "b.pt", weights_only=True)
    assert data["metadata"]["num_denoising_steps_per_action"] == 5
    maps = data["rollout_steps"][0]["attention_maps"]
    assert {step: maps[step]["time"] for step in maps} == {1: 0.9, 3: 0.7}
    for denoise in ((1, 4), (1, 5)):
        part = dataclasses.replace(record, denoise=denoise)
        with pytest.raises(RecordError, match=f"denoising step {denoise[1]} has no time"):
            seed_write.write_episode(tmp_path / "c.pt", [part], [0], times=times)
    with pytest.raises(RecordError, match=r"\(1, 5\) do not say how many"):
        seed_write.write_episode(tmp_path / "c.pt", [part], [0])


def test_records_that_left_something_out_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", layer_0=seed_files.prefix_maps())
    record = read_seed(tmp_path / "x.npz", **WHERE).record(0)
    with pytest.raises(RecordError, match="needs the stream suffix"):
        seed_write.write_episode(tmp_path / "x.pt", [record], [0])
    layout = record.layout.restrict(keys=["image/wrist"])
    part = AttentionRecord("prefix", record.values[..., :4], layout, (0,), (0, 1))
    with pytest.raises(RecordError, match=r"needs every key.*capture='streams=prefix"):
        seed_write.write_layers(tmp_path / "y.npz", part)


if __name__ == "__main__":
    testing.main()
