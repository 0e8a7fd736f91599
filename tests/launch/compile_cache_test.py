"""The cache folder: by environment, otherwise in the checkout; compiled programs land there."""

import textwrap
from pathlib import Path

from launch import compile_cache
from tests import testing

PROGRAM = """
    import os, sys
    os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
    if sys.argv[1:]:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = sys.argv[1]
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    import jax
    from launch import compile_cache
    folder = compile_cache.enable()
    assert jax.config.jax_compilation_cache_dir == str(folder)
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 0  # the environment's
    assert jax.config.jax_compilation_cache_max_size > 0
    if sys.argv[1:]:
        jax.jit(lambda x: x * 3 + 1)(1.0)
    print(folder)
"""


def test_folder_of_the_environment_is_used(tmp_path):
    out = run(str(tmp_path / "cache"))
    assert out == str(tmp_path / "cache")
    assert any((tmp_path / "cache").iterdir())


def test_otherwise_it_is_in_the_checkout():
    checkout = Path(compile_cache.__file__).resolve().parent.parent
    assert run() == str(checkout / ".cache" / "jax")


def run(*arguments):
    done = testing.run_python("-c", textwrap.dedent(PROGRAM), *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


if __name__ == "__main__":
    testing.main()
