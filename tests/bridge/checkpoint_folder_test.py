"""One function for LeRobot folders and for our own runs."""

from __future__ import annotations

import dataclasses
import json
import shutil

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attn_jax.bridge.checkpoint_folder import open_checkpoint
from attn_jax.bridge.pi05 import read_settings
from attn_jax.bridge.pi05_write import write_pi05
from attn_jax.core.errors import CheckpointError
from attn_jax.train.checkpoints import Checkpoints
from attn_jax.train.step import TrainState
from tests import testing
from tests.models.pi05 import small


def save_run(folder, params, *, settings, ema=None, **metadata):
    zero = jnp.zeros((), jnp.int32)
    key = jax.random.key_data(jax.random.key(0))
    state = TrainState(zero, params, ema, (), key, zero, zero)
    described = {"family": "pi05", "model": small.CONFIG.to_json(), "settings": settings}
    with Checkpoints(folder / "checkpoints", metadata={**described, **metadata}) as checkpoints:
        checkpoints.save(7, state)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same weights as a LeRobot folder and as a run, whose average differs."""
    root = tmp_path_factory.mktemp("checkpoints")
    keys = {"base": "observation.images.top", "wrist": "observation.images.wrist"}
    keys["spare"] = "observation.images.spare"
    write_pi05(root / "lerobot", small.CONFIG, small.params(), image_keys=keys)
    save_run(
        root / "run",
        small.params(seed=5),
        settings=read_settings(root / "lerobot"),
        ema=small.params(),
    )
    return root


@pytest.mark.parametrize("name", ["lerobot", "run", "run/checkpoints"])
def test_every_kind_gives_the_same(folders, name):
    opened = open_checkpoint(folders / name)
    # LeRobot's file knows cameras by their keys only.
    cameras = ("top", "wrist", "spare") if name == "lerobot" else small.CONFIG.cameras
    assert opened.config == dataclasses.replace(small.CONFIG, cameras=cameras)
    assert next(iter(opened.image_keys.values())) == "observation.images.top"
    assert opened.processors() is None
    found = flax.traverse_util.flatten_dict(opened.params(), sep="/")
    for path, array in small.flat_params().items():
        np.testing.assert_array_equal(found[path], array, err_msg=path)


def test_raw_parameters_of_a_run_and_another_precision(folders):
    opened = open_checkpoint(folders / "run", ema=False, precision="bfloat16_lerobot")
    params = opened.params()
    assert params["embedding"].dtype == jnp.bfloat16
    assert params["action_in"]["kernel"].dtype == jnp.float32
    np.testing.assert_array_equal(
        params["action_in"]["kernel"], small.flat_params(seed=5)["action_in/kernel"]
    )


def test_identity(folders, tmp_path):
    lerobot, run, raw = (
        open_checkpoint(folders / "lerobot").identity(),
        open_checkpoint(folders / "run").identity(),
        open_checkpoint(folders / "run", ema=False).identity(),
    )
    assert lerobot["checkpoint"] == "lerobot" and "checkpoint_step" not in lerobot
    assert run["checkpoint"] == "run" and run["checkpoint_step"] == 7
    assert open_checkpoint(folders / "run" / "checkpoints").identity() == run
    prints = [found["checkpoint_fingerprint"] for found in (lerobot, run, raw)]
    assert len(set(prints)) == 3 and all(text.startswith("sha256:") for text in prints)
    # Elsewhere the same, with other weights another one.
    shutil.copytree(folders / "lerobot", tmp_path / "copy" / "lerobot")
    assert open_checkpoint(tmp_path / "copy" / "lerobot").identity() == lerobot
    write_pi05(tmp_path / "lerobot", small.CONFIG, small.params(seed=5))
    other = open_checkpoint(tmp_path / "lerobot").identity()
    assert other["checkpoint_fingerprint"] != lerobot["checkpoint_fingerprint"]
    save_run(tmp_path / "run", small.params(seed=6), settings={}, ema=small.params(seed=7))
    other = open_checkpoint(tmp_path / "run").identity()
    assert other["checkpoint_fingerprint"] != run["checkpoint_fingerprint"]


def test_what_was_supervised_is_known(folders, tmp_path):
    assert "supervision" not in open_checkpoint(folders / "run").identity()
    taught = [{"layers": "1", "heads": "all"}]
    taught.append({**taught[0], "words": "red,cube", "word_layers": "0", "word_heads": "0"})
    save_run(tmp_path / "run", small.params(), settings={}, supervision=taught)
    assert open_checkpoint(tmp_path / "run").identity()["supervision"] == taught
    shutil.copytree(folders / "lerobot", tmp_path / "lerobot")
    path = tmp_path / "lerobot" / "supervision.json"
    path.write_text(json.dumps(taught))
    assert open_checkpoint(tmp_path / "lerobot").identity()["supervision"] == taught
    wrong = ('[{"layer": "1"}]', '[{"layers": "first"}]', '[{"layers": 1}]')
    for damaged in ("[", "{}", "[1]", *wrong):
        path.write_text(damaged)
        with pytest.raises(CheckpointError, match=r"supervision\.json: damaged"):
            open_checkpoint(tmp_path / "lerobot")


def test_what_is_no_checkpoint_is_refused(folders, tmp_path):
    with pytest.raises(CheckpointError, match="no such folder"):
        open_checkpoint(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match=r"config\.json: no such file"):
        open_checkpoint(tmp_path)
    save_run(tmp_path / "canvas", small.params(), settings={}, family="canvas")
    with pytest.raises(CheckpointError, match="family 'canvas', not 'pi05'"):
        open_checkpoint(tmp_path / "canvas")
    damaged = {**small.params(), "extra": jnp.zeros(3)}
    del damaged["time_in"]
    save_run(tmp_path / "damaged", damaged, settings={})
    with pytest.raises(CheckpointError, match="extra, time_in/bias, time_in/kernel"):
        open_checkpoint(tmp_path / "damaged").params()
    (tmp_path / "config.json").write_text(json.dumps({"type": "act"}))
    with pytest.raises(CheckpointError, match="type 'act'"):
        open_checkpoint(tmp_path)


if __name__ == "__main__":
    testing.main()
