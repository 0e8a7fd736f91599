""".ci/no_skips.py: continuous integration does not accept skipped tests."""

from __future__ import annotations

import pytest

from tests import testing

SCRIPT = testing.ROOT / ".ci" / "no_skips.py"
REPORT = """<testsuites><testsuite>
<testcase classname="tests.a_test" name="test_one"/>
{case}
</testsuite></testsuites>
"""
SKIPPED = (
    '<testcase classname="tests.a_test" name="test_two"><skipped message="no g++"/></testcase>'
)


@pytest.mark.parametrize(("case", "code"), [("", 0), (SKIPPED, 1)])
def test_skips_fail_and_are_named(tmp_path, case, code):
    report = tmp_path / "report.xml"
    report.write_text(REPORT.format(case=case))
    done = testing.run_python(SCRIPT, report)
    assert done.returncode == code, done.stderr
    assert ("1 x no g++" in done.stdout) == bool(case)
    assert ("tests.a_test::test_two" in done.stdout) == bool(case)


def test_folders_of_reports_are_searched(tmp_path):
    for name, case in (("a", ""), ("b", SKIPPED)):
        (tmp_path / "logs" / name).mkdir(parents=True)
        (tmp_path / "logs" / name / "test.xml").write_text(REPORT.format(case=case))
    (tmp_path / "link").symlink_to(tmp_path / "logs")  # as Bazel's bazel-testlogs
    done = testing.run_python(SCRIPT, tmp_path / "link")
    assert done.returncode == 1
    assert "3 tests" in done.stdout


def test_an_empty_or_missing_report_fails(tmp_path):
    (tmp_path / "report.xml").write_text("<testsuites><testsuite/></testsuites>")
    assert testing.run_python(SCRIPT, tmp_path / "report.xml").returncode == 1
    assert testing.run_python(SCRIPT, tmp_path / "nothing.xml").returncode == 2
    assert testing.run_python(SCRIPT, tmp_path).returncode == 2


if __name__ == "__main__":
    testing.main()
