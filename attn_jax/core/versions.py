"""Versions of the packages that decide a result, for the provenance of a run.

package_versions("torch", "lerobot")        # the usual ones, and these where they are installed
"""

from __future__ import annotations

import importlib.metadata

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorstore", "grain")


def package_versions(*others: str) -> dict[str, str]:
    """Distribution -> version.

    Args:
      others: further distributions; left out where they are not installed.
    """
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    for name in others:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
