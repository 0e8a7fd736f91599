"""Where files stand, how long they are, and that each module has a test of its name."""

from __future__ import annotations

import ast

import pytest

from tests import testing
from third_party.bazel import build_files

MAX_LINES = 450

#: Modules without a test of their name, and why.
UNTESTED: dict[str, str] = {
    "attn_jax.core.typing": "names for types, no code",
}

MODULES = build_files.read_modules(testing.ROOT)
TESTS = sorted(name for name in MODULES if name.endswith("_test"))


def _test_path(name: str) -> str:
    """Module attn_jax.core.layout -> file tests/core/layout_test.py, and so on."""
    return "tests/" + name.removeprefix("attn_jax.").replace(".", "/") + "_test.py"


def test_every_module_has_a_test_of_its_name():
    product = ("attn_jax.", "launch.", "robots.")
    wanted = {
        _test_path(name)
        for name, module in MODULES.items()
        if name.startswith(product) and module.path.name != "__init__.py"
    }
    present = {module.path.as_posix() for module in MODULES.values()}
    assert sorted(wanted - present - {_test_path(name) for name in UNTESTED}) == []


def test_the_list_of_untested_modules_is_true():
    present = {module.path.as_posix() for module in MODULES.values()}
    for name in UNTESTED:
        assert name in MODULES, f"{name} does not exist: strike it"
        assert _test_path(name) not in present, f"{name} has a test: strike it"


@pytest.mark.parametrize("name", TESTS)
def test_test_files_run_by_themselves_and_can_fail(name):
    source = (testing.ROOT / MODULES[name].path).read_text()
    assert source.endswith('if __name__ == "__main__":\n    testing.main()\n')
    tree = ast.parse(source)
    checks = [node for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    calls = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    checking = [call for call in calls if "assert" in call or call == "pytest.raises"]
    assert checks or checking, f"{name} checks nothing"


def test_python_files_stand_where_pytest_and_bazel_find_them():
    strays = [
        name
        for name in MODULES
        if name.startswith("tests.") and name.split(".")[-1].startswith("test_")
    ]
    assert strays == []
    missing = {
        module.path.parent.as_posix()
        for module in MODULES.values()
        if not (testing.ROOT / module.path.parent / "__init__.py").is_file()
    }
    assert sorted(missing) == []


def test_no_file_is_too_long():
    sources = [
        path
        for top in build_files.TOP
        for suffix in ("py", "cc", "h", "jinja", "js")
        for path in (testing.ROOT / top).rglob(f"*.{suffix}")
    ]
    assert len(sources) > 20
    long = {
        path.relative_to(testing.ROOT).as_posix(): lines
        for path in sources
        if (lines := len(path.read_text().splitlines())) > MAX_LINES
    }
    assert long == {}


def test_all_launchers_can_be_imported_together():
    # absl refuses a flag defined twice; launchers import one another, and tests import many.
    names = [name for name in MODULES if name.startswith("launch.")]
    assert "launch.study" in names
    code = f"import {', '.join(names)}, sys; print(*sys.modules)"
    done = testing.run_python("-c", code)
    assert done.returncode == 0, done.stderr
    # Every command waits for what is imported at its start.
    slow = {"scipy.stats", "statsmodels", "torch", "transformers"}
    assert not slow & set(done.stdout.split())


if __name__ == "__main__":
    testing.main()
