"""What is trained here runs in LeRobot with the same actions."""

from __future__ import annotations

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from attn_jax.bridge.checkpoint_folder import open_checkpoint
from attn_jax.bridge.pi05_table import EXPERT_LM_HEAD, LM_HEAD
from attn_jax.bridge.pi05_write import lerobot_settings, write_pi05
from attn_jax.bridge.processors_write import processor_files, write_files
from attn_jax.bridge.safetensors_reader import Entry
from attn_jax.bridge.text_head import read_text_head
from attn_jax.bridge.word_tokenizer import word_tokenizer
from attn_jax.models.pi05.config import Pi05Config
from attn_jax.models.pi05.model import Pi05Inputs
from attn_jax.models.pi05.sample import sample
from launch import bridge
from launch.pi05_export import export_lerobot, processor_files_of
from tests import testing
from tests.bridge.checkpoint_folder_test import save_run
from tests.models.pi05 import lerobot_reference as reference
from tests.models.pi05 import small

CASE = reference.Case(empty_cameras=0, lengths=(9,), prompt=24, chunk=4, action_dim=5, steps=3)
CONFIG = Pi05Config(
    CASE.sizes,
    ("cam0", "cam1"),
    CASE.action_dim,
    chunk_size=4,
    n_action_steps=4,
    num_inference_steps=3,
    prompt_length=24,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with random parameters, as `launch.train` leaves it."""
    root = tmp_path_factory.mktemp("run")
    keys = {name: f"observation.images.{name}" for name in CONFIG.cameras}
    save_run(
        root,
        small.params(CONFIG),
        settings=lerobot_settings(CONFIG, None, keys, 8),
        model=CONFIG.to_json(),
        supervision=[{"layers": "1", "heads": "0,1"}],
    )
    one = np.ones(8, np.float32)
    names = ("min", "max", "mean", "std", "q01", "q99")
    stats = {
        "observation.state": dict.fromkeys(names, one),
        "action": dict.fromkeys(names, one[:5]),
    }
    files = processor_files(
        stats,
        image_shapes={key: (3, 56, 56) for key in keys.values()},
        prompt_length=24,
        tokenizer="tokenizer",
    )
    words = word_tokenizer(["pick up the cube"])
    files |= {f"tokenizer/{name}": data for name, data in words.items()}
    write_files(root / "processors", files)
    return root


def test_the_folder_has_everything_and_can_be_opened(run, tmp_path):
    opened = open_checkpoint(run)
    export_lerobot(opened, tmp_path / "out", tokenizer_name="/somewhere/tokenizer")
    again = open_checkpoint(tmp_path / "out")
    assert again.config == CONFIG
    np.testing.assert_array_equal(again.params()["embedding"], opened.params()["embedding"])
    text = (tmp_path / "out/policy_preprocessor.json").read_text()
    assert json.loads(text)["steps"][5]["config"]["tokenizer_name"] == "/somewhere/tokenizer"
    found, expected = processor_files_of(again), processor_files_of(opened)
    assert found.keys() == expected.keys() and "tokenizer/tokenizer.json" in found
    bridge.write_run(again, again.params(), tmp_path / "orbax")
    third = open_checkpoint(tmp_path / "orbax")
    assert third.config == CONFIG and processor_files_of(third) == found
    assert third.supervision == again.supervision == opened.supervision != ()
    np.testing.assert_array_equal(third.params()["embedding"], opened.params()["embedding"])


def test_the_text_head_of_an_untied_checkpoint_survives_both_ways(tmp_path):
    rng = np.random.default_rng(3)
    sizes = CONFIG.architecture
    arrays = {
        LM_HEAD: rng.standard_normal((sizes.vocab, sizes.width)).astype(np.float32),
        EXPERT_LM_HEAD: rng.standard_normal((sizes.vocab, sizes.expert_width)).astype(np.float32),
    }
    heads = {name: Entry(x.shape, x.dtype, lambda x=x: x) for name, x in arrays.items()}
    write_pi05(tmp_path / "in", CONFIG, small.params(CONFIG), heads=heads)
    opened = open_checkpoint(tmp_path / "in")
    bridge.write_run(opened, opened.params(), tmp_path / "orbax")
    run = open_checkpoint(tmp_path / "orbax")
    np.testing.assert_array_equal(read_text_head(run, run.params()), arrays[LM_HEAD])
    export_lerobot(run, tmp_path / "out")
    export_lerobot(opened, tmp_path / "direct")
    first = (tmp_path / "in" / "model.safetensors").read_bytes()
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == first
    assert (tmp_path / "direct" / "model.safetensors").read_bytes() == first


@pytest.mark.slow
@pytest.mark.bridge
@pytest.mark.filterwarnings("ignore")  # lerobot's own
def test_lerobot_predicts_the_same(run, tmp_path):
    testing.require_module("torch", "lerobot")
    export_lerobot(open_checkpoint(run), tmp_path)
    policy, printed = reference.load(CASE, tmp_path)
    assert "Could not load" not in printed
    batch = reference.make_batch(CASE)
    expected = reference.run(policy, CASE, batch)
    images = np.stack([batch["cam0"], batch["cam1"]], axis=1).transpose(0, 1, 3, 4, 2) * 2 - 1
    inputs = Pi05Inputs(
        images=images,
        image_mask=np.ones((1, 2), np.bool_),
        tokens=batch["tokens"].astype(np.int32),
        token_mask=batch["mask"],
    )
    opened = open_checkpoint(run)
    run_once = jax.jit(lambda *args: sample(opened.config, *args)[0].actions)
    found = np.asarray(run_once(opened.params(), inputs, batch["noise"]))[..., : CASE.action_dim]
    # With random parameters the actions are ill-conditioned: changing each by 1e-7 of itself, what
    # float32 keeps of it, moves them by 1.5e-4 of the largest, and processors round products
    # differently. Changing each by 1e-6 moves them by 7e-4, which is not accepted.
    np.testing.assert_allclose(found, expected.actions, rtol=0, atol=5e-4 * np.abs(found).max())


@pytest.mark.slow
def test_the_command_converts_checks_and_refuses(run, tmp_path):
    def call(*arguments):
        return testing.run_python("-m", "launch.bridge", "--source=pi05", *arguments)

    lerobot, orbax = tmp_path / "lerobot", tmp_path / "orbax"
    done = call(f"--file={run}", "--to=lerobot", f"--workdir={lerobot}")
    assert done.returncode == 0 and "missing: 0" in done.stdout, done.stderr
    done = call(f"--file={lerobot}", "--to=orbax", f"--workdir={orbax}", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["complete"]
    assert json.loads((orbax / "bridge.json").read_text())["ignored"]
    assert open_checkpoint(orbax).config == dataclasses.replace(CONFIG)
    again = call(f"--file={lerobot}", "--to=orbax", f"--workdir={orbax}")
    assert again.returncode == 2 and "is not empty" in again.stderr
    broken = tmp_path / "broken"
    shutil.copytree(lerobot, broken)
    sizes = json.loads((broken / "architecture.json").read_text())
    (broken / "architecture.json").write_text(json.dumps({**sizes, "depth": sizes["depth"] + 1}))
    done = call(f"--file={broken}", "--to=orbax", f"--workdir={tmp_path / 'none'}")
    assert done.returncode == 2 and "layers.3.self_attn.q_proj.weight" in done.stderr
    assert not (tmp_path / "none").exists()


if __name__ == "__main__":
    testing.main()
