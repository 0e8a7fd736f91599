"""The Makefile's targets and .ci/run hold together."""

from __future__ import annotations

import os
import re
import subprocess

import pytest
import yaml

from tests import testing
from third_party.bazel import build_files

MAKEFILE = (testing.ROOT / "Makefile").read_text()
CI = (testing.ROOT / ".ci" / "run").read_text()
TARGETS = re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE)


def _dry_run(target: str) -> str:
    make = testing.require_program("make")
    done = subprocess.run(
        [make, "-n", target], cwd=testing.ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("target", TARGETS)
def test_every_module_and_script_of_a_target_exists(target):
    recipe = _dry_run(target)
    assert recipe.strip()
    for module in re.findall(r"-m ((?:launch|third_party)[\w.]+)", recipe):
        assert (testing.ROOT / (module.replace(".", "/") + ".py")).is_file(), module
    for path in re.findall(r"(?:\./|third_party/|tests/)[\w./]+\.(?:sh|py)", recipe):
        assert (testing.ROOT / path).is_file(), path


def test_recipes_may_keep_bytecode():
    make = testing.require_program("make")
    done = subprocess.run(
        [make, "--eval=show: ; @echo [$$PYTHONDONTWRITEBYTECODE]", "show"],
        cwd=testing.ROOT,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "[]" in done.stdout.splitlines(), done.stderr  # make adds lines below another make


def test_help_lists_every_target():
    phony = re.findall(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)[0].split()
    assert sorted(phony) == sorted(TARGETS)
    assert _dry_run("help")


@pytest.mark.parametrize(
    ("target", "profile"),
    [("demo", "core"), ("test-core", "dev"), ("lint", "dev"), ("test", "bridge")],
)
def test_targets_install_what_they_need_and_no_more(target, profile):
    assert re.findall(r"bootstrap\.sh (\w+)", _dry_run(target)) == [profile]


def test_ci_runs_all_and_installs_what_tests_ask_for():
    for command in ("make lint", "make test ", "make bazel-test", "no_skips.py"):
        assert command in CI
    packages = set(re.findall(r"[\w+.-]+", CI.partition("packages=(")[2].partition("\n)\n")[0]))
    asked = set()
    for module in build_files.read_modules(testing.ROOT).values():
        if module.name.startswith("tests.") and module.name != "tests.repository.testing_test":
            source = (testing.ROOT / module.path).read_text()
            asked |= set(re.findall(r'require_(?:program|library)\("([^"]+)"\)', source))
    assert asked >= {"OSMesa", "git", "make"}
    for name in asked:
        needed = set(testing.SYSTEM_PACKAGES[name].split())
        assert needed <= packages, f"{name} is not installed by .ci/run"


def test_hooks_download_nothing():
    hooks = yaml.safe_load((testing.ROOT / ".pre-commit-config.yaml").read_text())
    assert [repo["repo"] for repo in hooks["repos"]] == ["local"]
    for hook in hooks["repos"][0]["hooks"]:
        assert hook["language"] == "system"
        assert hook["entry"].startswith(".venv/bin/python -m ")


def test_scripts_are_executable_and_well_formed():
    for name in (
        "bootstrap.sh",
        ".ci/run",
        "third_party/locks.sh",
        "third_party/bazel/configure.sh",
    ):
        script = testing.ROOT / name
        assert script.stat().st_mode & 0o111, name
        subprocess.run(["bash", "-n", str(script)], check=True)


if __name__ == "__main__":
    testing.main()
