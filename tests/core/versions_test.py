"""Versions of packages."""

from __future__ import annotations

import numpy as np

from attn_jax.core.versions import PACKAGES, package_versions
from tests import testing


def test_versions_of_what_is_installed():
    found = package_versions("einops", "no-such-distribution")
    assert set(found) == {*PACKAGES, "einops"}
    assert found["numpy"] == np.__version__


if __name__ == "__main__":
    testing.main()
