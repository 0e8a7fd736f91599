"""Tests of launch.analyze."""

import numpy as np
import pandas as pd
import pytest

from attn_jax.analysis import hypotheses, objects
from attn_jax.core.errors import ConfigError, InputError
from attn_jax.data.episodes import read_episode
from configs.analysis import all as all_hypotheses
from configs.analysis import h1_1_objects, h2_1_prompt
from launch import app
from launch.analyze import analyse_run
from tests import testing
from tests.analysis import runs


def marker(out, number):
    return out / "episodes" / f"episode_{number:05d}" / "done.json"


@pytest.fixture
def run(tmp_path):
    for number in range(3):
        runs.write_run(tmp_path / "run", number, success=number < 2)
    return tmp_path / "run"


def test_finished_episodes_are_not_analysed_again(run, tmp_path):
    config, out = h1_1_objects.get_config("tiny"), tmp_path / "out"
    first = analyse_run(run, config, out)
    assert (first["episodes"], first["analysed"], first["already_done"]) == (3, 3, 0)
    marker(out, 1).unlink()
    stamp = marker(out, 0).stat().st_mtime_ns
    again = analyse_run(run, config, out)
    assert (again["analysed"], again["already_done"]) == (1, 2)
    assert marker(out, 1).is_file() and marker(out, 0).stat().st_mtime_ns == stamp
    assert "target_lift" in app.read_json(out / "config.json")["families"]


def test_a_failing_episode_is_named_and_the_others_are_done(run, tmp_path):
    config, out = h1_1_objects.get_config("tiny"), tmp_path / "out"
    broken = run / "episodes" / "episode_00001" / "observations.npz"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:-5])
    with pytest.raises(InputError, match=r"1 of 3 episodes failed \(episode_00001\)"):
        analyse_run(run, config, out)
    assert [marker(out, n).is_file() for n in range(3)] == [True, False, True]
    broken.write_bytes(whole)
    assert analyse_run(run, config, out)["analysed"] == 1


def test_every_episode_is_in_the_units_of_the_run(tmp_path):
    """Rows of a damaged run are in other units, so nothing of them stays when it is repaired."""
    run, out = tmp_path / "run", tmp_path / "out"
    for number in range(2):
        runs.write_run(run, number, actions=(1 + 9 * number) * np.random.default_rng(0).normal(
            size=(3, 3, 4)
        ))  # fmt: skip
        runs.write_variants(run, number)
    config = h2_1_prompt.get_config("tiny")

    def unit(number):
        rows = pd.read_parquet(marker(out, number).parent / "rows.parquet")
        norm = rows.value[(rows.metric == "action_l2_std") & (rows.variant == "ball")].item()
        one, two = (
            read_episode(place / "episodes" / f"episode_{number:05d}").actions
            for place in (run, run / "variants" / "ball")
        )
        return np.linalg.norm(two - one, axis=-1).mean() / norm

    analyse_run(run, config, out)
    assert unit(0) == pytest.approx(unit(1), rel=0.1)
    assert unit(0) > 5  # that of the first episode alone is 1
    assert analyse_run(run, config, out)["analysed"] == 0
    runs.write_run(run, 2, actions=np.full((3, 3, 4), 500.0))
    runs.write_variants(run, 2)
    assert analyse_run(run, config, out)["analysed"] == 3
    assert unit(0) > 50


def test_a_defect_waits_until_the_others_are_done(run, tmp_path, monkeypatch):
    def sometimes(study, options):
        if study.name == "episode_00000":
            raise ZeroDivisionError("planted")
        return objects.objects(study, options)

    monkeypatch.setitem(hypotheses.HYPOTHESES, "h1_1", sometimes)
    broken = run / "episodes" / "episode_00001" / "observations.npz"
    broken.write_bytes(broken.read_bytes()[:-5])
    both = r"2 of 3 episodes failed \(episode_00000, episode_00001\); episode_00000: Zero"
    with pytest.raises(RuntimeError, match=both) as caught:
        analyse_run(run, h1_1_objects.get_config("tiny"), tmp_path / "out")
    assert "in sometimes" in str(caught.value)
    assert [marker(tmp_path / "out", n).is_file() for n in range(3)] == [False, False, True]


@pytest.mark.slow
def test_processes_give_the_same_files(run, tmp_path):
    config = h1_1_objects.get_config("tiny")
    analyse_run(run, config, tmp_path / "one")
    analyse_run(run, config, tmp_path / "two", jobs=2, backend="loky")
    for number in range(3):
        one, two = (
            (marker(tmp_path / name, number).parent / "rows.csv").read_bytes()
            for name in ("one", "two")
        )
        assert one == two


@pytest.mark.slow
def test_command(run, tmp_path):
    runs.write_variants(run)
    arguments = ["-m", "launch.analyze", f"--run={run}", f"--workdir={tmp_path / 'out'}", "--json"]
    config = "--config=configs/analysis/all.py:lenient,tiny"
    done = testing.run_python(*arguments, config)
    assert done.returncode == 0, done.stderr
    assert '"analysed": 3' in done.stdout.splitlines()[-1]
    strict = testing.run_python(*arguments, "--config=configs/analysis/all.py:tiny")
    assert strict.returncode == 2
    assert "2 of 3 episodes failed (episode_00001, episode_00002)" in strict.stderr


def test_bad_settings(run, tmp_path):
    config = all_hypotheses.get_config("tiny")
    with pytest.raises(InputError, match="no recorded episodes"):
        analyse_run(tmp_path / "nothing", config, tmp_path / "out")
    config.hypotheses.h1_1.colour = "red"
    with pytest.raises(ConfigError, match="colour"):
        analyse_run(run, config, tmp_path / "out")


@pytest.mark.parametrize(
    ("part", "field", "value", "said"),
    [
        ("families.target_lift", "alternative", "grater", "target_lift: unknown alternative"),
        ("families.target_lift", "metrics", ("lfit",), "gives no metric 'lfit'"),
        ("families.target_lift", "metrics", "lift", "target_lift"),
        ("hypotheses.h1_1", "cameras", "wrist", r"config\.hypotheses\.h1_1: "),
        ("hypotheses.h1_1", "tau", 5.0, r"config\.hypotheses\.h1_1: tau is 5"),
        ("hypotheses.h1_1", "tau", "much", r"config\.hypotheses\.h1_1: "),
        ("hypotheses.h1_1", "cameras", ("left",), "no episode has a camera 'left'.*front, wrist"),
        ("hypotheses.h1_1", "streams", ("sufix:action",), "no episode has a stream 'sufix'"),
        ("", "resamples", 0, r"config\.resamples: is 0"),
    ],
)
def test_settings_are_checked_before_any_episode(tmp_path, part, field, value, said):
    runs.write_run(tmp_path / "run", only_reduced=True)
    config = h1_1_objects.get_config("tiny")
    place = config
    for name in filter(None, part.split(".")):
        place = place[name]
    with place.ignore_type():
        place[field] = value
    with pytest.raises(ConfigError, match=said):
        analyse_run(tmp_path / "run", config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


if __name__ == "__main__":
    testing.main()
