"""Rules for the whole test run; pytest imports this before any test and any project module.

Order matters: the environment is set before jax is imported, and the jaxtyping hook is installed
before ``attn_jax`` is, so that every annotated function of the project has its shapes and dtypes
checked by beartype on every call.

Tests see one CPU device. A test that needs several starts a child process:
``testing.run_script(..., devices=4)``.
"""

from __future__ import annotations

import os
from pathlib import Path

_CACHE = Path(__file__).absolute().parent.parent / ".cache" / "jax"

# Compiled programs are kept between runs (Bazel points this at a directory its sandbox may write
# to). A size limit makes jax lock the directory, which keeps parallel test processes from reading
# half-written entries.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(1 << 30))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "1")
os.environ["MPLBACKEND"] = "agg"  # no test opens a window
os.environ["HF_HUB_OFFLINE"] = "1"  # no test downloads weights
os.environ["WANDB_MODE"] = "disabled"

import hypothesis
from jaxtyping import install_import_hook

install_import_hook("attn_jax", "beartype.beartype")

# The same examples on every run and machine, no examples remembered from earlier failures, no limit
# on a slow machine.
hypothesis.settings.register_profile(
    "house", derandomize=True, deadline=None, database=None, max_examples=50, print_blob=True
)
hypothesis.settings.load_profile("house")
