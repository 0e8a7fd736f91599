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
      backend: `loky` (processes), `threading`, `ray` or `dask` (the cluster of RAY_ADDRESS or
        DASK_SCHEDULER_ADDRESS or one that this process is connected to, else one on this machine).

    Raises:
      ConfigError: a back end that is unknown or not installed.
    """
    register(backend)
    if jobs == 1 and backend not in _CLUSTERS:
        yield from map(work, items)
        return
    with contextlib.ExitStack() as stack:
        if backend == "dask":
            stack.enter_context(_dask_client(jobs))
        with joblib.parallel_config(backend=backend, n_jobs=jobs):
            if backend == "ray":  # cannot return as a generator: one group after the other
                for first in range(0, len(items), jobs):
                    group = items[first : first + jobs]
                    yield from joblib.Parallel(batch_size=1)(
                        joblib.delayed(work)(item) for item in group
                    )
                return
            # At most one item per job waits, so memory does not grow with the number of items.
            runner = joblib.Parallel(return_as="generator", pre_dispatch=jobs, batch_size=1)
            yield from runner(joblib.delayed(work)(item) for item in items)


def _dask_client(jobs: int) -> Any:
    """The client that this process has, one of the scheduler that is configured, or a new one."""
    distributed = importlib.import_module("distributed")
    try:
        return contextlib.nullcontext(distributed.Client.current())
    except ValueError:
        pass  # this process is connected to no cluster
    if importlib.import_module("dask").config.get("scheduler-address", None):
        return distributed.Client()
    return distributed.Client(processes=False, n_workers=jobs)
