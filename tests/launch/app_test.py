import json

import ml_collections
import numpy as np
import pytest

from attn_jax.core.errors import ConfigError
from launch import app
from tests import testing

LAUNCHER = """
from absl import flags
from attn_jax.core.errors import SessionError
from launch import app
from tests import testing

CONFIG = app.define_config()

def main(config, workdir):
    if config.steps == 13:
        raise SessionError("thirteen", where="steps", fix="Choose another")
    if config.steps == 14:
        with testing.full_disk(), open(workdir, "wb") as file:
            file.write(b"result")
    if config.steps == 15:
        open(workdir).close()
    return {"steps": config.steps, "workdir": workdir}

app.run(main, config=CONFIG, field="steps", example="good.py", needs_workdir=True)
"""

CONFIG = """
import ml_collections
from attn_jax.core.errors import ConfigError

def get_config(arg=None):
    if arg == "other":
        return ml_collections.ConfigDict({"robot": {"size": 3}})
    if arg == "bad":
        raise ConfigError("bad argument", fix="Leave it out")
    return ml_collections.ConfigDict({"steps": 3})
"""


@pytest.fixture(scope="module")
def launcher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("launcher")
    (folder / "launcher.py").write_text(LAUNCHER)
    (folder / "config.py").write_text(CONFIG)

    def launch(*arguments):
        arguments = [
            argument.replace("CONFIG", str(folder / "config.py")) for argument in arguments
        ]
        return testing.run_python(folder / "launcher.py", *arguments)

    return launch


def test_result_is_the_last_line(launcher):
    done = launcher("--config=CONFIG", "--workdir=out", "--config.steps=5", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"steps": 5, "workdir": "out"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=CONFIG", "--workdir=out", "--config.steps=13"], "steps: thirteen. Choose"),
        (["--config=CONFIG:bad", "--workdir=out"], "bad argument. Leave it out"),
        (["--config=CONFIG", "--workdir=out", "--config.size=1"], "has no field 'size'"),
        (
            ["--config=CONFIG", "--workdir=out", "--config.stepz=1"],
            "'stepz'. Did you mean \"steps\"",
        ),
        (["--config=CONFIG", "--workdir=out", "--config.robot.size=1"], "has no field 'robot'"),
        (["--config=CONFIG:other", "--workdir=out"], "has no steps. For example --config=good.py"),
        (["--config=CONFIG", "--workdir=/dev/null/x", "--config.steps=15"], "x: not a directory"),
        (["--config=CONFIG", "--workdir=out", "--config.steps=x"], "--config.steps=x"),
        (["--config=nowhere.py", "--workdir=out"], "nowhere.py"),
        (["--config=nowhere.py", "--workdir=out", "--config.steps=1"], "nowhere.py"),
        (["--config=CONFIG"], "--workdir is required"),
        (["--workdir=out"], "--config is required. For example --config=good.py"),
        (["--config=CONFIG", "--workdir=out", "--fast"], "fast"),
        (["--config=CONFIG", "--workdir=out", "verb"], "unexpected arguments"),
    ],
)
def test_bad_input_is_one_sentence_and_code_2(launcher, arguments, message):
    done = launcher(*arguments)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ") and message in last
    assert "Traceback" not in done.stderr


def test_a_full_disk_is_one_sentence_and_code_2(launcher, tmp_path):
    """Also where the writer knows nothing of it, as here."""
    done = launcher("--config=CONFIG", f"--workdir={tmp_path / 'out'}", "--config.steps=14")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "error: file too large while writing results. Free some space and start again"
    )
    assert "Traceback" not in done.stderr


def test_workdir_holds_config_and_provenance(tmp_path):
    config = ml_collections.ConfigDict({"seed": 4, "rate": 1e-3})
    folder = app.prepare_workdir(tmp_path / "a" / "b", config)
    assert json.loads((folder / "config.json").read_text()) == {"seed": 4, "rate": 1e-3}
    run = json.loads((folder / "run.json").read_text())
    assert run["seed"] == 4 and run["packages"]["numpy"] == np.__version__
    assert not list(folder.glob("*.tmp"))
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file"):
        app.prepare_workdir(tmp_path / "file", config)


def test_json_types(tmp_path):
    value = {
        1: np.arange(2),
        "nan": float("nan"),
        "inf": np.float32("inf"),
        "path": tmp_path / "x",
        "tuple": (np.int32(3), None, True),
    }
    assert app.jsonable(value) == {
        "1": [0, 1],
        "nan": None,
        "inf": None,
        "path": str(tmp_path / "x"),
        "tuple": [3, None, True],
    }


if __name__ == "__main__":
    testing.main()
