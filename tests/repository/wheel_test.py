"""What `pip install` makes of the checkout and its plugin is complete, and LeRobot finds it."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

from tests import testing

testing.require_module("lerobot", "setuptools")
pytestmark = [pytest.mark.bridge, pytest.mark.slow]

ROOT = pathlib.Path(__file__).resolve().parents[2]
PLUGIN = "robots/lerobot_policy_attn_jax"
BUILD = "import sys, setuptools.build_meta as backend; backend.build_wheel(sys.argv[1])"
SOURCES = ("LICENSE", "README.md", "attn_jax", "configs", "launch", "pyproject.toml", "robots")


def python(code: str, *arguments: str, cwd: pathlib.Path, path: pathlib.Path | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=cwd,
        env={
            **{k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
            **({"PYTHONPATH": str(path)} if path else {}),
            "HF_HUB_OFFLINE": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with both distributions, unpacked."""
    base = tmp_path_factory.mktemp("wheels")
    copy, wheels, site = base / "source", base / "wheels", base / "site"
    copy.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(ROOT / name, copy / name)
    for folder in (copy, copy / PLUGIN):
        python(BUILD, str(wheels), cwd=folder)
    for wheel in wheels.iterdir():
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    return site


def test_no_file_that_is_needed_is_left_out(site: pathlib.Path):
    """Everything but tests and build files, and nothing twice."""

    def files(folder: pathlib.Path) -> set[str]:
        return {
            str(path.relative_to(folder))
            for path in folder.rglob("*")
            if path.is_file() and path.name != "BUILD" and "__pycache__" not in path.parts
        }

    for name in ("attn_jax", "configs", "launch", "robots"):
        expected = {f"{name}/{path}" for path in files(ROOT / name)}
        found = {f"{name}/{path}" for path in files(site / name)}
        assert {path for path in expected if not path.startswith(PLUGIN)} == found
    assert files(ROOT / PLUGIN) - {"pyproject.toml"} == files(site / "lerobot_policy_attn_jax")


def test_lerobot_finds_the_policy_type_by_itself(site: pathlib.Path, tmp_path: pathlib.Path):
    code = """
import sys
from lerobot.configs import PreTrainedConfig
from lerobot.utils.import_utils import register_third_party_plugins

assert "attn_jax" not in PreTrainedConfig.get_known_choices()
register_third_party_plugins()
config = PreTrainedConfig.get_choice_class("attn_jax")
import attn_jax, robots.tabletop, pathlib
from lerobot.policies.factory import get_policy_class
policy = get_policy_class("attn_jax")(
    config(checkpoint=str(pathlib.Path(robots.tabletop.__file__).parent / "policy"), device="cpu")
)
print(config.__module__, attn_jax.__file__, type(policy).__name__)
"""
    module, package, policy = python(code, cwd=tmp_path, path=site).split()
    assert module.startswith("lerobot_policy_attn_jax.")
    assert pathlib.Path(package).is_relative_to(site)
    assert policy == "AttnJaxPolicy"


if __name__ == "__main__":
    testing.main()
