""".ci/run stops at the first failure, accepts no skipped test and ends with pytest's summary.

`make` is a stand-in here: it writes the report and the closing line that the real one would.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys

import pytest

from tests import testing

_MAKE = r"""#!/bin/bash
echo "make $1" >> calls
case "$1" in
  test)
    echo '<testsuite><testcase name="a"/>{case}</testsuite>' > .cache/ci/pytest.xml
    echo '======== 7 passed in 1.23s ========'
    echo 'something else' ;;
  bazel-test)
    mkdir -p bazel-testlogs/x
    echo '<testsuite><testcase name="a"/></testsuite>' > bazel-testlogs/x/test.xml ;;
esac
[ "$1" != "{failing}" ]
"""


@pytest.fixture
def run_ci(tmp_path):
    """Runs .ci/run with a stand-in for make; returns (exit code, last line printed, calls)."""

    def run(case: str = "", failing: str = "") -> tuple[int, str, list[str]]:
        shutil.copytree(testing.ROOT / ".ci", tmp_path / ".ci")
        programs = {
            ".venv/bin/python": f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n',
            "bin/id": "#!/bin/sh\necho 1000\n",  # not root: installs nothing
            "bin/make": _MAKE.format(case=case, failing=failing),
        }
        for name, script in programs.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(script)
            (tmp_path / name).chmod(0o755)
        done = subprocess.run(
            ["bash", ".ci/run"],
            cwd=tmp_path,
            env=dict(os.environ) | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        calls = (tmp_path / "calls").read_text().splitlines()
        return done.returncode, (done.stdout.splitlines() or [""])[-1], calls

    return run


def test_all_stages_run_and_the_summary_comes_last(run_ci):
    code, last, calls = run_ci()
    assert code == 0
    assert last == "======== 7 passed in 1.23s ========"
    assert calls == ["make lint", "make rollout", "make test", "make bazel-test"]


@pytest.mark.parametrize("kind", ["pytest.skip", "pytest.xfail"])
def test_a_test_that_did_not_count_fails_the_run(run_ci, kind):
    case = f'<testcase name="b"><skipped type="{kind}" message="why"/></testcase>'
    code, last, _ = run_ci(case=case)
    assert code == 1
    assert last == "======== 7 passed in 1.23s ========"


@pytest.mark.parametrize(
    ("stage", "ran"), [("lint", 1), ("rollout", 2), ("test", 3), ("bazel-test", 4)]
)
def test_a_failing_stage_stops_the_run(run_ci, stage, ran):
    code, _, calls = run_ci(failing=stage)
    assert code == 1
    assert len(calls) == ran


if __name__ == "__main__":
    testing.main()
