"""Tests of launch.parallel."""

import importlib.util
import math

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


def test_unknown_and_missing_backends():
    with pytest.raises(ConfigError, match="unknown backend 'slurm'"):
        list(parallel(math.factorial, [1], backend="slurm"))
    for backend, package in (("ray", "ray"), ("dask", "distributed")):
        if importlib.util.find_spec(package) is None:
            with pytest.raises(ConfigError, match=f"needs the package {package}"):
                list(parallel(math.factorial, [1], backend=backend))
        else:
            assert list(parallel(math.factorial, [3, 4], backend=backend)) == [6, 24]


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
