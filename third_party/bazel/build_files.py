"""Derives every BUILD file of the repository from what the Python files import.

One target per module: a library, a binary if the module has a ``__main__`` block, a test for
``*_test.py``. Modules that import each other become one library, since Bazel has no cycles;
importing ``a.b.c`` also runs ``a/b/__init__.py``, so a package whose ``__init__`` imports its
modules is such a cycle.

What counts as a dependency of a module:

- import statements anywhere in it, in functions too;
- its own packages' ``__init__``;
- a text constant that is the full name of a module (``"launch.train"``, for child processes), and
  in tests, launchers, configs and benchmarks also module names, import statements and repository
  paths *within* a text constant;
- a text constant that names a file or folder beside the module (``"templates"``) is data.

What cannot be seen there stands in the tables below. Usage::

    make build-files                                 # write
    python -m third_party.bazel.build_files --check  # exit 1 and say which files are stale
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import re
import sys
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).absolute().parents[2]
TOP = ("attn_jax", "benchmarks", "configs", "launch", "robots", "tests", "third_party")

#: Data that no constant names: module -> labels.
EXTRA_DATA = {
    **{
        f"tests.repository.{name}_test": ["//:all_files"]
        for name in (
            "arrows",
            "build_files",
            "commands",
            "hygiene",
            "structure",
            "wheel",
        )
    },
    "tests.checkout": ["//:all_files"],
    "tests.repository.bootstrap_test": ["//:bootstrap.sh"],
    "tests.repository.ci_test": ["//:.ci/no_skips.py", "//:.ci/run"],
    "tests.repository.licences_test": [
        "//:requirements/core.lock",
        "//third_party:licences.md",
    ],
    "tests.repository.no_skips_test": ["//:.ci/no_skips.py"],
    "launch.demo": ["//robots/tabletop:all_files"],  # the trained policy
    "tests.data.sessions_test": ["//:docs/file-formats.md"],
    "tests.launch.evaluate_test": ["//robots/tabletop:all_files"],
    "tests.robots.lerobot_policy_attn_jax.rollout_test": ["//robots/tabletop:all_files"],
    "tests.robots.tabletop.policy_test": ["//robots/tabletop:all_files"],
}
#: Modules that are imported under a name put together at run time: module -> modules.
EXTRA_DEPS: dict[str, list[str]] = {}
#: Rules other than Python's: folder -> text added to its BUILD file.
EXTRA_RULES = {
    "tests": 'exports_files(["run_file.py"])\n',
    "third_party": 'exports_files(["licences.md"])\n',
}

HEADER = "# Derived from the imports by third_party/bazel/build_files.py: make build-files\n"
#: Modules about the repository itself: names in their texts say nothing about what they need.
_LOOKS_AT_ALL = ("tests.repository", "third_party")
#: What the macro attn_py_test adds by itself.
_EVERY_TEST = {"//tests:__init__", "//tests:conftest", "//tests:testing"}
_NOT_SOURCES = {".ruff_cache", "__pycache__", "shims"}
_MODULE_NAME = re.compile(rf"\b(?:{'|'.join(TOP)})(?:\.\w+)+")
_FROM_IMPORT = re.compile(r"\bfrom\s+([\w.]+)\s+import\s+\(?([\w\s,]+)")
_PATH = re.compile(rf"\b(?:{'|'.join((*TOP, 'docs'))})(?:/[\w.-]+)+")
_RELATIVE = re.compile(r"[\w-][\w.-]*(?:/[\w-][\w.-]*)*")


@dataclasses.dataclass(frozen=True)
class Module:
    """One Python file: its dotted name, its path below the root, and what its text says."""

    name: str
    path: Path
    imports: frozenset[str]
    data: frozenset[str]
    marks: frozenset[str]
    runnable: bool

    @property
    def folder(self) -> str:
        """The Bazel package, for example ``attn_jax/core``."""
        return self.path.parent.as_posix()


def main() -> int:
    """Writes the BUILD files, or with ``--check`` only compares them; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail when stale")
    check = parser.parse_args().check
    changed = stale(ROOT)
    for path, text in changed.items():
        print(f"{'stale' if check else 'wrote' if text else 'removed'}: {path}")
        if not check and text:
            (ROOT / path).write_text(text)
        elif not check:
            (ROOT / path).unlink()
    if check and changed:
        print("run: make build-files", file=sys.stderr)
    return int(check and bool(changed))


def stale(root: Path) -> dict[str, str]:
    """Returns path -> right text of every BUILD file that differs; an empty text if it must go."""
    wanted = build_files(root)
    present = [f"{folder}/BUILD" for folder in _folders(root)] + ["BUILD"]
    changed = {}
    for path in sorted({*wanted, *present}):
        file = root / path
        text = file.read_text() if file.is_file() else ""
        if path in wanted and text != wanted[path]:
            changed[path] = wanted[path]
        elif path not in wanted and text.startswith(HEADER):
            changed[path] = ""
    return changed


def build_files(root: Path) -> dict[str, str]:
    """Returns path -> text of every BUILD file that belongs below `root`."""
    modules = read_modules(root)
    groups = _cycles({name: _dependencies(module, modules) for name, module in modules.items()})
    labels: dict[str, tuple[str, str]] = {}
    rules: dict[str, list[str]] = {module.folder: [] for module in modules.values()}
    for group in groups:
        for name in group:
            labels[name] = (modules[name].folder, _target(modules[name]))
    for group in groups:
        members = [modules[name] for name in sorted(group)]
        needed = set().union(*(_dependencies(module, modules) for module in members)) - set(group)
        if len(members) == 1:
            folder = members[0].folder
            deps = _labels((labels[name] for name in needed), folder)
            rules[folder].append(_rule(members[0], deps))
            continue
        folder = min((module.folder for module in members), key=lambda text: (len(text), text))
        package = next((m for m in members if m.folder == folder), members[0])
        whole = "package" if _target(package) == "__init__" else f"{_target(package)}_cycle"
        sources = _labels(((m.folder, m.path.name) for m in members), folder, files=True)
        data = sorted(set().union(*(_data(module, folder) for module in members)))
        deps = _labels((labels[name] for name in needed), folder)
        rules[folder].append(
            _call("attn_py_library", name=whole, srcs=sources, data=data, deps=deps)
        )
        for module in members:
            actual = f":{whole}"
            if module.folder != folder:
                actual = f"//{folder}{actual}"
                rules[module.folder].append(f'exports_files(["{module.path.name}"])\n')
            rules[module.folder].append(_call("alias", name=_target(module), actual=actual))
    files = {f"{folder}/BUILD": _build_file(folder, rules[folder]) for folder in rules}
    return files | {"BUILD": _root_build_file(rules)}


def read_modules(root: Path) -> dict[str, Module]:
    """Parses every Python file below the top folders of `root`; returns dotted name -> module."""
    paths = [path for folder in _folders(root) for path in sorted((root / folder).glob("*.py"))]
    names = {_dotted(path.relative_to(root)): path for path in paths}
    return {name: _read(name, path, root, names.keys()) for name, path in names.items()}


def imported_names(tree: ast.AST, package: str) -> Iterator[str]:
    """Yields the dotted names that the import statements of a tree may bring in.

    Args:
      tree: Parsed module; imports inside functions count.
      package: Dotted name of the package the module is in, for relative imports.

    Yields:
      ``a.b`` for ``import a.b``; ``a`` and ``a.b`` for ``from a import b``.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([base] if base else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _folders(root: Path) -> list[str]:
    """Folders below the top ones that hold Python files, in order."""
    found = set()
    for top in TOP:
        for path in (root / top).rglob("*.py"):
            parts = path.relative_to(root).parent.parts
            if not _NOT_SOURCES.intersection(parts):
                found.add("/".join(parts))
    return sorted(found)


def _dotted(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _read(name: str, path: Path, root: Path, known: Collection[str]) -> Module:
    tree = ast.parse(path.read_text(), filename=str(path))
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    imports = {found for found in imported_names(tree, package) if found in known}
    texts = [] if name.startswith(_LOOKS_AT_ALL) else list(_constants(tree))
    data = {_beside(text, path) for text in texts} - {""}
    imports |= {text for text in texts if "." in text and text in known}
    if name.split(".")[0] in {"benchmarks", "configs", "launch", "tests"}:
        for text in texts:
            named, files = _mentions(text, root)
            imports |= named & set(known)
            data |= files
    marks = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pytest.mark"
    }
    runnable = any(
        isinstance(node, ast.If) and "__name__" in ast.unparse(node.test) for node in tree.body
    )
    return Module(
        name=name,
        path=path.relative_to(root),
        imports=frozenset(imports - {name}),
        data=frozenset(data),
        marks=frozenset(marks),
        runnable=runnable,
    )


def _constants(tree: ast.AST) -> Iterator[str]:
    """Text constants, without docstrings."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if is_text and id(node) not in docstrings:
            yield node.value


def _mentions(text: str, root: Path) -> tuple[set[str], set[str]]:
    """Module names, and data labels, that a text constant mentions."""
    names = set(_MODULE_NAME.findall(text))
    for base, imported in _FROM_IMPORT.findall(text):
        words = [phrase.split()[0] for phrase in imported.split(",") if phrase.strip()]
        names |= {base, *(f"{base}.{word}" for word in words)}
    labels = set()
    for path in map(Path, _PATH.findall(text)):
        if path.suffix == ".py":
            names.add(_dotted(path))
        elif (root / path).is_file():
            package = next(p for p in path.parents if p == Path() or any((root / p).glob("*.py")))
            labels.add("//:all_files" if package == Path() else f"//{package.as_posix()}:all_files")
    return names, labels


def _beside(text: str, path: Path) -> str:
    """The glob of a file or folder beside `path` that a text constant names, or an empty text."""
    if not _RELATIVE.fullmatch(text) or len(text) > 100:
        return ""
    target = path.parent / text
    if target.is_file() and target.suffix != ".py":
        return text
    if target.is_dir() and target != path.parent and not any(target.rglob("*.py")):
        return f"{text}/**"
    return ""


def _dependencies(module: Module, modules: dict[str, Module]) -> set[str]:
    """First-party modules whose code runs when `module` is imported or may run when it is used."""
    needed = {*module.imports, *EXTRA_DEPS.get(module.name, [])}
    parts = module.name.split(".")
    needed |= {".".join(parts[:end]) for end in range(1, len(parts))} & modules.keys()
    return needed - {module.name}


def _cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected components of a graph (Tarjan's algorithm)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    open_nodes: list[str] = []
    components = []

    def visit(node: str) -> None:
        order[node] = lowest[node] = len(order)
        open_nodes.append(node)
        for successor in sorted(graph[node]):
            if successor not in order:
                visit(successor)
                lowest[node] = min(lowest[node], lowest[successor])
            elif successor in open_nodes:
                lowest[node] = min(lowest[node], order[successor])
        if lowest[node] == order[node]:
            start = open_nodes.index(node)
            components.append(open_nodes[start:])
            del open_nodes[start:]

    for node in sorted(graph):
        if node not in order:
            visit(node)
    return components


def _target(module: Module) -> str:
    return module.path.stem


def _labels(targets: Iterable[tuple[str, str]], folder: str, files: bool = False) -> list[str]:
    """Labels as seen from `folder`, in the customary order: own package first."""
    own, other = set(), set()
    for package, name in targets:
        if package != folder:
            other.add(f"//{package}:{name}")
        else:
            own.add(name if files else f":{name}")
    return [*sorted(own), *sorted(other)]


def _data(module: Module, folder: str) -> list[str]:
    extra = EXTRA_DATA.get(module.name, [])
    moved = [
        text if text.startswith("//") or module.folder == folder else f"//{module.folder}:all_files"
        for text in module.data
    ]
    return sorted({*extra, *moved})


def _rule(module: Module, deps: list[str]) -> str:
    name, data = _target(module), _data(module, module.folder)
    if module.name.endswith("_test"):
        tags = sorted(module.marks & {"bridge", "native", "slow"})
        size = "large" if "slow" in tags else "medium"
        deps = [label for label in deps if label not in _EVERY_TEST]
        return _call("attn_py_test", name=name, size=size, data=data, tags=tags, deps=deps)
    if module.runnable and module.folder in {"benchmarks", "launch"}:
        return _call("attn_py_binary", name=name, data=data, deps=deps)
    return _call("attn_py_library", name=name, srcs=[module.path.name], data=data, deps=deps)


def _call(rule: str, **attributes: str | list[str]) -> str:
    """The text of one rule, formatted as buildifier would."""
    lines = []
    for key, value in attributes.items():
        if isinstance(value, str):
            lines.append(f'    {key} = "{value}",\n')
        elif globs := [text for text in value if "*" in text]:
            plain = [text for text in value if "*" not in text]
            plus = f" + {_list(plain)}" if plain else ""
            lines.append(f"    {key} = glob({_list(globs)}){plus},\n")
        elif value:
            lines.append(f"    {key} = {_list(value)},\n")
    return f"{rule}(\n{''.join(lines)})\n"


def _list(values: list[str]) -> str:
    if len(values) == 1:
        return f'["{values[0]}"]'
    return "[\n" + "".join(f'        "{value}",\n' for value in values) + "    ]"


def _build_file(folder: str, rules: list[str]) -> str:
    used = sorted({rule.partition("(")[0] for rule in rules} - {"alias", "exports_files"})
    load = ", ".join(f'"{rule}"' for rule in ["//third_party/bazel:py.bzl", *used])
    files = 'glob(\n        ["**"],\n        exclude = ["**/__pycache__/**"],\n    )'
    parts = [
        f"{HEADER}load({load})\n",
        'package(default_visibility = ["//visibility:public"])\n',
        f'filegroup(\n    name = "all_files",\n    srcs = {files},\n)\n',
        *sorted(rules, key=lambda rule: re.findall(r'"(\w+)', rule)[0]),
        EXTRA_RULES.get(folder, ""),
    ]
    return "\n".join(part for part in parts if part)


def _root_build_file(folders: Iterable[str]) -> str:
    labels = "".join(f'        "//{folder}:all_files",\n' for folder in sorted(folders))
    return f"""{HEADER}
package(default_visibility = ["//visibility:public"])

exports_files([
    ".ci/no_skips.py",
    ".ci/run",
    "WORKSPACE",
    "bootstrap.sh",
    "docs/file-formats.md",
    "pyproject.toml",
    "requirements/core.lock",
])

# Everything in the repository: what the tests of the repository itself look at.
filegroup(
    name = "all_files",
    srcs = glob(
        [
            ".*",
            "*",
            ".ci/**",
            "docs/**",
            "requirements/**",
            "third_party/*",
        ],
        exclude = [
            ".bazelrc.local",
            "bazel-*",
            "uv.lock",
        ],
    ) + [
{labels}    ],
)
"""


if __name__ == "__main__":
    sys.exit(main())
