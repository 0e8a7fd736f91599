"""BUILD files are up to date, and derived correctly from imports."""

from __future__ import annotations

import ast

import pytest

from tests import testing
from third_party.bazel import build_files

PY_BZL = 'load("//third_party/bazel:py.bzl"'


@pytest.fixture
def tree(tmp_path):
    """Writes Python files (path -> source) with an ``__init__.py`` in each folder."""

    def write(**sources: str):
        for name, source in sources.items():
            path = tmp_path / (name.replace("__", "/") + ".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            for folder in path.parents:
                if folder == tmp_path:
                    break
                (folder / "__init__.py").touch()
            path.write_text(source)
        return tmp_path

    return write


def _rule(text: str, name: str) -> str:
    """The text of the rule called `name` in a BUILD file."""
    rules = [rule for rule in text.split("\n\n") if f'name = "{name}"' in rule]
    assert len(rules) == 1, f"{name}: {len(rules)} rules in\n{text}"
    return rules[0]


def test_build_files_are_up_to_date():
    assert sorted(build_files.stale(testing.ROOT)) == [], "run: make build-files"


def test_every_test_file_has_a_target():
    files = build_files.build_files(testing.ROOT)
    names = [name for name in build_files.read_modules(testing.ROOT) if name.endswith("_test")]
    assert len(names) > 5
    for name in names:
        folder, _, stem = name.replace(".", "/").rpartition("/")
        assert _rule(files[f"{folder}/BUILD"], stem).startswith("attn_py_test(")


def test_a_library_depends_on_what_it_imports(tree):
    root = tree(
        attn_jax__core__a="x = 1",
        attn_jax__nn__b="from attn_jax.core.a import x\nimport numpy",
        attn_jax__nn__c="def f():\n    from . import b\n",
    )
    files = build_files.build_files(root)
    nn = files["attn_jax/nn/BUILD"]
    assert '"//attn_jax/core:a"' in _rule(nn, "b")
    assert '"//attn_jax:__init__"' in _rule(nn, "b")
    assert "numpy" not in nn
    assert '":b"' in _rule(nn, "c")
    assert '"//attn_jax/core:a"' not in _rule(nn, "c")


def test_modules_that_import_each_other_are_one_library(tree):
    root = tree(
        attn_jax__models__one__x="from attn_jax.models import build",
        attn_jax__models__y="import attn_jax.core.a",
        attn_jax__core__a="",
    )
    (root / "attn_jax/models/__init__.py").write_text(
        "def build():\n    from attn_jax.models.one import x\n    from attn_jax.models import y\n"
    )
    files = build_files.build_files(root)
    package = _rule(files["attn_jax/models/BUILD"], "package")
    for source in ('"__init__.py"', '"y.py"', '"//attn_jax/models/one:x.py"'):
        assert source in package
    assert '"//attn_jax/core:a"' in package
    assert 'actual = "//attn_jax/models:package"' in _rule(files["attn_jax/models/one/BUILD"], "x")
    assert 'exports_files(["x.py"])' in files["attn_jax/models/one/BUILD"]


def test_child_processes_configs_and_data_are_dependencies(tree):
    root = tree(
        launch__train="if __name__ == '__main__':\n    pass\n",
        launch__demo="TRAIN = 'launch.train'\n",
        configs__toy="",
        attn_jax__viz__report="'''Like launch.train.'''\nLoader('templates')\n",
        tests__e2e__train_test=(
            "import pytest\n"
            "@pytest.mark.slow\n"
            "def test():\n"
            "    f('-m', 'launch.train', '--config=configs/toy.py:size=64')\n"
            "    g('from attn_jax.viz import report', 'golden.json', 'docs')\n"
        ),
    )
    (root / "attn_jax/viz/templates").mkdir()
    (root / "tests/e2e/golden.json").touch()
    files = build_files.build_files(root)
    assert _rule(files["launch/BUILD"], "train").startswith("attn_py_binary(")
    assert '":train"' in _rule(files["launch/BUILD"], "demo")
    report = _rule(files["attn_jax/viz/BUILD"], "report")
    assert 'data = glob(["templates/**"])' in report
    assert "launch" not in report, "a docstring is no dependency"
    test = _rule(files["tests/e2e/BUILD"], "train_test")
    for expected in ("//launch:train", "//configs:toy", "//attn_jax/viz:report", '["golden.json"]'):
        assert expected in test
    assert 'tags = ["slow"]' in test
    assert 'size = "large"' in test


def test_stale_missing_and_left_over_files_are_found(tree):
    root = tree(attn_jax__core__a="", tests__core__a_test="import attn_jax.core.a")
    for path, text in build_files.build_files(root).items():
        (root / path).write_text(text)
    assert build_files.stale(root) == {}
    (root / "attn_jax/core/b.py").write_text("")
    (root / "tests/BUILD").unlink()
    assert sorted(build_files.stale(root)) == ["attn_jax/core/BUILD", "tests/BUILD"]


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import a.b as c", {"a.b"}),
        ("from a import b, c", {"a", "a.b", "a.c"}),
        ("from . import b", {"p.q", "p.q.b"}),
        ("from ..r import b", {"p.r", "p.r.b"}),
        ("try:\n    import a\nexcept ImportError:\n    import b", {"a", "b"}),
    ],
)
def test_imported_names(source, names):
    assert set(build_files.imported_names(ast.parse(source), "p.q")) == names


def test_rules_are_loaded_from_one_place():
    for path, text in build_files.build_files(testing.ROOT).items():
        assert path == "BUILD" or PY_BZL in text


if __name__ == "__main__":
    testing.main()
