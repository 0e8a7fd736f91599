"""bootstrap.sh finds a Python by running it, installs once, and says what to do when it cannot go
on.

Nothing is downloaded: `uv` is a stand-in that writes down how it was called and makes an
environment around the interpreter that runs this test.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import testing

_UV = """#!/bin/bash
echo "$*" >> {log}
case "$1 ${{2:-}}" in
  "--version "*) echo "uv 0" ;;
  "venv "*) mkdir -p .venv/bin; cp {python} .venv/bin/python ;;
  "pip sync") [ ! -e {log}.fail ] ;;
  "python find") [ -e {log}.python ] && cat {log}.python ;;
  *) exit 1 ;;
esac
"""


class Checkout:
    """A checkout in a folder with a space in its name, and a PATH that holds stand-ins and system
    tools only."""

    def __init__(self, folder: Path):
        self.root = folder / "a checkout"
        self.programs = folder / "programs"
        self.log = folder / "uv.log"
        self.root.mkdir()
        self.programs.mkdir()
        shutil.copy(testing.ROOT / "bootstrap.sh", self.root)
        (self.root / "requirements").mkdir()
        for profile in ("core", "dev", "bridge"):
            (self.root / "requirements" / f"{profile}.lock").write_text(f"# {profile}\n")
        for tool in ("awk", "bash", "cat", "cmp", "cp", "dirname", "env", "mkdir", "rm", "sh"):
            (self.programs / tool).symlink_to(str(shutil.which(tool)))
        self.environment = {
            "PATH": str(self.programs),
            "HOME": str(folder),
            "ATTN_JAX_PYTHON_DIRS": "",
            "JAX_PLATFORMS": "cpu",
            "TMPDIR": str(folder),
        }

    def program(self, name: str, script: str) -> Path:
        """Puts an executable script on PATH."""
        path = self.programs / name
        path.write_text(script)
        path.chmod(0o755)
        return path

    def python(self, name: str) -> Path:
        """Puts the interpreter that runs this test on PATH."""
        return self.program(name, f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')

    def uv(self) -> None:
        """Puts the stand-in for uv on PATH."""
        (self.root.parent / "venv_python").write_text(
            f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n'
        )
        (self.root.parent / "venv_python").chmod(0o755)
        python = shlex.quote(str(self.root.parent / "venv_python"))
        self.program("uv", _UV.format(log=shlex.quote(str(self.log)), python=python))

    def syncs(self) -> list[str]:
        """The locks that were installed so far, in order."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [Path(line.split()[-1]).stem for line in lines if line.startswith("pip sync")]

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs bootstrap.sh from another directory."""
        return subprocess.run(
            [str(shutil.which("bash")), str(self.root / "bootstrap.sh"), *arguments],
            cwd=self.root.parent,
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


def test_a_shim_that_fails_is_passed_over(checkout):
    checkout.uv()
    checkout.program(
        "python3.12", "#!/bin/sh\necho 'pyenv: python3.12: command not found' >&2\nexit 127\n"
    )
    checkout.program("python3", "#!/bin/sh\nexit 1\n")
    checkout.python("python3.13")
    done = checkout.run()
    assert done.returncode == 0, done.stderr
    assert "making .venv" in done.stdout
    assert "backend cpu" in done.stdout
    assert "set-up of the core packages took" in done.stdout
    assert checkout.syncs() == ["core"]


def test_an_interpreter_of_pyenv_is_found_behind_its_shims(checkout):
    checkout.uv()
    folder = checkout.root.parent / ".pyenv" / "versions" / "3.12.9" / "bin"
    folder.mkdir(parents=True)
    checkout.python("p").rename(folder / "python")
    assert checkout.run().returncode == 0


def test_uv_is_asked_when_nothing_else_is_found(checkout):
    checkout.uv()
    python = checkout.python("elsewhere")
    (checkout.root.parent / "uv.log.python").write_text(f"{python}\n")
    assert checkout.run().returncode == 0


def test_a_second_run_does_nothing_and_a_changed_lock_is_installed(checkout):
    checkout.uv()
    checkout.python("python3.12")
    assert checkout.run("dev").returncode == 0
    for profile in ("dev", "core"):
        done = checkout.run(profile)
        assert (done.returncode, done.stdout) == (0, "bootstrap: ready (dev packages, unchanged)\n")
    assert checkout.syncs() == ["dev"]

    (checkout.root / "requirements" / "dev.lock").write_text("# other versions\n")
    assert checkout.run("core").returncode == 0
    assert checkout.syncs() == ["dev", "dev"], "the stronger set that was there must stay"

    assert checkout.run("bridge").returncode == 0
    assert checkout.syncs() == ["dev", "dev", "bridge"]


def test_a_failed_installation_is_reported_and_tried_again(checkout):
    checkout.uv()
    checkout.python("python3.12")
    broken = checkout.root.parent / "uv.log.fail"
    broken.touch()
    done = checkout.run()
    assert done.returncode == 1
    assert "requirements/core.lock could not be installed" in done.stderr
    broken.unlink()
    assert checkout.run().returncode == 0
    assert checkout.syncs() == ["core", "core"]


def test_a_damaged_environment_is_made_anew(checkout):
    checkout.uv()
    checkout.python("python3.12")
    assert checkout.run().returncode == 0
    (checkout.root / ".venv" / "bin" / "python").unlink()
    done = checkout.run()
    assert done.returncode == 0, done.stderr
    assert checkout.syncs() == ["core", "core"]


def test_a_moved_environment_is_made_anew(checkout):
    checkout.uv()
    checkout.python("python3.12")
    assert checkout.run().returncode == 0
    checkout.root = checkout.root.rename(checkout.root.parent / "elsewhere")
    done = checkout.run()
    assert done.returncode == 0 and "making .venv" in done.stdout, done.stderr
    assert "ready" in checkout.run().stdout
    assert checkout.syncs() == ["core", "core"]


def test_without_python_it_says_what_to_install(checkout):
    done = checkout.run()
    assert done.returncode == 2
    assert done.stdout == ""
    for remedy in (
        "apt-get install python3.12",
        "pyenv install",
        "uv python install",
        "ATTN_JAX_BASE",
    ):
        assert remedy in done.stderr
    assert not (checkout.root / ".venv").exists()


def test_the_chosen_python_must_work(checkout):
    checkout.uv()
    checkout.python("python3.12")
    done = checkout.run(ATTN_JAX_BASE_PYTHON=os.devnull)
    assert done.returncode == 2
    assert "does not run, or is not Python 3.12 or 3.13" in done.stderr


def test_pip_needs_venv_and_ensurepip(checkout):
    checkout.uv()
    real = shlex.quote(sys.executable)
    checkout.program(
        "python3.12",
        f'#!/bin/sh\ncase "$2" in *ensurepip*) exit 1 ;; *sys.executable*) echo "$0" ;; '
        f'*) exec {real} "$@" ;; esac\n',
    )
    done = checkout.run(ATTN_JAX_NO_UV="1")
    assert done.returncode == 2
    assert "lacks the modules venv and ensurepip" in done.stderr
    assert checkout.syncs() == []


def test_an_unknown_profile_is_refused(checkout):
    done = checkout.run("everything")
    assert done.returncode == 2
    assert "choose core, dev or bridge" in done.stderr


@pytest.mark.slow
def test_pip_is_used_on_request_and_a_useless_environment_is_not_called_ready(checkout):
    """The lock is empty here, so that pip has nothing to fetch and jax is missing afterwards."""
    checkout.uv()
    checkout.python("python3.12")
    done = checkout.run(ATTN_JAX_NO_UV="1")
    assert "with pip" in done.stdout
    assert done.returncode == 1
    assert "do not import" in done.stderr
    assert (checkout.root / ".venv" / "bin" / "pip").exists()
    assert not (checkout.root / ".venv" / "attn_jax").exists()
    assert not checkout.log.exists(), "uv must not be called"


@pytest.mark.slow
def test_pip_removes_what_the_lock_does_not_ask_for(checkout):
    """The packages are put where pip would put them, so that it has nothing to fetch."""
    checkout.python("python3.12")
    assert "making .venv" in checkout.run(ATTN_JAX_NO_UV="1").stdout
    packages = next((checkout.root / ".venv" / "lib").glob("python3*")) / "site-packages"
    for name in ("Kept_Package", "Old.Package", "setuptools", "elsewhere"):
        (packages / f"{name}.py").touch()
        info = packages / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "INSTALLER").write_text("pip\n")
        files = [f"{name}.py", *(f"{info.name}/{f}" for f in ("METADATA", "INSTALLER", "RECORD"))]
        (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))
    fingerprint = f"    --hash=sha256:{'0' * 64}\n"
    (checkout.root / "requirements" / "core.lock").write_text(
        f"kept-package==1.0 \\\n{fingerprint}"
        f"elsewhere==1.0 ; sys_platform == 'never' \\\n{fingerprint}"
    )
    done = checkout.run(ATTN_JAX_NO_UV="1")
    assert "do not import" in done.stderr, "jax is in no lock here"
    assert {file.name.split("-")[0] for file in packages.glob("*.dist-info")} == {
        "Kept_Package",
        "pip",
    }
    assert [file.name for file in packages.glob("*.py")] == ["Kept_Package.py"]


if __name__ == "__main__":
    testing.main()
