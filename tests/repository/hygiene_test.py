"""What must not be in the repository: unsafe loading, swallowed errors, paths of a machine."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

from tests import testing
from third_party.bazel import build_files

MODULES = build_files.read_modules(testing.ROOT)

_UNSAFE_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle"}
_LOCK_LINE = re.compile(
    r"[a-zA-Z0-9_.-]+(\[[a-z0-9,_-]+\])?==[\w.!+]+( ; [\w\s.'\"<>=!()-]+)?( \\)?"
    r"|    --hash=sha256:[0-9a-f]{64}( \\)?"
)
# Put together here so that this file does not contain what it forbids.
_UNFINISHED = re.compile(r"\b(TO" + "DO|FIX" + "ME|XX" + r"X|NotImplemented" + r"Error)\b")
_MACHINE_PATH = re.compile(r"(?<![\w./-])/(work|root|home|farm|Users)/\w")
_GENERATED = {".bazelrc.local", "uv.lock"}


def unsafe(tree: ast.AST) -> list[str]:
    """Returns what a parsed file does that can run code from data, or hides errors."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            call = ast.unparse(node.func)
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if call in {"eval", "exec"}:
                found.append(call)
            if keywords.get("allow_pickle") == "True":
                found.append("allow_pickle=True")
            if call == "torch.load" and keywords.get("weights_only") != "True":
                found.append("torch.load without weights_only=True")
            if call.endswith("yaml.load") and "Safe" not in keywords.get("Loader", ""):
                found.append("yaml.load")
            if keywords.get("shell") == "True":
                found.append("shell=True")
        elif isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "everything"
            if caught in {"everything", "Exception", "BaseException"}:
                raised = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
                if not raised:
                    found.append(f"except {caught}")
    imported = set(build_files.imported_names(tree, "package"))
    for name in _UNSAFE_MODULES & {name.partition(".")[0] for name in imported}:
        if name != "pickle" or not _only_names_its_errors(tree):
            found.append(f"import {name}")
    if any(name.endswith("serialize_executable") for name in imported):
        found.append("import serialize_executable")
    return found


def _only_names_its_errors(tree: ast.AST) -> bool:
    """Whether a file uses nothing of pickle but the error that weights-only loaders raise."""
    uses = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "pickle":
            uses |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            uses |= {alias.asname for alias in node.names if alias.name == "pickle"} - {None}
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle":
            uses.add(node.attr)
    return uses <= {"UnpicklingError"}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_code_is_safe(name):
    assert unsafe(ast.parse((testing.ROOT / MODULES[name].path).read_text())) == []


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("import pickle\npickle.loads(f)", 1),
        ("import pickle as p\np.loads(f)", 1),
        ("from pickle import loads", 1),
        ("import pickle\ntry:\n    f()\nexcept pickle.UnpicklingError:\n    g()", 0),
        ("from cloudpickle import loads", 1),
        ("from jax.experimental import serialize_executable", 1),
        ("eval('1')", 1),
        ("np.load(f, allow_pickle=True)", 1),
        ("np.load(f, allow_pickle=False)", 0),
        ("torch.load(f)", 1),
        ("torch.load(f, weights_only=True)", 0),
        ("try:\n    f()\nexcept Exception:\n    pass", 1),
        ("try:\n    f()\nexcept:\n    pass", 1),
        ("try:\n    f()\nexcept BaseException:\n    g()\n    raise", 0),
        ("try:\n    f()\nexcept OSError:\n    pass", 0),
    ],
)
def test_unsafe_code_is_noticed(source, count):
    assert len(unsafe(ast.parse(source))) == count


def _texts() -> list[Path]:
    folders = [testing.ROOT / top for top in (*build_files.TOP, ".ci", "docs", "requirements")]
    paths = [path for folder in folders for path in folder.rglob("*")]
    paths += [path for path in testing.ROOT.iterdir() if path.name not in _GENERATED]
    skipped = {"__pycache__", ".ruff_cache"}
    kinds = {".py", ".sh", ".md", ".toml", ".lock", ".bzl", ".cc", ".h", ".jinja", ".yaml"}
    names = {".bazelrc", ".gitignore", "BUILD", "Makefile", "WORKSPACE", "run"}
    return [
        path
        for path in paths
        if (path.suffix in kinds or path.name in names)
        and path.is_file()
        and not skipped & set(path.parts)
    ]


def test_no_unfinished_work_and_no_paths_of_a_machine():
    texts = _texts()
    assert len(texts) > 50
    found = [
        f"{path.relative_to(testing.ROOT)}:{number}: {line.strip()[:100]}"
        for path in texts
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1)
        if _UNFINISHED.search(line) or _MACHINE_PATH.search(line)
    ]
    assert found == []


@pytest.mark.parametrize("profile", ["core", "dev", "bridge"])
def test_locks_hold_names_versions_and_hashes_only(profile):
    lines = (testing.ROOT / "requirements" / f"{profile}.lock").read_text().splitlines()
    assert [line for line in lines if not _LOCK_LINE.fullmatch(line)] == []
    packages = [number for number, line in enumerate(lines) if "==" in line]
    assert len(packages) > 40
    for number in packages:
        assert lines[number + 1].lstrip().startswith("--hash="), lines[number]


def test_a_stronger_lock_holds_the_weaker_one():
    pins = {}
    for profile in ("core", "dev", "bridge"):
        text = (testing.ROOT / "requirements" / f"{profile}.lock").read_text()
        # Extras and markers may be wider in the stronger lock; the version may not differ.
        pins[profile] = dict(re.findall(r"^([\w.-]+)(?:\[.*?\])?==([\w.!+]+)", text, re.MULTILINE))
    assert pins["core"].items() <= pins["dev"].items() <= pins["bridge"].items()
    assert "torch" not in pins["dev"]
    assert {"torch", "lerobot", "timm"} <= pins["bridge"].keys()


def test_generated_files_are_not_kept():
    git = testing.require_program("git")
    if not (testing.ROOT / ".git").exists():  # a source archive, or Bazel's copy
        ignored = (testing.ROOT / ".gitignore").read_text().splitlines()
        assert {"uv.lock", ".bazelrc.local", ".venv/", "out/", "bazel-*"} <= set(ignored)
        return
    kept = subprocess.run(
        [git, "ls-files", "-ci", "--exclude-standard"],
        cwd=testing.ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert kept.stdout == ""


if __name__ == "__main__":
    testing.main()
