"""Runs what README.md and docs/*.md tell people to run.

Each document is followed from top to bottom in a copy of the checkout made of links, so that what
it writes stays in a temporary directory:

- ```python blocks run in one process per document, in order, like cells of a notebook.
- ```bash blocks run in one shell per document. Commands that set up or test the whole repository
  are replaced by an
  equivalent: ``make TARGET`` is dry-run (``make -n``: the target and all it needs exist), ``git
    clone`` and ``cd`` into the clone do nothing, because the copy is the clone.
- A block that needs something a test machine lacks (a robot, a checkpoint of 7 GB) is preceded by
  the line
  ``<!-- not run: REASON -->``; its syntax is still checked.
- ```console, ```json and ```text blocks are not run.
"""

from __future__ import annotations

import ast
import dataclasses
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests import testing

_BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>.+?) -->\n)?^```(?P<kind>\w*)[^\n]*\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_KINDS = {"bash", "python", "console", "json", "text", "mermaid", "cpp"}
_NOT_COPIED = {".cache", ".git", ".hypothesis", ".pytest_cache", ".ruff_cache", ".venv", "out"}

# The names that documents use, made to do the equivalent. `python` is this interpreter, also where
# it is written `.venv/bin/python`; `make` only says what it would do.
_PRELUDE = """
set -euo pipefail
make() { command make -n "$@" >/dev/null; }
git() { if [ "$1" != clone ]; then command git "$@"; fi; }
cd() { if [ -e "$1" ]; then builtin cd "$1"; fi; }
"""

DOCUMENTS = sorted(
    path.relative_to(testing.ROOT).as_posix()
    for path in [testing.ROOT / "README.md", *(testing.ROOT / "docs").rglob("*.md")]
)


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block: what kind it is, its text, and why it is not run (empty when it is)."""

    kind: str
    text: str
    not_run: str


def blocks(document: str) -> list[Block]:
    """Returns the fenced blocks of a document, in order."""
    return [
        Block(found["kind"], found["text"], found["reason"] or "")
        for found in _BLOCK.finditer(document)
    ]


def copy_of_checkout(folder: Path) -> Path:
    """Fills `folder` with links to the checkout, and a .venv that holds this interpreter."""
    for path in testing.ROOT.iterdir():
        if path.name not in _NOT_COPIED and not path.name.startswith("bazel-"):
            (folder / path.name).symlink_to(path)
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    # A script and not a link: a linked interpreter would not find its packages.
    (programs / "python").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    (programs / "python").chmod(0o755)
    (programs / "activate").touch()  # run_bash has set PATH
    return folder


def run_bash(texts: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs shell blocks one after the other in a copy of the checkout, up to the first failure."""
    environment = testing.child_environment()
    environment["PATH"] = f"{folder / '.venv' / 'bin'}{os.pathsep}{environment['PATH']}"
    return subprocess.run(
        ["bash", "-c", "\n".join([_PRELUDE, *texts])],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=540,
        check=False,
    )


@pytest.mark.parametrize("document", DOCUMENTS)
def test_blocks_are_of_a_known_kind_and_well_formed(document):
    text = (testing.ROOT / document).read_text()
    fences = re.findall(r"^```", text, re.MULTILINE)
    assert len(fences) == 2 * len(blocks(text)), "a fence is not closed"
    for block in blocks(text):
        assert block.kind in _KINDS, f"say what kind of block this is: {block.text[:60]!r}"
        if block.kind == "python":
            ast.parse(block.text)
        elif block.kind == "bash":
            checked = subprocess.run(
                ["bash", "-n"], input=block.text, capture_output=True, text=True, check=False
            )
            assert checked.returncode == 0, checked.stderr


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_work(document, tmp_path):
    found = blocks((testing.ROOT / document).read_text())
    texts = [block.text for block in found if block.kind == "bash" and not block.not_run]
    if texts:
        done = run_bash(texts, copy_of_checkout(tmp_path))
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS)
def test_python_works(document, tmp_path):
    found = blocks((testing.ROOT / document).read_text())
    cells = [block.text for block in found if block.kind == "python" and not block.not_run]
    if cells:
        script = copy_of_checkout(tmp_path) / "document.py"
        script.write_text("\n".join(cells))
        done = testing.run_python(script, cwd=tmp_path)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    text = _BLOCK.sub("", (testing.ROOT / document).read_text())
    folder = (testing.ROOT / document).parent
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)]
    inside = [target for target in targets if target and not re.match(r"[a-z]+:", target)]
    assert [target for target in inside if not (folder / target).exists()] == []


def test_a_failing_command_is_noticed(tmp_path):
    folder = copy_of_checkout(tmp_path)
    assert run_bash(["make help", "cd attn_jax", "python -c 'import jax'"], folder).returncode == 0
    assert run_bash(["make nonsense"], folder).returncode != 0
    assert run_bash(["false", "true"], folder).returncode != 0
    assert run_bash([".venv/bin/python -m launch.nonsense"], folder).returncode != 0


def test_blocks_are_found():
    text = "a\n```bash\nls\n```\n<!-- not run: no robot -->\n```python\nf()\n```\n"
    assert blocks(text) == [Block("bash", "ls\n", ""), Block("python", "f()\n", "no robot")]


if __name__ == "__main__":
    testing.main()
