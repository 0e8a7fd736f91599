"""Runs the test file that the command line names; what every test target of Bazel starts."""

import sys

from tests import testing

if __name__ == "__main__":
    file = sys.argv.pop(1)
    testing.main(file)
