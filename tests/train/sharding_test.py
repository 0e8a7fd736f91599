"""Mesh, rules and placement; the same curve on 1 and 4 devices and across 2 processes."""

import json
import socket
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from attn_jax.core.errors import ConfigError
from attn_jax.train.loop import fit
from attn_jax.train.settings import LoopConfig
from attn_jax.train.sharding import (
    gather_text,
    make_mesh,
    place_batch,
    process_rows,
    state_shardings,
    whole,
)
from attn_jax.train.stopping import Steps
from tests import testing
from tests.train import toy

STEPS = 8
# Trains the toy on all devices, divided in three ways; prints losses and how the parameters lie.
CURVES = """
    import json
    import jax
    from tests.train import toy
    from attn_jax.train.loop import fit
    from attn_jax.train.settings import LoopConfig
    from attn_jax.train.sharding import make_mesh
    from attn_jax.train.stopping import Steps

    for fsdp in (1, 2, 4):
        rules = [("hidden/kernel$", (None, "fsdp")), ("hidden/bias$", ("fsdp",))]
        result = fit(
            toy.ToyTask(), toy.ToyData(), toy.OPTIM, None, Steps(8), seed=3,
            loop=LoopConfig(log_every=1, progress=False), mesh=make_mesh(fsdp), rules=rules,
        )
        kernel = result.state.params["hidden"]["kernel"]
        print(json.dumps({
            "losses": [line["loss"] for line in result.history if "loss" in line],
            "val": result.metrics["val/mse"],
            "shards": sorted({s.data.shape for s in kernel.addressable_shards}),
            "layouts": sorted({
                tuple(map(str, x.sharding.spec)) for x in jax.tree.leaves(result.state)
                if x.shape == kernel.shape
            }),
            "samples": result.samples,
        }))
"""


def single_curve():
    loop = LoopConfig(log_every=1, progress=False)
    result = fit(toy.ToyTask(), toy.ToyData(), toy.OPTIM, None, Steps(STEPS), seed=3, loop=loop)
    return [line["loss"] for line in result.history if "loss" in line], result


@pytest.mark.slow
def test_four_devices_give_the_same_curve():
    losses, result = single_curve()
    printed = testing.run_script(CURVES, devices=4).splitlines()
    for fsdp, line in zip((1, 2, 4), printed[-3:], strict=True):
        found = json.loads(line)
        # Sums are taken in another order, and the feedback to the sampler passes that on.
        np.testing.assert_allclose(found["losses"], losses, rtol=1e-4)
        assert found["val"] == pytest.approx(result.metrics["val/mse"], rel=1e-3)
        assert found["shards"] == [[3, 8 // fsdp]]
        # Parameters, average and both moments lie the same way.
        assert found["layouts"] == [["None", "fsdp"]]
        assert found["samples"] == STEPS * toy.BATCH


# One process of two: its half of every batch, its own part of the checkpoint.
PROCESS = """
    import json, sys
    import jax
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{sys.argv[1]}", 2, int(sys.argv[2]))
    import numpy as np
    from tests.train import toy
    from attn_jax.train.checkpoint_files import alone
    from attn_jax.train.checkpoints import Checkpoints, load_params
    from attn_jax.train.loop import fit
    from attn_jax.train.settings import LoopConfig
    from attn_jax.train.sharding import gather_text, make_mesh
    from attn_jax.train.stopping import Any, Seconds, Steps

    assert gather_text("ab" * (1 + jax.process_index())) == ["ab", "abab"]

    class Half(toy.ToyData):
        def __next__(self):
            batch = super().__next__()
            mine = slice(0, 4) if jax.process_index() == 0 else slice(4, 8)
            return {name: value[mine] for name, value in batch.items()}

        wants_feedback = False

    def train(until, folder):
        with Checkpoints(folder, metadata={"config": {}}) as checkpoints:
            return fit(
                toy.ToyTask(), Half(), toy.OPTIM, None, until, seed=3,
                loop=LoopConfig(log_every=1, save_every=4, progress=False),
                checkpoints=checkpoints, mesh=make_mesh(),
            )

    first = train(Steps(5), sys.argv[3])
    second = train(Steps(8), sys.argv[3])
    timed = train(Any((Seconds(0.2 if jax.process_index() else 1e9), Steps(10**6))), sys.argv[3])
    if jax.process_index() == 0:
        with alone():  # would wait for the other process, which does not read
            load_params(sys.argv[3])
    print(json.dumps({
        "losses": [
            line["loss"] for line in first.history + second.history if "loss" in line
        ],
        "samples": second.samples,
        "timed": [timed.reason.kind.value, timed.reason.detail, timed.step],
    }))
"""


@pytest.mark.slow
def test_two_processes_give_the_same_curve_and_resume_and_agree(tmp_path):
    class Data(toy.ToyData):
        wants_feedback = False

    loop = LoopConfig(log_every=1, progress=False)
    result = fit(toy.ToyTask(), Data(), toy.OPTIM, None, Steps(STEPS), seed=3, loop=loop)
    losses = [line["loss"] for line in result.history if "loss" in line]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(PROCESS), str(port), str(i), str(tmp_path)],
            cwd=testing.ROOT,
            env=testing.child_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    try:
        outputs = [child.communicate(timeout=200) for child in children]
    finally:
        for child in children:
            child.kill()
    assert [child.returncode for child in children] == [0, 0], outputs[0][1] + outputs[1][1]
    found = [json.loads(out.splitlines()[-1]) for out, _ in outputs]
    for process in found:
        np.testing.assert_allclose(process["losses"], losses, rtol=1e-4)
        assert process["samples"] == STEPS * toy.BATCH
    # Only process 1 had a time limit; both stopped at the same step and know why.
    assert found[0]["timed"] == found[1]["timed"]
    assert found[0]["timed"][0] == "seconds"


def struct(*shape):
    return jax.ShapeDtypeStruct(shape, np.float32)


def test_rules_by_path():
    mesh = make_mesh()
    state = {"params": {"w": struct(4, 6)}, "opt": {"mu": {"w": struct(4, 6)}, "count": struct()}}
    rules = [("mu/w$", ("data", None)), ("w$", (None, "data"))]
    found = state_shardings(state, mesh, rules)
    assert found["params"]["w"].spec == PartitionSpec(None, "data")
    assert found["opt"]["mu"]["w"].spec == PartitionSpec("data", None)
    assert found["opt"]["count"].spec == PartitionSpec()


def test_large_parameters_are_split_by_default():
    out = testing.run_script(
        """
        import jax, numpy as np
        from attn_jax.train.sharding import make_mesh, state_shardings
        s = lambda *shape: jax.ShapeDtypeStruct(shape, np.float32)
        tree = {"a": s(128, 510), "b": s(510, 128), "small": s(8, 8), "odd": s(255, 255)}
        specs = state_shardings(tree, make_mesh(fsdp=4))
        print({name: tuple(x.spec) for name, x in specs.items()})
        try:
            state_shardings(tree, make_mesh(fsdp=4), [("a", (None, "fsdp"))])
        except ValueError as error:
            print(type(error).__name__, error)
        """,
        devices=4,
    ).splitlines()
    assert out[-2] == "{'a': ('fsdp',), 'b': (None, 'fsdp'), 'odd': (), 'small': ()}"
    assert out[-1].startswith("ConfigError rule 'a' splits a of shape (128, 510) over 4 devices")


def test_errors():
    with pytest.raises(ConfigError, match="fsdp=2 does not divide 1 devices"):
        make_mesh(2)
    with pytest.raises(ConfigError, match="axis 'model'"):
        state_shardings({"w": struct(2)}, make_mesh(), [("w", ("model",))])
    for rule in (("wrong", ("data",)), ("w", ("data", None))):
        with pytest.raises(
            ConfigError, match=rf"'{rule[0]}' places no array of {len(rule[1])} dim"
        ):
            state_shardings({"w": struct(2)}, make_mesh(), [("w", ("data",)), rule])
    with pytest.raises(ConfigError, match="'scalar' has 0 rows"):
        place_batch({"scalar": np.float32(1)}, make_mesh())


def test_place_and_read_back():
    batch = {"x": np.arange(6).reshape(3, 2)}
    assert place_batch(batch, None)["x"] is batch["x"]
    placed = place_batch(batch, make_mesh())["x"]
    np.testing.assert_array_equal(whole(placed), batch["x"])
    assert process_rows(6) == slice(0, 6)
    assert gather_text("é") == ["é"]


if __name__ == "__main__":
    testing.main()
