"""Checkpoints: exact round trip, strictness, retention, full disk."""

import dataclasses
import errno
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from attn_jax.core.errors import CheckpointError, ConfigError, DiskFullError
from attn_jax.train.checkpoints import Checkpoints, load_metadata, load_params
from attn_jax.train.optim import OptimConfig
from attn_jax.train.step import abstract_state, init_state
from tests import testing
from tests.train import toy

CONFIG = {"seed": 0, "train": {"steps": 10, "optim": {"ema": 0.9}}, "sizes": (1, 2)}


def state_of(seed=0, optim=toy.OPTIM, width=8):
    state = init_state(toy.ToyTask(width), optim, seed)
    return dataclasses.replace(state, ema=jax.tree.map(lambda x: x + 1, state.ema))


def opened(folder, **kwargs):
    return Checkpoints(folder, **{"metadata": {"config": CONFIG}, **kwargs})


def assert_same(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_round_trip_is_exact(tmp_path):
    state = state_of()
    data = {"rng": 2**100 + 1, "weights": np.arange(3.0), "raw": b"\x00\xff", "none": None}
    with opened(tmp_path) as checkpoints:
        assert checkpoints.restore(abstract_state(toy.ToyTask(), toy.OPTIM)) is None
        checkpoints.save(3, state, host={"x": 0.1 + 0.2}, data=data, metric=1.0)
    with opened(tmp_path) as checkpoints:
        restored = checkpoints.restore(abstract_state(toy.ToyTask(), toy.OPTIM))
    assert restored.step == 3
    assert restored.host == {"x": 0.1 + 0.2}
    assert jax.tree.structure(restored.state) == jax.tree.structure(state)
    assert_same(restored.state, state)
    assert {x.dtype for x in jax.tree.leaves(restored.state.params)} == {jnp.dtype("float32")}
    assert restored.data.pop("weights").tolist() == [0.0, 1.0, 2.0]
    assert restored.data == {"rng": 2**100 + 1, "raw": b"\x00\xff", "none": None}


def test_load_params_reads_no_optimizer(tmp_path):
    state = state_of()
    with opened(tmp_path / "checkpoints", metadata={"config": CONFIG, "model": {"d": 8}}) as c:
        c.save(3, state)
    shutil.rmtree(tmp_path / "checkpoints" / "3" / "optimizer")
    assert_same(load_params(tmp_path), state.ema)
    assert_same(load_params(tmp_path, ema=False), state.params)
    assert_same(load_params(tmp_path / "checkpoints"), state.ema)
    metadata = load_metadata(tmp_path)
    assert metadata["config"]["train"] == CONFIG["train"]
    assert metadata["model"] == {"d": 8}
    assert len(metadata["config_hash"]) == 16


def test_without_an_average_the_parameters_are_loaded(tmp_path):
    optim = OptimConfig()
    state = init_state(toy.ToyTask(), optim, 0)
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, state)
    assert_same(load_params(tmp_path, ema=True), state.params)


def test_keeps_the_last_and_the_best(tmp_path):
    with opened(tmp_path, keep_last=2, keep_best=1) as checkpoints:
        for step, metric in enumerate([3.0, 1.0, 2.0, None, 5.0, 4.0], start=1):
            host = {"best": {"step": 2, "value": 1.0}}
            checkpoints.save(step, state_of(step), host=host, metric=metric)
        assert checkpoints.steps() == [2, 5, 6]
    assert_same(load_params(tmp_path, step="best"), state_of(2).ema)
    assert_same(load_params(tmp_path, step="latest"), state_of(6).ema)
    assert_same(load_params(tmp_path, step=5), state_of(5).ema)
    with pytest.raises(CheckpointError, match=r"no step 4.*\[2, 5, 6\]"):
        load_params(tmp_path, step=4)


def test_keeps_the_largest_in_max_mode(tmp_path):
    with opened(tmp_path, keep_last=1, keep_best=1, best_mode="max") as checkpoints:
        for step, metric in enumerate([1.0, 9.0, 2.0, 3.0], start=1):
            checkpoints.save(step, state_of(), metric=metric)
        assert checkpoints.steps() == [2, 4]


def test_another_model_is_reported_tensor_by_tensor(tmp_path):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, state_of())
        other = abstract_state(toy.ToyTask(width=4), OptimConfig())
        with pytest.raises(CheckpointError) as error:
            checkpoints.restore(other)
        text = str(error.value)
        assert "shape of params/hidden/kernel: saved (3, 8), needed (3, 4)" in text
        assert "unexpected tensor ema/out/bias: float32[1]" in text
        renamed = dataclasses.replace(
            abstract_state(toy.ToyTask(), toy.OPTIM),
            params={"new": jax.ShapeDtypeStruct((2,), jnp.float32)},
        )
        with pytest.raises(CheckpointError, match=r"missing tensor params/new: float32\[2\]"):
            checkpoints.restore(renamed)
        half = abstract_state(toy.ToyTask(), toy.OPTIM)
        half = dataclasses.replace(
            half,
            params=jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), half.params),
        )
        with pytest.raises(CheckpointError, match=r"dtype of .*saved float32, needed bfloat16"):
            checkpoints.restore(half)


def test_another_configuration_names_the_fields(tmp_path):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, state_of())
    changed = {"seed": 1, "train": {"steps": 20, "optim": {"ema": 0.9}}, "sizes": [1, 2]}
    like = abstract_state(toy.ToyTask(), toy.OPTIM)
    with opened(tmp_path, metadata={"config": changed}) as checkpoints:
        with pytest.raises(CheckpointError) as error:
            checkpoints.restore(like)
        assert "seed: was 0, now 1" in str(error.value)
        assert "train.steps: was 10, now 20" in str(error.value)
        assert "sizes" not in str(error.value)
    with opened(
        tmp_path, metadata={"config": changed}, may_change=("train.steps", "seed")
    ) as checkpoints:
        assert checkpoints.restore(like).step == 1


def test_missing(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint here"):
        load_params(tmp_path / "nowhere")
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, state_of())
        with pytest.raises(CheckpointError, match="no checkpoint of step 7"):
            checkpoints.restore(state_of(), step=7)


def largest_file(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


@pytest.mark.parametrize("damage", ["truncate", "remove", "flip"])
def test_damage_is_found(tmp_path, damage):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, state_of())
    victim = largest_file(tmp_path / "1" / "ema")
    if damage == "remove":
        shutil.rmtree(tmp_path / "1" / "ema")
        (tmp_path / "1" / "ema").mkdir()
    elif damage == "truncate":
        victim.write_bytes(victim.read_bytes()[:-20])
    else:
        raw = bytearray(victim.read_bytes())
        middle = len(raw) // 2
        raw[middle : middle + 8] = b"\x55" * 8
        victim.write_bytes(raw)
    with pytest.raises(CheckpointError, match="damaged"):
        load_params(tmp_path)
    with opened(tmp_path) as checkpoints, pytest.raises(CheckpointError, match="damaged"):
        checkpoints.restore(abstract_state(toy.ToyTask(), toy.OPTIM))


@pytest.mark.parametrize("content", [b"", b'{"custom_meta', b"\x00\xff", b"[]"])
def test_damaged_metadata_are_named(tmp_path, content):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, state_of())
        checkpoints.save(2, state_of())
    for step in (1, 2):  # resuming reads the metadata of all steps
        file = tmp_path / str(step) / "_CHECKPOINT_METADATA"
        whole = file.read_bytes()
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"_CHECKPOINT_METADATA: .*damaged.*Remove"):
            opened(tmp_path)
        if step == 2:
            with pytest.raises(CheckpointError, match=r"_CHECKPOINT_METADATA: .*damaged.*Remove"):
                load_metadata(tmp_path)
        file.write_bytes(whole)


@pytest.mark.parametrize("content", [b"", b'{"best": 1.', b"\xff", b"[]", b"{}", b'{"best": "1"}'])
def test_damaged_metrics_are_named(tmp_path, content):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, state_of(), metric=1.0)
    (tmp_path / "1" / "metrics" / "metrics").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"1/metrics/metrics: .*damaged.*Remove"):
        opened(tmp_path)
    assert_same(load_params(tmp_path), state_of().ema)


@pytest.mark.parametrize("name", ["host", "data", "checksums"])
@pytest.mark.parametrize("text", ["", "[", "3", None])
def test_damaged_texts_are_named(tmp_path, name, text):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, state_of())
    file = tmp_path / "1" / "host" / "_strings.json"
    texts = json.loads(file.read_text())
    texts[next(key for key in texts if name in key)] = text
    file.write_text(json.dumps(texts))
    with (
        opened(tmp_path) as checkpoints,
        pytest.raises(CheckpointError, match=r"1/host: .*damaged"),
    ):
        checkpoints.restore(abstract_state(toy.ToyTask(), toy.OPTIM))
    with pytest.raises(CheckpointError, match=r"1/host: .*damaged"):
        load_params(tmp_path)


def test_metadata_of_something_else(tmp_path):
    (tmp_path / "5").mkdir()
    with pytest.raises(CheckpointError):
        load_metadata(tmp_path)


@pytest.mark.parametrize("counts", [{"keep_last": 0}, {"keep_best": -1}])
def test_a_number_of_checkpoints_that_cannot_be(tmp_path, counts):
    with pytest.raises(ConfigError, match=next(iter(counts))):
        opened(tmp_path, **counts)


def test_too_little_space_is_said_before_writing(tmp_path, monkeypatch):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, state_of())
        usage = shutil.disk_usage(tmp_path)._replace(free=10_000)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
        with pytest.raises(DiskFullError, match=r"needs \d+\.\d MB and 0\.0 MB are free"):
            checkpoints.save(2, state_of())
        assert checkpoints.steps() == [1]
    assert [p.name for p in tmp_path.iterdir()] == ["1"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        ValueError("RESOURCE_EXHAUSTED: Error writing: No space left on device"),
    ],
)
def test_a_disk_that_fills_up_while_writing(tmp_path, monkeypatch, error):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, state_of(1))

        def full(*args, **kwargs):
            (tmp_path / "2.orbax-checkpoint-tmp" / "params").mkdir(parents=True, exist_ok=True)
            raise error

        # As Orbax does: closing after a failed save raises its error again.
        monkeypatch.setattr(ocp.training.Checkpointer, "save_checkpointables", full)
        monkeypatch.setattr(ocp.training.Checkpointer, "close", full)
        with pytest.raises(DiskFullError, match="earlier checkpoints are intact"):
            checkpoints.save(2, state_of(2))
        assert [p.name for p in tmp_path.iterdir()] == ["1"]
        monkeypatch.undo()
        assert_same(load_params(tmp_path), state_of(1).ema)
        checkpoints.save(3, state_of(3))
        assert checkpoints.steps() == [1, 3]


def test_other_write_errors_are_not_hidden(tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise OSError(errno.EIO, "Input/output error")

    with opened(tmp_path) as checkpoints:
        monkeypatch.setattr(ocp.training.Checkpointer, "save_checkpointables", broken)
        with pytest.raises(OSError, match="Input/output"):
            checkpoints.save(1, state_of())


def test_what_a_killed_save_left_is_removed(tmp_path):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, state_of())
    ignore = shutil.ignore_patterns("commit_success.txt", "optimizer")
    shutil.copytree(tmp_path / "1", tmp_path / "2.orbax-checkpoint-tmp", ignore=ignore)
    assert_same(load_params(tmp_path), state_of().ema)
    assert (tmp_path / "2.orbax-checkpoint-tmp").exists()  # a reader removes nothing
    with opened(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1]
        checkpoints.save(3, state_of())  # waits for the clean-up
    assert not (tmp_path / "2.orbax-checkpoint-tmp").exists()


if __name__ == "__main__":
    testing.main()
