"""What every test file needs: running under Bazel, and running child processes.

This module stays light (no jax, no numpy) because each test file imports it. A test file ends
with::

    if __name__ == "__main__":
        testing.main()

so that ``python -m tests.core.layout_test``, ``bazel test //tests/core:layout_test`` and plain
``pytest`` all run the same tests under the same rules (``tests/conftest.py`` and the pytest section
of ``pyproject.toml``).

Usage of the child-process helper::

    result = testing.run_python("-m", "launch.train", f"--workdir={tmp_path}")
    assert result.returncode == 0, result.stderr

    testing.run_script('''
        import jax
        assert jax.device_count() == 4
    ''', devices=4)
"""

from __future__ import annotations

import contextlib
import ctypes.util
import importlib.util
import os
import resource
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NoReturn

import pytest

#: The checkout, or under Bazel the runfiles tree that mirrors it.
ROOT = Path(__file__).absolute().parent.parent

#: How to obtain the system packages that some tests use; a skip reason quotes the command.
SYSTEM_PACKAGES = {
    "OSMesa": "libosmesa6",
    "bazel": "bazel-bootstrap bazel-rules-java bazel-rules-proto bazel-platforms",
    "chromium": "chromium",
    "g++": "g++",
    "gcc": "gcc",
    "git": "git",
    "make": "make",
}


def main(file: str | os.PathLike[str] | None = None) -> NoReturn:
    """Replaces this process by pytest on one test file; never returns.

    Args:
      file: The test file; the one that was started by default.

    The process is replaced, instead of calling ``pytest.main`` here, because the started file has
    already imported project modules: in a fresh process ``tests/conftest.py`` comes first and can
    install the jaxtyping checks.

    Environment read, as Bazel sets it: ``XML_OUTPUT_FILE`` (where the JUnit report goes),
    ``TEST_TMPDIR`` (parent of every ``tmp_path``), ``TESTBRIDGE_TEST_ONLY`` (the value of
    ``--test_filter``, used as a ``-k`` expression).
    """
    started = Path(file or sys.modules["__main__"].__file__ or "").absolute()
    environment = _environment_with_root()
    if temporary := environment.get("TEST_TMPDIR"):
        environment["HOME"] = temporary  # Bazel gives a test no home
    arguments = [*pytest_arguments(started, environment), *sys.argv[1:]]
    sys.stdout.flush()
    sys.stderr.flush()
    os.chdir(ROOT)
    os.execve(sys.executable, [sys.executable, *arguments], environment)


def pytest_arguments(test_file: Path, environment: Mapping[str, str]) -> list[str]:
    """Returns the interpreter's arguments that run pytest on `test_file` in a given environment."""
    arguments = ["-m", "pytest", str(test_file), "-p", "no:cacheprovider"]
    arguments += [f"--rootdir={ROOT}", f"-c={ROOT / 'pyproject.toml'}"]
    if report := environment.get("XML_OUTPUT_FILE"):
        arguments.append(f"--junitxml={report}")
    if temporary := environment.get("TEST_TMPDIR"):
        arguments.append(f"--basetemp={Path(temporary) / 'pytest'}")
    if only := environment.get("TESTBRIDGE_TEST_ONLY"):
        arguments += ["-k", only]
    return arguments


def run_python(
    *arguments: str | os.PathLike[str],
    devices: int = 1,
    timeout_s: float = 240.0,
    environment: dict[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs this interpreter in a child process; does not check the exit code.

    Args:
      *arguments: Arguments of the interpreter, for example ``"-m", "launch.train",
        "--workdir=..."``.
      devices: Number of emulated CPU devices that jax shows in the child.
      timeout_s: Wall-clock limit; ``subprocess.TimeoutExpired`` is raised beyond it.
      environment: Variables to set on top of the inherited ones.
      cwd: Working directory of the child; the checkout by default.

    Returns:
      The finished process with ``returncode``, ``stdout`` and ``stderr`` (text).
    """
    return subprocess.run(
        [sys.executable, *map(os.fspath, arguments)],
        cwd=cwd or ROOT,
        env=child_environment(devices=devices) | (environment or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def run_script(source: str, *arguments: str, devices: int = 1, timeout_s: float = 240.0) -> str:
    """Runs Python source in a child process, under the same type checks as a test.

    Args:
      source: Python source, indented as a block or not.
      *arguments: Become ``sys.argv[1:]``.
      devices: Number of emulated CPU devices that jax shows in the child.
      timeout_s: Wall-clock limit.

    Returns:
      The child's standard output.

    Raises:
      AssertionError: If the child fails; carries its standard output and error.
    """
    code = "from tests import conftest\n" + textwrap.dedent(source)
    done = run_python("-c", code, *arguments, devices=devices, timeout_s=timeout_s)
    assert done.returncode == 0, f"child failed ({done.returncode})\n{done.stdout}\n{done.stderr}"
    return done.stdout


def child_environment(devices: int = 1) -> dict[str, str]:
    """Returns the environment for a child that sees the checkout and `devices` CPU devices."""
    return _environment_with_root() | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}


def require_program(name: str) -> str:
    """Returns the path of a program; where it is missing, skips the test and names the package."""
    if path := shutil.which(name):
        return path
    pytest.skip(_how_to_install(name))


def require_library(name: str) -> None:
    """Skips the calling test, or module, unless the shared library is installed."""
    if ctypes.util.find_library(name) is None:
        pytest.skip(_how_to_install(name), allow_module_level=True)


def require_module(*names: str) -> None:
    """Skips the calling test, or module, unless the named Python packages are installed."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: make setup-all", allow_module_level=True)


@contextlib.contextmanager
def full_disk(num_bytes: int = 0) -> Iterator[None]:
    """Lets no file of this process grow beyond `num_bytes`: writes fail as on a full disk.

    The error is the kernel's own (EFBIG), also in libraries that write without Python's help.
    """
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def _how_to_install(name: str) -> str:
    packages = SYSTEM_PACKAGES[name]
    return f"{name} is not installed: apt-get install --no-install-recommends {packages}"


def _environment_with_root() -> dict[str, str]:
    """Returns a copy of this environment in which a child can import from the checkout."""
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    paths = [str(ROOT), *(path for path in inherited if path and path != str(ROOT))]
    return dict(os.environ) | {"PYTHONPATH": os.pathsep.join(paths)}
