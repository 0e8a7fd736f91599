"""Many independent calls, on this machine or a cluster, through joblib's registered back ends.

for result in parallel(work, items, jobs=2, backend="loky"):
    ...                                   # in the order of the items, as they become ready
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import joblib

from attn_jax.core.errors import ConfigError

BACKENDS = ("loky", "threading", "ray", "dask")
#: Back end -> package that has it, module to import, function that registers it (empty: importing).
_CLUSTERS = {
    "ray": ("ray", "ray.util.joblib", "register_ray"),
    "dask": ("distributed", "distributed", ""),
}


def register(backend: str) -> None:
    """Makes a back end known to joblib.

    Raises:
      ConfigError: an unknown back end, or one whose package is not installed.
    """
    if backend not in BACKENDS:
        raise ConfigError(f"unknown backend {backend!r}", fix=f"Use one of {', '.join(BACKENDS)}")
    if backend not in _CLUSTERS:
        return
    package, module, function = _CLUSTERS[backend]
    if importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"backend {backend!r} needs the package {package}, which is not installed",
            fix=f"Install {package}, or use --backend=loky",
        )
    imported = importlib.import_module(module)
    if function:
        getattr(imported, function)()


def parallel(
    work: Callable[[Any], Any], items: Sequence[Any], *, jobs: int = 1, backend: str = "loky"
) -> Iterator[Any]:
    """Yields `work(item)` of every item, in order, as soon as each is ready.

    Args:
      work: a function of a module (workers import it), whose argument and result can be sent.
      items: its arguments.
      jobs: how many at a time; 1 runs in this process, whatever the back end, except on a cluster.
      backend: `loky` (processes), `threading`, `ray` or `dask` (a cluster that is already
        connected, or one on this machine).

    Raises:
      ConfigError: a back end that is unknown or not installed.
    """
    register(backend)
    if jobs == 1 and backend not in _CLUSTERS:
        yield from map(work, items)
        return
    with contextlib.ExitStack() as stack:
        if backend == "dask":
            distributed = importlib.import_module("distributed")
            stack.enter_context(distributed.Client(processes=False, n_workers=jobs))
        with joblib.parallel_config(backend=backend, n_jobs=jobs):
            # At most one item per job waits, so memory does not grow with the number of items.
            runner = joblib.Parallel(return_as="generator", pre_dispatch=jobs, batch_size=1)
            yield from runner(joblib.delayed(work)(item) for item in items)
