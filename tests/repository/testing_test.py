"""tests/testing.py: the bridge to Bazel and the child processes."""

from __future__ import annotations

import os
import sys
import xml.etree.ElementTree as ElementTree

import pytest

from tests import testing

_TESTS = """
from tests import testing

def test_right(tmp_path):
    assert str(tmp_path).startswith({tmpdir!r})

def test_wrong():
    assert 1 == 2

if __name__ == "__main__":
    testing.main()
"""


@pytest.fixture(params=["by Bazel", "by itself"])
def started(tmp_path, request):
    """Starts a test file in the environment of Bazel; returns (exit code, names in the report)."""
    starter = [testing.ROOT / "tests" / "run_file.py"] if request.param == "by Bazel" else []

    def start(only: str) -> tuple[int, list[str]]:
        file = tmp_path / "sample_test.py"
        file.write_text(_TESTS.format(tmpdir=str(tmp_path)))
        environment = {
            "XML_OUTPUT_FILE": str(tmp_path / "report.xml"),
            "TEST_TMPDIR": str(tmp_path),
            "TESTBRIDGE_TEST_ONLY": only,
        }
        done = testing.run_python(*starter, file, environment=environment)
        cases = ElementTree.parse(tmp_path / "report.xml").iter("testcase")
        return done.returncode, [case.get("name", "") for case in cases]

    return start


def test_bazel_gets_a_report_and_the_exit_code(started):
    assert started("") == (1, ["test_right", "test_wrong"])


def test_bazel_can_choose_tests(started):
    assert started("right") == (0, ["test_right"])


def test_arguments_without_bazel():
    arguments = testing.pytest_arguments(testing.ROOT / "tests" / "a_test.py", {})
    assert arguments[:3] == ["-m", "pytest", str(testing.ROOT / "tests" / "a_test.py")]
    assert not any("junitxml" in argument or "basetemp" in argument for argument in arguments)


def test_children_import_the_checkout_from_any_directory(tmp_path):
    done = testing.run_python("-c", "import tests.testing", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_run_python_reports_failure_and_output():
    done = testing.run_python(
        "-c", "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")


def test_run_script_raises_with_the_output_of_the_child():
    with pytest.raises(AssertionError, match="went wrong"):
        testing.run_script("raise SystemExit('it went wrong')")
    assert testing.run_script("import sys; print(sys.argv[1:])", "a", "b") == "['a', 'b']\n"


def test_missing_things_skip_and_say_how_to_get_them(monkeypatch):
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(pytest.skip.Exception, match=r"apt-get install .* chromium"):
        testing.require_program("chromium")
    monkeypatch.setattr(testing.ctypes.util, "find_library", lambda name: None)
    with pytest.raises(pytest.skip.Exception, match=r"apt-get install .* libosmesa6") as skipped:
        testing.require_library("OSMesa")
    assert skipped.value.allow_module_level
    monkeypatch.setattr(testing.ctypes.util, "find_library", lambda name: f"lib{name}.so.8")
    testing.require_library("OSMesa")
    with pytest.raises(
        pytest.skip.Exception, match="no_such_package not installed: make setup-all"
    ):
        testing.require_module("sys", "no_such_package")
    testing.require_module("sys")


def test_present_programs_are_found(monkeypatch, tmp_path):
    (tmp_path / "make").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert testing.require_program("make") == str(tmp_path / "make")


if __name__ == "__main__":
    testing.main()
