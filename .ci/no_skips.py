"""Fails when a test run left something out: a skipped test, or one that was expected to fail.

Usage: ``python .ci/no_skips.py REPORT...`` with JUnit XML files, or folders that hold ``test.xml``
files (as Bazel leaves them). Prints each reason once, with the tests it kept from running. Exit
code 1 when there are any, or when a report holds no test at all; 2 when a report is missing.
"""

from __future__ import annotations

import collections
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path


def main(arguments: list[str]) -> int:
    """Prints what was skipped in the reports; returns the exit code."""
    reasons: dict[str, list[str]] = collections.defaultdict(list)
    for argument in map(Path, arguments):
        reports = sorted(argument.resolve().rglob("test.xml")) if argument.is_dir() else [argument]
        if not reports or not all(report.is_file() for report in reports):
            print(f"no_skips: {argument}: no report there", file=sys.stderr)
            return 2
        tests = 0
        for report in reports:
            for case in ElementTree.parse(report).iter("testcase"):
                tests += 1
                for skipped in case.iter("skipped"):
                    reason = skipped.get("message") or (skipped.text or "").strip() or "no reason"
                    reasons[reason].append(f"{case.get('classname')}::{case.get('name')}")
        print(f"no_skips: {argument}: {tests} tests")
        if not tests:
            reasons["the report holds no test"].append(str(argument))
    for reason, names in sorted(reasons.items()):
        print(f"no_skips: {len(names)} x {reason}\n    " + "\n    ".join(names))
    return int(bool(reasons))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
