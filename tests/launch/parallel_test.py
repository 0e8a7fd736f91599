"""Tests of launch.parallel."""

import importlib
import importlib.util
import math
import os

import joblib
import pytest

from attn_jax.core.errors import ConfigError
from launch.parallel import parallel
from tests import testing


@pytest.mark.parametrize(("jobs", "backend"), [(1, "loky"), (2, "threading"), (2, "loky")])
def test_results_come_in_order(jobs, backend):
    found = list(parallel(math.factorial, range(7), jobs=jobs, backend=backend))
    assert found == [1, 1, 2, 6, 24, 120, 720]


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_an_error_of_a_worker_is_raised(backend):
    with pytest.raises(ValueError, match="negative"):
        list(parallel(math.factorial, [1, -1], jobs=2, backend=backend))


def test_unknown_backend():
    with pytest.raises(ConfigError, match="unknown backend 'slurm'"):
        list(parallel(math.factorial, [1], backend="slurm"))


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="ray is installed")
def test_missing_backend():
    with pytest.raises(ConfigError, match="needs the package ray"):
        list(parallel(math.factorial, [1], backend="ray"))


@pytest.mark.slow
def test_cluster_of_dask():
    """A scheduler and a worker in other processes, reached as a cluster is: by its address."""
    distributed = importlib.import_module("distributed")
    options = {"n_workers": 1, "threads_per_worker": 2, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster):
        found = list(parallel(process_and_square, range(7), jobs=2, backend="dask"))
        with pytest.raises(ValueError, match="negative"):
            list(parallel(math.factorial, [1, -1], jobs=2, backend="dask"))
    processes, squares = zip(*found, strict=True)
    assert squares == (0, 1, 4, 9, 16, 25, 36)
    assert os.getpid() not in processes


def process_and_square(number: int) -> tuple[int, int]:
    """Which process worked, and its result."""
    return os.getpid(), number**2


class NoGenerator(joblib._parallel_backends.ThreadingBackend):
    """As Ray's, which refuses `return_as="generator"`."""

    supports_return_generator = False


def test_ray_needs_no_generator(monkeypatch):
    monkeypatch.setitem(joblib.parallel.BACKENDS, "ray", NoGenerator)
    monkeypatch.setattr("launch.parallel.register", lambda _: None)
    assert list(parallel(math.factorial, range(7), jobs=3, backend="ray")) == [
        *map(math.factorial, range(7))
    ]
    with pytest.raises(ValueError, match="return_as=generator"), joblib.parallel_config("ray"):
        joblib.Parallel(return_as="generator", n_jobs=2)


if __name__ == "__main__":
    testing.main()
