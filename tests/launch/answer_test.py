"""The launcher that answers questions, against transformers' PaliGemma inside LeRobot's policy."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest

from attn_jax.bridge.pi05_table import LM_HEAD
from attn_jax.bridge.safetensors_reader import Entry, open_safetensors, write_safetensors
from tests import testing
from tests.models.pi05 import lerobot_reference as reference

testing.require_module("torch", "lerobot")
pytestmark = pytest.mark.bridge

CASE = reference.Case(lengths=(17, 9), seed=4)
COUNT = 6


@pytest.fixture(scope="module")
def lerobot(tmp_path_factory):
    """(checkpoint folder, batch, ids, logits and attention of transformers)."""
    folder = tmp_path_factory.mktemp("pi05")
    policy = reference.make_policy(CASE)
    reference.save(policy, CASE, folder)
    (folder / "architecture.json").write_text(json.dumps(CASE.sizes.to_json()))
    batch = reference.make_batch(CASE)
    return folder, batch, *reference.generate_text(policy, CASE, batch, COUNT)


@pytest.fixture(scope="module")
def headless(lerobot, tmp_path_factory):
    """The same checkpoint without the head."""
    folder = tmp_path_factory.mktemp("headless")
    tensors = open_safetensors(lerobot[0] / "model.safetensors")
    entries = {
        name: Entry(tensors.shape(name), tensors.dtype(name), functools.partial(tensors.get, name))
        for name in tensors
        if name != LM_HEAD
    }
    write_safetensors(folder / "model.safetensors", entries)
    for name in ("config.json", "architecture.json"):
        (folder / name).write_text((lerobot[0] / name).read_text())
    return folder


def answer(folder, batch, tmp_path, *flags):
    inputs = {f"image{i}": batch[f"cam{i}"][:1] for i in range(CASE.cameras)}
    inputs |= {"tokens": batch["tokens"][:1], "token_mask": batch["mask"][:1]}
    np.savez(tmp_path / "in.npz", **inputs)
    return testing.run_python(
        "-m",
        "launch.answer",
        f"--checkpoint={folder}",
        f"--inputs={tmp_path / 'in.npz'}",
        f"--outputs={tmp_path / 'out.npz'}",
        f"--max_tokens={COUNT}",
        *flags,
    )


@pytest.mark.slow
def test_the_launcher_answers(lerobot, headless, tmp_path):
    folder, batch, ids, _, attention = lerobot
    selection = "streams=text;layers=last:1;reduce=full;dtype=float32"
    done = answer(folder, batch, tmp_path, f"--capture={selection}")
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "out.npz", allow_pickle=False) as out:
        np.testing.assert_array_equal(out["answer_tokens"], ids[:1])
        # Without the dummy camera and the padding.
        shape = 1, 1, CASE.sizes.heads, COUNT, 2 * 16 + 17 + COUNT
        assert out["attn_text"].shape == shape
        kept = [*range(32), *range(48, 48 + 17), *range(72, 72 + COUNT)]
        np.testing.assert_allclose(out["attn_text"][0], attention[-1, :1][..., kept], atol=2e-6)
        layout = json.loads(str(out["attn_labels"]))["attn_text"]["layouts"][0]
        assert [group["name"] for group in layout["groups"]][-1] == "generated"
    refused = answer(headless, batch, tmp_path)
    assert refused.returncode == 2 and "no text head" in refused.stderr


if __name__ == "__main__":
    testing.main()
