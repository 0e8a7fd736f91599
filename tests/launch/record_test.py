import json

import pytest

from attn_jax.core.errors import ConfigError, DiskFullError, SessionError
from attn_jax.data import quota
from attn_jax.data.session_check import validate_session
from attn_jax.data.sessions import SessionReader
from configs import tabletop
from configs.toroidal_dot import get_config
from launch import record
from tests import testing


def config(**fields):
    result = get_config("size=64")
    result.update({"steps": 9} | fields)
    return result


def test_command_line(tmp_path):
    done = testing.run_python(
        "-m",
        "launch.record",
        "--config=configs/toroidal_dot.py:size=64",
        f"--workdir={tmp_path / 's'}",
        "--config.seed=5",
        "--config.steps=8",
        "--config.robot.initial_y=20",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (summary["observations"], summary["actions"]) == (8, 7)
    report = validate_session(tmp_path / "s")
    assert report.ok and report.frame_size == (64, 64)
    assert json.loads((tmp_path / "s" / "config.json").read_text())["seed"] == 5
    assert json.loads((tmp_path / "s" / "run.json").read_text())["seed"] == 5


def test_bad_input_ends_with_one_sentence(tmp_path):
    done = testing.run_python(
        "-m", "launch.record", "--config=configs/toroidal_dot.py:size=65", "--workdir=x"
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: no standard toroidal dot of 65 pixels")


def test_demonstrations_do_not_go_into_a_session(tmp_path):
    record.main(config(), tmp_path / "dot")
    before = (tmp_path / "dot" / "config.json").read_bytes()
    with pytest.raises(SessionError, match="already holds a session"):
        record.main(tabletop.get_config("tiny"), tmp_path / "dot")
    assert (tmp_path / "dot" / "config.json").read_bytes() == before


def test_metadata_and_episodes(tmp_path):
    summary = record.main(config(episodes=3), tmp_path / "dot")
    assert summary["episodes"] == 3 and summary["actions"] == 6
    meta = SessionReader(tmp_path / "dot").meta
    assert meta["session_name"] == "dot" and meta["robot_type"] == "ToroidalDot"
    assert meta["action_space"] == [{"action": 0}, {"action": 1}]
    assert meta["robot"] == {"size": 64, "move": 7, "radius": 5}


def test_named_session_with_another_selector(tmp_path):
    settings = config()
    settings.selector.name = "triple_move"
    settings.session.name = "moves"
    settings.session.image_format = "png"
    assert record.main(settings, tmp_path / "s")["action_counts"] == (2, 6)
    assert SessionReader(tmp_path / "s").meta["session_name"] == "moves"


def test_a_sequence_of_ones_own(tmp_path):
    settings = config()
    settings.selector.update({"name": "sequence", "actions": (1, 1, 1, 0)})
    assert record.main(settings, tmp_path / "s")["action_counts"] == (2, 6)


def test_recorded_actions_give_the_recorded_session_again(tmp_path):
    record.main(config(seed=4), tmp_path / "s")
    settings = config(seed=4, steps=50)
    settings.selector.update({"name": "recorded", "session": str(tmp_path / "s")})
    assert record.main(settings, tmp_path / "again")["observations"] == 9
    pictures = [
        [file.read_bytes() for file in sorted((tmp_path / name / "frames").iterdir())]
        for name in ("s", "again")
    ]
    assert pictures[0] == pictures[1]


def test_existing_session_is_refused_untouched(tmp_path):
    record.main(config(), tmp_path / "s")
    before = {path: path.read_bytes() for path in (tmp_path / "s").rglob("*") if path.is_file()}
    with pytest.raises(SessionError, match="already holds a session"):
        record.main(config(seed=1), tmp_path / "s")
    after = {path: path.read_bytes() for path in (tmp_path / "s").rglob("*") if path.is_file()}
    assert before == after


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("robot.name", "jetbot"),
        ("selector.name", "greedy"),
        ("selector.min_steps", 9),
        ("selector.name", "sequence"),
        ("selector.name", "recorded"),
        ("steps", 0),
        ("session.image_format", "bmp"),
    ],
)
def test_bad_config_leaves_no_session(tmp_path, field, value):
    settings = config()
    settings.update_from_flattened_dict({field: value})
    with pytest.raises(ConfigError):
        record.main(settings, tmp_path / "s")
    record.main(config(), tmp_path / "s")  # the folder is not taken


def test_disk_limit(tmp_path):
    settings = config(steps=500)
    settings.session.max_disk_gb = 50e-6
    with pytest.raises(DiskFullError, match="max_disk_gb"):
        record.main(settings, tmp_path / "s")
    assert validate_session(tmp_path / "s").observations > 5


def test_reclaiming_spares_what_is_protected(tmp_path):
    for name in ("kept", "old", "young"):
        record.main(config(), tmp_path / name)
    settings = config()
    settings.session.update(
        {
            "max_disk_gb": (quota.root_bytes(tmp_path) + 2000) / 1e9,
            "reclaim": True,
            "reclaim_dry_run": False,
            "protect": ("ke*",),
        }
    )
    record.main(settings, tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "new", "young"]
    assert validate_session(tmp_path / "kept").ok and validate_session(tmp_path / "new").ok


def test_tabletop_command_line(tmp_path):
    done = testing.run_python(
        "-m",
        "launch.record",
        "--config=configs/tabletop.py:tiny,task=unplug",
        f"--workdir={tmp_path / 'd'}",
        "--config.seed=5",
        "--config.episodes=1",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (summary["episodes"], summary["successes"]) == (1, 1)
    assert json.loads((tmp_path / "d/config.json").read_text())["seed"] == 5
    note = json.loads((tmp_path / "d/episodes.jsonl").read_text())
    assert note["seed"] == 5 and note["prompt"].startswith("unplug the ")
    info = json.loads((tmp_path / "d/meta/info.json").read_text())
    assert info["total_frames"] == summary["frames"] == note["length"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("robot.task", "juggle"),
        ("robot.cameras", ("back",)),
        ("robot.distractors", 7),
        ("robot.size", 0),
        ("expert.noise", -1.0),
        ("dataset.storage", "gif"),
        ("episodes", 0),
    ],
)
def test_bad_tabletop_config_leaves_no_dataset(tmp_path, field, value):
    settings = tabletop.get_config("tiny")
    settings.update_from_flattened_dict({field: value})
    with pytest.raises(ConfigError):
        record.main(settings, tmp_path / "d")
    assert not (tmp_path / "d").exists()


if __name__ == "__main__":
    testing.main()
