"""Tests of launch.aggregate."""

import numpy as np
import pandas as pd
import pytest

from attn_jax.analysis import tables
from attn_jax.analysis.aggregate import COLUMNS, Family, Reduced
from attn_jax.core.errors import ConfigError, InputError
from configs.analysis import all as all_hypotheses
from configs.analysis import h1_1_objects
from launch import aggregate, app
from launch.aggregate import aggregate_runs
from launch.analyze import analyse_run
from tests import testing
from tests.analysis import runs


def config():
    made = all_hypotheses.get_config("lenient,tiny")
    for name in [*made.hypotheses]:
        if name not in ("h1_1", "h2_1", "h4"):
            del made.hypotheses[name]
    return made


@pytest.fixture(scope="module")
def analysed(tmp_path_factory):
    """Four successes that look at the cube and four failures that do less."""
    folder = tmp_path_factory.mktemp("analysis")
    shares = [0.5, 0.55, 0.6, 0.52, 0.2, 0.25, 0.3, 0.22]
    for number, share in enumerate(shares):
        runs.write_run(folder / "run", number, success=number < 4, share=share, only_reduced=True)
    for number in range(4):
        runs.write_variants(folder / "run", number)
    analyse_run(folder / "run", config(), folder / "out")
    return folder / "out"


@pytest.fixture(scope="module")
def aggregated(analysed):
    workdir = analysed.parent / "aggregate"
    return workdir, aggregate_runs([analysed], workdir, seed=0)


def test_table_finds_what_was_planted(aggregated):
    workdir, summary = aggregated
    table = pd.read_parquet(workdir / "table.parquet")
    assert tuple(table.columns) == COLUMNS
    lift = table[table.family == "target_lift"]
    assert len(lift) == 2 * 2 * 2 and (lift.p_holm < 0.01).all()
    outcome = table[(table.family == "objects_by_outcome") & (table.metric == "overlap_picture")]
    assert set(outcome.n_success) == {4} and set(outcome.n_failure) == {4}
    np.testing.assert_allclose(outcome.difference, 0.5425 - 0.2425, rtol=0.02)
    assert (outcome.ci_low > 0.2).all() and (outcome.p_holm < 0.01).all()
    assert outcome.power_note.str.contains("4 and 4 episodes").all()
    moved = table[table.family == "prompt_moves_attention"]
    assert set(moved.n) == {4} and moved.reference.notna().all()
    assert set(moved.floor_gaps) == {""}
    assert len(pd.read_csv(workdir / "table.csv")) == len(table)
    assert len(app.read_json(workdir / "table.json")) == len(table)
    families = summary["families"]
    assert families["target_lift"]["found_holm"] == 8
    assert summary["outcomes"] == {"failure": 4, "success": 4}
    assert "attention_drifts" in summary["left_out"]
    assert summary["skipped"] == {"h2_1": 4}


def test_a_laxer_floor_is_in_the_summary(aggregated):
    """As if one episode had been run without a paraphrase."""
    rows = pd.read_parquet(aggregated[0] / "rows.parquet")
    name = rows.episode[rows.hypothesis == "h2_1"].iloc[0]
    family = Family("prompt", "h2_1", ("relative_l2",), test="floor")
    reduced = Reduced((family,))
    reduced.add(rows[(rows.episode != name) | (rows.kind != "paraphrase")])
    table = reduced.table(resamples=99)
    facts = aggregate.summarise(table, [{"outcome": "success"}], (family,))["families"]["prompt"]
    assert facts["floor_gaps"] == [f"no paraphrase in {name}"]


def test_rows_of_all_episodes(analysed, aggregated):
    rows = pd.read_parquet(aggregated[0] / "rows.parquet")
    parts = [pd.read_parquet(path) for path in sorted(analysed.glob("episodes/*/rows.parquet"))]
    every = tables.concat(parts)
    assert tuple(rows.columns) == tables.COLUMNS
    pd.testing.assert_frame_equal(rows, every, check_categorical=False, check_dtype=False)
    csv = pd.read_csv(aggregated[0] / "rows.csv", keep_default_na=False, na_values={"value": [""]})
    assert tuple(csv.columns) == tables.COLUMNS and len(csv) == len(rows)
    np.testing.assert_allclose(csv.value, rows.value)
    np.testing.assert_array_equal(csv.episode, rows.episode.astype(str))


def test_ranking_of_heads(aggregated):
    ranking = app.read_json(aggregated[0] / "heads.json")
    assert set(ranking) == {f"{q}/{c}" for q in ("text", "action") for c in ("front", "wrist")}
    first = ranking["text/wrist"]
    assert first["units"] == 8 and len(first["heads"]) == 4
    entropies = [head["normalised_entropy"] for head in first["heads"]]
    assert entropies == sorted(entropies) and first["heads"][0]["lift"] > 3
    assert all(head["mass"] > aggregate.LEAST_MASS for head in first["heads"])


def test_heads_are_a_table_too(aggregated):
    folder = aggregated[0]
    ranking, table = app.read_json(folder / "heads.json"), pd.read_parquet(folder / "heads.parquet")
    pd.testing.assert_frame_equal(pd.read_csv(folder / "heads.csv"), table)
    assert tuple(table.columns) == aggregate.HEADS
    assert len(table) == sum(len(of["heads"]) for of in ranking.values())
    one = table[(table["query"] == "text") & (table.camera == "wrist")]
    for line, head in zip(one.to_dict("records"), ranking["text/wrist"]["heads"], strict=True):
        assert {name: line[name] for name in head} == head
    assert one.place.tolist() == [1, 2, 3, 4] and set(one.units) == {8}
    assert tuple(aggregate.head_table({}).columns) == aggregate.HEADS


def test_heads_that_do_not_look_are_not_ranked(aggregated):
    rows = pd.read_parquet(aggregated[0] / "rows.parquet")
    before = aggregate.rank(rows, 0, 99)["text/wrist"]["heads"]
    first = (rows.hypothesis == "h4") & (rows.layer == before[0]["layer"])
    first &= (rows["head"] == before[0]["head"]) & (rows["query"] == "text")
    rows.loc[first & (rows.metric == "mass"), "value"] = 1e-4
    after = aggregate.rank(rows, 0, 99)["text/wrist"]["heads"]
    places = [[(head["layer"], head["head"]) for head in ranking] for ranking in (before, after)]
    assert places[1] == [*places[0][1:], places[0][0]]
    assert np.isnan(after[-1]["normalised_entropy"]) and after[-1]["mass"] == pytest.approx(1e-4)


def test_files_of_the_earlier_system(aggregated):
    workdir, _ = aggregated
    data = app.read_json(workdir / "multi_episode_aggregate.json")
    assert data["total_episodes"] == 8 and data["episode_count"] == {"success": 4, "failure": 4}
    found = data["layer_aggregates"]["5"]["success"]["overlap"]
    assert found["count"] == len(found["values"]) == 4
    assert found["mean"] == pytest.approx(np.mean(found["values"]))
    changes = app.read_json(workdir / "cf_multi_episode_aggregate.json")
    assert changes["layer_aggregates"]["2"]["ball"]["success"]["l2_distance"]["count"] == 4


def test_the_same_seed_gives_the_same_numbers(analysed, aggregated, tmp_path):
    aggregate_runs([analysed], tmp_path, seed=0)
    assert (tmp_path / "table.csv").read_bytes() == (aggregated[0] / "table.csv").read_bytes()


def small(folder, *, seed=0, episodes=2):
    """A run with an analysis of `h1_1`; returns the folder of the analysis."""
    for number in range(episodes):
        runs.write_run(folder / "run", number, seed=seed, only_reduced=True)
    analyse_run(folder / "run", h1_1_objects.get_config("tiny"), folder / "out")
    return folder / "out"


def test_analyses_of_the_same_name_are_pooled_by_episode(tmp_path):
    folders = [small(tmp_path / name, seed=seed) for seed, name in enumerate(("a", "b"))]
    summary = aggregate_runs(folders, tmp_path / "both")
    assert summary["episodes"] == 4
    names = set(pd.read_parquet(tmp_path / "both" / "rows.parquet").episode)
    assert names == {f"{x}/out/episode_0000{n}" for x in "ab" for n in (0, 1)}
    table = pd.read_parquet(tmp_path / "both" / "table.parquet")
    assert set(table[table.family == "target_lift"].n) == {4}
    with pytest.raises(ConfigError, match="is given twice"):
        aggregate_runs([folders[0], tmp_path / "a" / ".." / "a" / "out"], tmp_path / "wrong")
    analyse_run(tmp_path / "a" / "run", h1_1_objects.get_config("tiny"), tmp_path / "again")
    same = "again/episode_00000 is the same recording as out/episode_00000"
    with pytest.raises(ConfigError, match=same):
        aggregate_runs([folders[0], tmp_path / "again"], tmp_path / "wrong")
    other = h1_1_objects.get_config("tiny")
    del other.families["target_lift"]
    analyse_run(tmp_path / "b" / "run", other, tmp_path / "other")
    with pytest.raises(ConfigError, match="declares other families"):
        aggregate_runs([folders[0], tmp_path / "other"], tmp_path / "wrong")


def test_missing_episodes_are_refused_or_named(tmp_path):
    out = small(tmp_path, episodes=3)
    changed = h1_1_objects.get_config("tiny")
    changed.hypotheses.h1_1.denoise = "last"
    observations = tmp_path / "run" / "episodes" / "episode_00001" / "observations.npz"
    observations.write_bytes(observations.read_bytes()[:-9])
    with pytest.raises(InputError, match="1 of 3 episodes failed"):
        analyse_run(tmp_path / "run", changed, out)
    with pytest.raises(InputError, match=r"1 of 3 .*\(episode_00001\); .* is not analysed"):
        aggregate_runs([out], tmp_path / "agg")
    summary = aggregate_runs([out], tmp_path / "agg", allow_missing=True)
    assert summary["episodes"] == 2
    assert summary["missing"] == {"episode_00001": "is not analysed"}
    done = out / "episodes" / "episode_00002" / "done.json"
    app.write_json(done, app.read_json(done) | {"config": "of another time"})
    with pytest.raises(InputError, match="2 of 3 episodes"):
        aggregate_runs([out], tmp_path / "agg")


def test_units_of_actions_must_be_the_same(tmp_path):
    """As when an analysis that takes in a new episode was cut off."""
    out = small(tmp_path)
    done = out / "episodes" / "episode_00001" / "done.json"
    app.write_json(done, app.read_json(done) | {"action_std": [1.0]})
    with pytest.raises(InputError, match="episode_00001 was analysed in another unit"):
        aggregate_runs([out], tmp_path / "agg")


def test_damaged_rows_are_named(tmp_path):
    out = small(tmp_path)
    path = out / "episodes" / "episode_00001" / "rows.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:50])
    with pytest.raises(InputError, match=r"episode_00001 rows\.parquet is missing or damaged"):
        aggregate_runs([out], tmp_path / "agg")
    path.write_bytes(b"PAR1" + bytes(200) + whole[204:])  # data, not the metadata at the end
    with pytest.raises(InputError, match="rows of episode_00001 cannot be read"):
        aggregate_runs([out], tmp_path / "agg")
    path.unlink()
    with pytest.raises(InputError, match=r"episode_00001 rows\.parquet is missing or damaged"):
        aggregate_runs([out], tmp_path / "agg")


def test_a_negative_seed_is_refused(analysed, tmp_path):
    with pytest.raises(ConfigError, match="--seed: seed is -1"):
        aggregate_runs([analysed], tmp_path, seed=-1)


def test_nothing_to_aggregate(tmp_path):
    with pytest.raises(ConfigError, match=r"config\.json"):
        aggregate_runs([tmp_path], tmp_path / "out")
    app.write_json(tmp_path / "config.json", config().to_dict())
    app.write_json(tmp_path / "episodes.json", {"run": "run", "episodes": ["episode_00000"]})
    with pytest.raises(ConfigError, match="no finished episodes"):
        aggregate_runs([tmp_path], tmp_path / "out")


if __name__ == "__main__":
    testing.main()
