"""Uncertainty files of an earlier tool: what is read of them, and that nothing else is."""

from __future__ import annotations

import json

import pytest

from attn_jax.bridge.seed_formats import read_seed
from attn_jax.bridge.seed_uncertainty import read_uncertainty
from attn_jax.core.errors import RecordError
from launch import attention
from tests import testing

testing.require_module("torch")
pytestmark = [pytest.mark.bridge]


@pytest.fixture
def path(tmp_path):
    import torch

    call = {"maps": {"agentview": torch.rand(16, 16)}, "mean": {"agentview": 0.5}}
    data = {
        "rollout_steps": [{"rollout_step": 10 * n, **call} for n in range(3)],
        "by_number": {0: torch.rand(2, 16, 16), 10: torch.rand(2, 16, 16)},
        "episode_index": 3,
        "metadata": {"num_rollout_steps": 3, "models": 8},
    }
    torch.save(data, tmp_path / "episode_00007_uncertainty.pt")
    return tmp_path / "episode_00007_uncertainty.pt"


def test_metadata_and_shapes(path):
    found = read_uncertainty(path)
    assert found["kind"] == "uncertainty maps" and found["episode"] == 3
    assert found["metadata"] == {"episode_index": 3, "num_rollout_steps": 3, "models": 8}
    fields = found["fields"]
    assert fields["rollout_steps[].maps.agentview"] == {"count": 3, "shape": [16, 16]}
    assert fields["rollout_steps[].mean.agentview"] == {"count": 3}
    assert fields["by_number[]"] == {"count": 2, "shape": [2, 16, 16]}


def test_inspect(path):
    done = testing.run_python("-m", "launch.attention", "inspect", str(path), "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["name"] == path.name and found["metadata"]["models"] == 8
    assert found["bytes"] > 2000 and found["kind"] == "uncertainty maps"


def test_no_attention(path, tmp_path):
    message = r"holds uncertainty maps, not attention.*inspect.*episode_\*_attention\.pt"
    with pytest.raises(RecordError, match=message):
        read_seed(path)
    for source in (path, path.parent):
        with pytest.raises(RecordError, match=message):
            attention.convert(source, tmp_path / "run")


def test_without_names(tmp_path):
    import torch

    torch.save([1], tmp_path / "episode_00000_uncertainty.pt")
    with pytest.raises(RecordError, match="holds a list without names"):
        read_uncertainty(tmp_path / "episode_00000_uncertainty.pt")


if __name__ == "__main__":
    testing.main()
