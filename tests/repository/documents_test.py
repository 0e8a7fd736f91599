"""Runs what README.md and docs/*.md tell people to run.

Each document is followed from top to bottom in a copy of the checkout made of links, so that what
it writes stays in a temporary directory, and a block may read what one before it has written:

- ```python blocks run in one process per document, like cells of a notebook.
- ```bash blocks run in one shell per document. Commands that set up or test the whole repository
  are replaced by an equivalent: ``make TARGET`` is dry-run (``make -n``: the target and all it
  needs exist; tests/e2e/demo_test.py runs the recipe of ``make demo``), ``git clone`` and ``cd``
  into the clone do nothing, because the copy is the clone.
- A block that needs something a test machine lacks (a robot, a checkpoint of 7 GB) is preceded by
  the line
  ``<!-- not run: REASON -->``; its syntax is still checked.
- ```console, ```json and ```text blocks are not run.
"""

from __future__ import annotations

import ast
import dataclasses
import re
import subprocess
from pathlib import Path

import pytest

from tests import checkout, testing

_BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>.+?) -->\n)?^```(?P<kind>\w*)[^\n]*\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_KINDS = {"bash", "python", "console", "json", "text", "mermaid", "cpp"}

# Reads names of files, runs each as a cell in one namespace, answers on the first standard output.
_CELLS = """
import os, sys
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
names = {"__name__": "__main__"}
for line in sys.stdin:
    with open(line.strip()) as file:
        exec(compile(file.read(), line.strip(), "exec"), names)
    print("done", file=answers, flush=True)
"""

# The names that documents use, made to do the equivalent. `python` is this interpreter, also where
# it is written `.venv/bin/python`; `make` only says what it would do.
_PRELUDE = """
set -euo pipefail
make() { command make -n "$@" >/dev/null; }
git() { if [ "$1" != clone ]; then command git "$@"; fi; }
cd() { if [ -e "$1" ]; then builtin cd "$1"; fi; }
cell() {
  [ -n "${CELLS_PID:-}" ] || coproc CELLS { python cells.py; }
  echo "$1" >&"${CELLS[1]}"
  read -r <&"${CELLS[0]}"
}
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


def run_blocks(found: list[Block], folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs blocks from top to bottom in a copy of the checkout, up to the first failure."""
    (folder / "cells.py").write_text(_CELLS)
    script = [_PRELUDE]
    for number, block in enumerate(found):
        if block.kind == "python":
            (folder / f"cell_{number}.py").write_text(block.text)
            script.append(f"cell cell_{number}.py")
        else:
            script.append(block.text)
    return subprocess.run(
        ["bash", "-c", "\n".join(script)],
        cwd=folder,
        env=checkout.environment(folder),
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
def test_what_it_says_works(document, tmp_path):
    found = blocks((testing.ROOT / document).read_text())
    run = [block for block in found if block.kind in ("bash", "python") and not block.not_run]
    if run:
        done = run_blocks(run, checkout.copy(tmp_path))
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    text = _BLOCK.sub("", (testing.ROOT / document).read_text())
    folder = (testing.ROOT / document).parent
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)]
    inside = [target for target in targets if target and not re.match(r"[a-z]+:", target)]
    assert [target for target in inside if not (folder / target).exists()] == []


def test_a_failing_block_is_noticed(tmp_path):
    folder = checkout.copy(tmp_path)

    def code(*texts: str) -> int:
        found = [Block("bash" if "=" not in t else "python", t + "\n", "") for t in texts]
        return run_blocks(found, folder).returncode

    assert code("make help", "cd attn_jax", "python -c 'import jax'") == 0
    assert code("make nonsense") != 0
    assert code("false", "true") != 0
    assert code(".venv/bin/python -m launch.nonsense") != 0
    # Cells share their names, and see what commands before them have written.
    assert code("a = 2", "echo 3 > b", "assert a == 2 and int(open('b').read()) == 3") == 0
    assert code("a = 2", "assert a == 3", "true") != 0
    assert code("a = unknown") != 0


def test_blocks_are_found():
    text = "a\n```bash\nls\n```\n<!-- not run: no robot -->\n```python\nf()\n```\n"
    assert blocks(text) == [Block("bash", "ls\n", ""), Block("python", "f()\n", "no robot")]


if __name__ == "__main__":
    testing.main()
