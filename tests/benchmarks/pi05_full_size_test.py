"""The full-size benchmark runs, on a tiny network; its counts are those of the specification."""

from __future__ import annotations

import json

import numpy as np
import pytest

from attn_jax.core.errors import InputError
from attn_jax.models.pi05.model import param_shapes
from benchmarks import pi05_full_size as benchmark
from tests import testing


def test_operations_are_those_of_the_published_sizes():
    config = benchmark.config_of(benchmark.FULL)
    # 2 of 3 cameras and 144 of 200 prompt tokens, without the last prefix layer: 3.32 TFLOP.
    assert 3.31e12 < benchmark.operations(config, 656) < 3.33e12


def test_bytes_count_the_expert_at_every_step():
    shapes = param_shapes(benchmark.config_of(benchmark.FULL))
    blank = {
        "embedding": np.zeros(5),
        "vision": {"kernel": np.zeros(3, np.float32)},
        "expert": {"layer_0": {"down": {"kernel": np.zeros(2, np.float32)}}},
    }
    assert benchmark.bytes_read(benchmark.config_of(benchmark.TINY), blank) == 12 + 10 * 8
    assert "expert" in shapes


def test_numbers_are_repeatable_and_of_the_wanted_size():
    made = np.asarray(benchmark.RandomArray((300, 400), np.float32, 1, 0.5))
    np.testing.assert_array_equal(made, benchmark.RandomArray((300, 400), np.float32, 1, 0.5))
    assert made.std() == pytest.approx(0.5, rel=0.02)


def test_a_full_disk_is_told_before_anything_is_written(tmp_path, monkeypatch):
    usage = benchmark.shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(benchmark.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(InputError, match="are free"):
        benchmark.write_checkpoint(tmp_path / "it", benchmark.config_of(benchmark.TINY))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_tiny_run_measures_everything_and_cleans_up(tmp_path):
    done = testing.run_python(
        "-m",
        "benchmarks.pi05_full_size",
        "--small",
        f"--folder={tmp_path}",
        "--precision=float32",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    run = found["float32"]
    assert set(run["seconds"]) == {"read", "compile_and_predict", "predict"}
    assert run["captured_shape"] == [1, 10, 2, 8, 50, 3 * 16 + 200 + 50]
    assert run["roofline_s"] > 0 and all(seconds > 0 for seconds in run["seconds"].values())
    assert run["holds"] and list(tmp_path.iterdir()) == []


if __name__ == "__main__":
    testing.main()
