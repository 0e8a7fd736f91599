"""One persistent compilation cache for all launchers: a program is compiled once per machine.

Usage:

    compile_cache.enable()         # before the first jit
"""

from __future__ import annotations

import os
import pathlib

import jax

_MAX_BYTES = 2 << 30


def enable() -> pathlib.Path:
    """Turns jax's compilation cache on and returns its folder.

    The folder is $JAX_COMPILATION_CACHE_DIR or, without it, `.cache/jax` of the checkout. Other
    settings that the environment makes are left alone.
    """
    root = pathlib.Path(__file__).resolve().parent.parent
    folder = pathlib.Path(os.environ.get("JAX_COMPILATION_CACHE_DIR") or root / ".cache" / "jax")
    folder.mkdir(parents=True, exist_ok=True)
    defaults = {
        "jax_compilation_cache_dir": str(folder),
        # With a size limit jax locks the folder, so that several processes may share it.
        "jax_compilation_cache_max_size": _MAX_BYTES,
        "jax_persistent_cache_min_compile_time_secs": 0.5,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    for name, value in defaults.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)
    return folder
