"""Tests of attn_jax.analysis.hypotheses on runs with planted attention."""

import numpy as np
import pytest

from attn_jax.analysis import hypotheses, studies, tables
from attn_jax.analysis.hypotheses import Options
from attn_jax.core.errors import ConfigError, RecordError
from attn_jax.data.episodes import read_episode
from attn_jax.probe.store import RecordReader
from tests import testing
from tests.analysis import runs

BOTH = Options(streams=("prefix:text", "suffix:action"))


def source(folder, key=""):
    recorded = (folder / "commits.jsonl").is_file()
    return studies.Source(read_episode(folder), RecordReader(folder) if recorded else None, key)


def study_of(run):
    name = "episode_00000"
    variants = {
        folder.name: source(folder / "episodes" / name, folder.name)
        for folder in sorted((run / "variants").glob("*"))
    }
    return studies.Study(name, source(run / "episodes" / name), variants)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    runs.write_run(run, drift=0.1)
    runs.write_variants(run)
    return study_of(run)


def value(table, **labels):
    """Mean of the rows with these labels."""
    for column, label in labels.items():
        table = table[table[column] == label]
    assert len(table), labels
    return float(table.value.mean())


def test_tables_have_the_documented_columns(study):
    table = hypotheses.run(study, "h1_1", BOTH)
    assert tuple(table.columns) == tables.FRAME_COLUMNS
    assert set(table.hypothesis) == {"h1_1"} and set(table.outcome) == {"success"}
    assert set(table.episode) == {"episode_00000"}
    assert set(table.env_step) == {0, 5, 10} and set(table.layer) == {2, 5}
    assert dict(zip(table.object, table.role, strict=True)) == {
        "red_cube": "target",
        "ball": "distractor",
        "": "",
    }


def test_objects_get_their_planted_share(study):
    table = hypotheses.run(study, "h1_1", BOTH)
    text = {"query": "text", "camera": "wrist", "object": "red_cube"}
    assert value(table, metric="overlap", **text) == pytest.approx(0.4, rel=0.01)
    assert value(table, metric="lift", **text) == pytest.approx(0.4 * 16, rel=0.01)
    assert value(table, metric="overlap_picture", **text) == pytest.approx(0.4, rel=0.01)
    assert value(table, metric="pointing", **text) == 1
    ball = {"query": "text", "camera": "wrist", "object": "ball"}
    assert value(table, metric="overlap", **ball) == pytest.approx(0.6 * 2 / 15, rel=0.1)
    # Three actions with 0.4, 0.5 and 0.6.
    action = {"query": "action", "camera": "front", "object": "red_cube"}
    assert value(table, metric="overlap", **action) == pytest.approx(0.5, rel=0.01)
    assert value(table, metric="camera_mass", query="action") == pytest.approx(0.25, rel=0.01)
    assert value(table, metric="bar_mass", query="action") == pytest.approx(0.0, abs=1e-12)


def test_prompts_move_attention_beyond_the_floors(study):
    table = hypotheses.run(study, "h2_1", Options(streams=("prefix:text",)))
    labels = {"metric": "relative_l2", "camera": "wrist"}
    moved = value(table, variant="ball", **labels)
    assert value(table, variant="ball", kind="counterfactual", **labels) == moved
    for key in ("noise_1", "please", "next_frame"):
        assert value(table, variant=key, **labels) < 0.3 * moved
    assert value(table, variant="next_frame", kind="frame", metric="pearson") > 0.9
    assert value(table, metric="action_l2_std", variant="ball") > 0
    base = study.base.episode.actions
    std = base.reshape(-1, 4).std(0)
    expected = np.linalg.norm((study.variants["ball"].episode.actions - base) / std, axis=-1).mean()
    found = value(table, metric="action_l2_std", variant="ball")
    assert found == pytest.approx(expected, rel=1e-5)
    first = np.linalg.norm(((study.variants["ball"].episode.actions - base) / std)[0], axis=-1)
    found = value(table, metric="action_l2_std_first", variant="ball")
    assert found == pytest.approx(first.mean(), rel=1e-5)
    frames = table[(table.variant == "ball") & (table.camera == "wrist")]
    every, one = (frames[frames.metric == f"jsd{end}"] for end in ("", "_first"))
    assert one.value.tolist() == every[every.env_step == every.env_step.min()].value.tolist()


def test_a_planted_drift_along_the_chunk(study):
    table = hypotheses.run(study, "h3", Options())
    labels = {"object": "red_cube", "camera": "wrist"}
    assert value(table, metric="slope_action", **labels) == pytest.approx(0.1 * 0.25, rel=0.02)
    assert value(table, metric="slope_denoise", **labels) == pytest.approx(0, abs=1e-6)
    for number, share in enumerate((0.4, 0.5, 0.6)):
        found = value(table, metric="roi_curve", query=f"action/{number}", **labels)
        assert found == pytest.approx(share * 0.25, rel=0.01)
    assert value(table, metric="roi_mass_last_action", **labels) == pytest.approx(0.15, rel=0.01)


def test_heads_have_focus_and_lift(study):
    table = hypotheses.run(study, "h4", Options(streams=("prefix:text",)))
    assert set(table["head"]) == {0, 1}
    # 0.4 on one patch, 0.6 on 15 others.
    h = -(0.4 * np.log(0.4) + 0.6 * np.log(0.6 / 15)) / np.log(16)
    assert value(table, metric="normalised_entropy") == pytest.approx(h, rel=0.01)
    assert value(table, metric="max") == pytest.approx(0.4, rel=0.01)
    assert value(table, metric="lift", role="target") == pytest.approx(6.4, rel=0.01)
    assert 1 <= value(table, metric="effective_rank") <= 3


def test_words_and_their_objects(study):
    table = hypotheses.run(study, "words", Options(streams=("prefix:text",)))
    assert set(table["query"]) == {"find", "the", "red", "cube"}
    own = table[table.kind == "own"]
    assert set(own["query"]) == {"red", "cube"} and set(own.object) == {"red_cube"}
    assert value(own, metric="lift") == pytest.approx(6.4, rel=0.01)
    assert value(table, metric="lift", kind="other", object="ball") < 1


def test_the_budget_sums_to_one(study):
    table = hypotheses.run(study, "budget", Options())
    assert value(table, metric="mass:vision") == pytest.approx(0.5, rel=0.01)
    assert value(table, metric="mass:language") == pytest.approx(0.5 * 7 / 10, rel=0.01)
    assert value(table, metric="mass:action") == pytest.approx(0.5 * 3 / 10, rel=0.01)
    groups = ("image/front", "image/wrist", "bos", "text", "state", "pad", "action")
    total = sum(value(table, metric=f"mass:{name}") for name in groups)
    assert total == pytest.approx(1.0, abs=1e-4)


def test_layers_and_frames(study):
    table = hypotheses.run(study, "layers", Options())
    assert value(table, metric="similarity_to_previous_layer", layer=5) > 0.9
    assert value(table, metric="stability") > 0.99
    assert value(table, metric="sink_patches") == 0  # 16 patches cannot exceed 5 sd


def test_options_are_checked(study):
    with pytest.raises(ConfigError, match="unknown hypothesis"):
        hypotheses.run(study, "h9", Options())
    with pytest.raises(ConfigError, match="denoise is 'middle'"):
        Options(denoise="middle")
    with pytest.raises(ConfigError, match="stream:query"):
        Options(streams=("suffix",))
    for wrong in (
        {"tau": 5.0},
        {"tau": -0.1},
        {"tau": float("nan")},
        {"top_share": 0.0},
        {"top_share": 2.0},
    ):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            Options(**wrong)
    with pytest.raises(ConfigError, match="no camera 'left'"):
        hypotheses.run(study, "h1_1", Options(cameras=("left",)))


def test_texts_are_no_lists():
    """Without the type checks of the tests, which would find them first."""
    made = {
        "Options(streams='suffix:action')": "streams is a text",
        "Options(cameras='wrist')": "cameras is a text",
        "Family('a', 'h1_1', 'lift')": "a: metrics is 'lift'",
        "Family('a', 'h1_1', ('lift',), where={'role': 'target'})": "a: where.role is 'target'",
        "Family('a', 'h1_1', ('lift',), reference='one')": "a: reference is 'one'",
    }
    lines = [
        "from attn_jax.analysis.aggregate import Family",
        "from attn_jax.analysis.hypotheses import Options",
        "from attn_jax.core.errors import ConfigError",
    ]
    for call in made:
        lines += ["try:", f"    {call}", "except ConfigError as error:", "    print(error)"]
    done = testing.run_python("-c", "\n".join(lines))
    said = done.stdout.splitlines()
    assert len(said) == len(made), done.stderr
    assert all(line.startswith(start) for line, start in zip(said, made.values(), strict=True))


def test_missing_inputs_are_named(tmp_path):
    runs.write_run(tmp_path, only_reduced=True, objects=())
    bare = study_of(tmp_path)
    with pytest.raises(RecordError, match="no object masks"):
        hypotheses.run(bare, "h1_1", BOTH)
    with pytest.raises(RecordError, match="--prompts and --noise_seeds"):
        hypotheses.run(bare, "h2_1", BOTH)
    with pytest.raises(RecordError, match="reduce=head_mean"):
        hypotheses.run(bare, "h3", Options())
    assert len(hypotheses.run(bare, "h4", BOTH))  # needs no masks


def test_reduced_records_are_enough_where_rows_are_not_needed(tmp_path, study):
    runs.write_run(tmp_path, only_reduced=True, drift=0.1)
    less = study_of(tmp_path)
    for name in ("h1_1", "h4", "words", "budget", "layers"):
        options = Options(streams=("prefix:text",)) if name == "words" else BOTH
        one, two = (hypotheses.run(s, name, options) for s in (study, less))
        keys = [c for c in tables.FRAME_COLUMNS if c != "value"]
        one, two = (t.astype({k: str for k in keys}).set_index(keys).value for t in (one, two))
        np.testing.assert_allclose(two.reindex(one.index), one, rtol=2e-3, atol=2e-3, err_msg=name)


if __name__ == "__main__":
    testing.main()
