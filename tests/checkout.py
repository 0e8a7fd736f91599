"""A copy of the checkout made of links, for tests that follow what a document tells people to do.

What a command writes there stays there, and its environment is the one that runs the test:
`bootstrap.sh` finds it ready and installs nothing.

    folder = checkout.copy(tmp_path)
    subprocess.run(["make", "demo"], cwd=folder, env=checkout.environment(folder))
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from tests import testing

_NOT_COPIED = {".cache", ".git", ".hypothesis", ".pytest_cache", ".ruff_cache", ".venv", "out"}
_PROFILE = "bridge"  # the strongest of bootstrap.sh, which satisfies every other


def copy(folder: Path) -> Path:
    """Fills `folder` with links to the checkout, and a .venv that holds this interpreter."""
    for path in testing.ROOT.iterdir():
        if path.name not in _NOT_COPIED and not path.name.startswith("bazel-"):
            (folder / path.name).symlink_to(path)
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    # A script and not a link: a linked interpreter would not find its packages.
    (programs / "python").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    (programs / "python").chmod(0o755)
    (programs / "activate").touch()  # `environment` has set PATH
    (folder / ".venv" / "attn_jax_place").write_text(f"{folder.resolve()}\n")
    stamp = folder / ".venv" / "attn_jax"
    stamp.mkdir()
    (stamp / "profile").write_text(_PROFILE)
    shutil.copy(testing.ROOT / "requirements" / f"{_PROFILE}.lock", stamp / "lock")
    return folder


def environment(folder: Path) -> dict[str, str]:
    """The environment of a child in a copy, in which `python` is the copy's."""
    inherited = testing.child_environment()
    path = f"{folder / '.venv' / 'bin'}{os.pathsep}{inherited['PATH']}"
    return inherited | {"PATH": path}
