"""launch.train on the canvas in two processes and on four devices: the samples and curve of one."""

import json
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from attn_jax.train.checkpoint_files import find_checkpoint, load_part
from attn_jax.train.checkpoints import load_params
from attn_jax.train.host_text import json_value
from attn_jax.train.writers import read_jsonl
from tests import testing
from tests.launch.dot_session import record_dot

# Everything that depends on the position in the stream: shifts, masks drawn, losses fed back.
OPTIONS = {
    "data.sampling": "loss_weighted",
    "data.refresh_every": 2,
    "data.augment": "toroidal_shift",
    "loss.mask_ratio_min": 0.5,
    "model.decoder_depth": 1,
    "train.batch_size": 8,
    "train.optim.micro_batches": 2,
    "train.optim.decay_steps": 6,
}


def command(session, workdir, **changes):
    options = {"data.sessions": session, **OPTIONS, **changes}
    return [
        *("-m", "launch.train", "--config=configs/canvas.py:size=64,tiny", f"--workdir={workdir}"),
        *(f"--config.{name}={value}" for name, value in options.items()),
    ]


def together(session, workdir, **changes):
    """Both processes of a run: exit codes and what they wrote to standard error."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "distributed.coordinator": f"127.0.0.1:{port}",
        "distributed.num_processes": 2,
        **changes,
    }
    children = [
        subprocess.Popen(
            [
                sys.executable,
                *command(session, workdir, **shared, **{"distributed.process_id": number}),
            ],
            cwd=testing.ROOT,
            env=testing.child_environment(),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    try:
        errors = [child.communicate(timeout=400)[1] for child in children]
    finally:
        for child in children:
            child.kill()
    return [child.returncode for child in children], errors


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    return record_dot(tmp_path_factory.mktemp("sessions") / "dot")


@pytest.fixture(scope="module")
def alone(session, tmp_path_factory):
    """The run of one process on one device."""
    workdir = tmp_path_factory.mktemp("alone")
    done = testing.run_python(*command(session, workdir))
    assert done.returncode == 0, done.stderr
    return workdir


def host_texts(workdir):
    return load_part(find_checkpoint(workdir), "host", None)


def data_states(workdir):
    """Of every process, at the latest checkpoint."""
    return [json_value(text) for text in json.loads(host_texts(workdir)["data"])]


def assert_same_run(found, expected):
    """The same samples, losses and validation; sums over the batch are taken in another order."""
    curves = [
        [
            (line["step"], line["samples"], line.get("loss", line.get("validation/plain_mse")))
            for line in read_jsonl(workdir / "metrics.jsonl")
            if "event" not in line
        ]
        for workdir in (found, expected)
    ]
    assert len(curves[1]) == 6 + 3  # steps and evaluations
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-4)
    (wanted,) = data_states(expected)
    for state in data_states(found):
        assert state["batch"] == wanted["batch"] == 6
        # The last loss of every canvas, NaN where it was never drawn.
        latest = [np.array(s["latest"], float) for s in (state, wanted)]
        assert np.isfinite(latest[1]).sum() > 8
        np.testing.assert_allclose(*latest, rtol=1e-4)


@pytest.mark.slow
def test_two_processes(session, alone, tmp_path):
    for changes in ({"train.steps": 3}, {}):  # stopped, then continued
        codes, errors = together(session, tmp_path, **changes, **{"train.fsdp": 2})
        assert codes == [0, 0], "\n".join(errors)
    assert_same_run(tmp_path, alone)
    assert len(data_states(tmp_path)) == 2
    # What both hold together can be read, and is verified, by one.
    assert jax.tree.map(np.shape, load_params(tmp_path)) == jax.tree.map(
        np.shape, load_params(alone)
    )
    sums = [json.loads(host_texts(workdir)["checksums"]) for workdir in (tmp_path, alone)]
    assert sums[0].keys() == sums[1].keys()
    # One process writes.
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in alone.iterdir()}
    run = json.loads((tmp_path / "run.json").read_text())
    assert "--config.distributed.process_id=0" in run["command"]


# Trains with rules on all devices; prints how the parameters lie.
RULES = """
    import json, pathlib, sys
    import jax
    from configs import canvas
    from launch import tasks, train

    config = canvas.get_config("size=64,tiny")
    config.update_from_flattened_dict(json.loads(sys.argv[1]))
    config.train.fsdp = 2
    config.train.sharding = (
        ("fc1/kernel$", (None, "fsdp")), ("fc1/bias$", ("fsdp",)), ("fc2/kernel$", ("data", None))
    )
    state = train.train(config, pathlib.Path(sys.argv[2]), tasks.build).state
    mlp = state.params["decoder"]["block_0"]["mlp"]
    for leaf in (mlp["fc1"]["kernel"], mlp["fc1"]["bias"], mlp["fc2"]["kernel"]):
        alike = [x for x in jax.tree.leaves(state) if x.shape == leaf.shape]
        print(json.dumps({
            "shape": leaf.shape,
            "shards": sorted({s.data.shape for s in leaf.addressable_shards}),
            "devices": len(leaf.devices()),
            "layouts": sorted({str(x.sharding.spec) for x in alike}),
        }))
"""


@pytest.mark.slow
def test_four_devices_with_rules(session, alone, tmp_path):
    options = json.dumps({"data.sessions": str(session), **OPTIONS})
    lines = testing.run_script(
        RULES, options, str(tmp_path), devices=4, timeout_s=400
    ).splitlines()[-3:]
    assert_same_run(tmp_path, alone)
    for line, parts in zip(lines, ((1, 2), (2,), (2, 1)), strict=True):
        found = json.loads(line)
        shard = [size // n for size, n in zip(found["shape"], parts, strict=True)]
        assert (found["shards"], found["devices"]) == ([shard], 4)


@pytest.mark.slow
def test_a_batch_that_does_not_divide_is_refused(session, tmp_path):
    codes, errors = together(session, tmp_path, **{"train.batch_size": 3})
    assert codes == [2, 2]
    for text in errors:
        assert "train.batch_size: a batch of 3 does not divide among 2 processes" in text


if __name__ == "__main__":
    testing.main()
