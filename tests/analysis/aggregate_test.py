"""Tests of attn_jax.analysis.aggregate."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from attn_jax.analysis import stats, tables
from attn_jax.analysis.aggregate import COLUMNS, Family, Reduced, aggregate
from attn_jax.core.errors import ConfigError
from tests import testing


def rows(seed=0, good=14, bad=20, effect=0.0, layers=(0, 1, 2), metrics=("lift", "overlap")):
    """Two objects per episode; an effect on layer 1 only."""
    rng = np.random.default_rng(seed)
    parts = []
    for number in range(good + bad):
        outcome = "success" if number < good else "failure"
        own = rng.normal(1.5, 0.3, (len(metrics), len(layers), 1))
        values = own + rng.normal(0, 0.1, (len(metrics), len(layers), 2))
        if outcome == "success" and len(layers) > 1:
            values[:, 1] += effect
        axes = {"metric": metrics, "layer": layers, "object": ("cube", "ball")}
        labels = {"episode": f"e{number}", "outcome": outcome, "hypothesis": "h1_1"}
        parts.append(tables.tidy(values, axes, **labels, camera="wrist"))
    return tables.episode_table(tables.concat(parts))


OUTCOME = Family("differ", "h1_1", ("lift", "overlap"))


def test_one_row_per_test_and_the_episode_is_the_unit():
    data = rows()
    table = aggregate(data, (OUTCOME,), resamples=99)
    assert tuple(table.columns) == COLUMNS
    assert len(table) == 6 and set(table.n) == {34} and set(table.family_size) == {6}
    row = table[(table.metric == "lift") & (table.layer == 2)].iloc[0]
    here = data[(data.metric == "lift") & (data.layer == 2)]
    means = here.groupby(["episode", "outcome"], observed=True)["value"].mean().reset_index()
    x, y = (means.value[means.outcome == o].to_numpy() for o in ("success", "failure"))
    expected = scipy.stats.ttest_ind(x, y, equal_var=False)
    assert (len(x), len(y)) == (14, 20)  # objects of an episode are not samples of their own
    assert row.welch_p == row.p == pytest.approx(expected.pvalue, abs=1e-12)
    assert row.d == pytest.approx(stats.cohens_d(x, y))
    assert row.difference == pytest.approx(x.mean() - y.mean())
    assert row.ci_low < row.difference < row.ci_high
    assert "14 and 20 episodes" in row.power_note


def test_episodes_may_come_one_by_one():
    data = pd.concat([rows(), floored(0.5)])
    families = (
        OUTCOME,
        Family("focus", "h1_1", ("lift",), test="above", reference=1.0),
        Family("moves", "h2_1", ("relative_l2",), test="floor", by=("layer",)),
    )
    reduced = Reduced(families)
    for name in dict.fromkeys(data.episode):
        reduced.add(data[data.episode == name])
    whole = aggregate(data, families, resamples=99)
    pd.testing.assert_frame_equal(reduced.table(resamples=99), whole)
    assert set(reduced.table(families[1:], resamples=99).family) == {"focus", "moves"}


def test_p_values_are_adjusted_over_the_family():
    table = aggregate(rows(), (OUTCOME,), resamples=99)
    holm, bh = stats.adjust(table.p.tolist())
    np.testing.assert_allclose(table.p_holm, holm)
    np.testing.assert_allclose(table.p_bh, bh)
    alone = Family("one", "h1_1", ("lift",), where={"layer": (1,)})
    single = aggregate(rows(), (alone,), resamples=99)
    assert single.p_holm.tolist() == single.p.tolist()


def test_a_test_without_a_number_stays_in_the_declared_family():
    data = rows()
    data.loc[(data.metric == "overlap") & (data.layer == 0), "value"] = 1.0
    table = aggregate(data, (OUTCOME,), resamples=99)
    assert table.p.isna().sum() == table.p_holm.isna().sum() == 1
    assert set(table.family_size) == {6} and set(table.tested) == {5}
    assert table.p_holm.min() == pytest.approx(min(1.0, 6 * table.p.min()), abs=1e-12)


def test_a_planted_difference_is_found_where_it_is():
    table = aggregate(rows(effect=0.6), (OUTCOME,), resamples=99)
    found = table[table.p_holm < 0.05]
    assert set(found.layer) == {1} and len(found) == 2
    assert (found.difference > 0.3).all() and (found.g < found.d).all()


def test_above_a_reference():
    family = Family("focus", "h1_1", ("lift",), test="above", reference=1.0, alternative="greater")
    table = aggregate(rows(), (family,), resamples=199)
    assert (table.p_holm < 1e-6).all() and set(table.reference) == {1.0}
    assert (table.sign_flip_p <= 1 / 200 + 1e-12).all()
    other = Family("focus", "h1_1", ("lift",), test="above", reference=1.5)
    assert (aggregate(rows(), (other,), resamples=199).p > 0.001).all()


def floored(real, seed=0, episodes=12):
    rng = np.random.default_rng(seed)
    parts = []
    for number in range(episodes):
        noise, frame, prompt = rng.normal(0.1, 0.02), rng.normal(0.2, 0.02), rng.normal(real, 0.02)
        kinds = {"noise_1": ("noise", noise), "next": ("frame", frame)}
        kinds["duck"] = ("counterfactual", prompt)
        parts += [
            tables.tidy(
                np.array([value]),
                {"layer": (3,)},
                episode=f"e{number}",
                outcome="success",
                hypothesis="h2_1",
                metric="relative_l2",
                variant=name,
                kind=kind,
                camera="wrist",
            )
            for name, (kind, value) in kinds.items()
        ]
    return tables.episode_table(tables.concat(parts))


def test_a_change_is_compared_with_the_largest_floor_of_its_episode():
    family = Family("prompt", "h2_1", ("relative_l2",), test="floor", alternative="greater")
    found = aggregate(floored(0.4), (family,), resamples=99).iloc[0]
    assert found.n == 12 and found.p < 1e-6
    assert found["mean"] == pytest.approx(0.4, abs=0.03)
    assert found.reference == pytest.approx(0.2, abs=0.03)
    assert found.difference == pytest.approx(0.2, abs=0.03)
    # Above the noise, but not above what the next frame does.
    assert aggregate(floored(0.19), (family,), resamples=99).p[0] > 0.05
    only_noise = Family("prompt", "h2_1", ("relative_l2",), test="floor", floor=("noise",))
    assert aggregate(floored(0.19), (only_noise,), resamples=99).p[0] < 1e-3


def test_no_floor_is_said():
    data = floored(0.4)
    data = data[data.kind == "counterfactual"]
    family = Family("prompt", "h2_1", ("relative_l2",), test="floor")
    found = aggregate(data, (family,), resamples=99).iloc[0]
    assert np.isnan(found.p) and "no null floor" in found.reason and found.n == 0


def test_what_made_the_floor_is_named_in_the_table():
    family = Family("prompt", "h2_1", ("relative_l2",), test="floor")
    assert aggregate(floored(0.4), (family,), resamples=99).floor_kinds[0] == "noise,frame"
    only = Family("prompt", "h2_1", ("relative_l2",), test="floor", floor=("noise",))
    assert aggregate(floored(0.4), (only,), resamples=99).floor_kinds[0] == "noise"
    assert aggregate(rows(), (OUTCOME,), resamples=9).floor_kinds.tolist() == [""] * 6


def test_a_kind_that_an_episode_lacks_is_named():
    """e2 has other noise only: its floor is 0.1 where that of the others is 0.2."""
    data = floored(0.4)
    lacking = data[(data.episode != "e2") | (data.kind != "frame")]
    family = Family("prompt", "h2_1", ("relative_l2",), test="floor", floor=("noise", "frame"))
    assert aggregate(data, (family,), resamples=99).floor_gaps[0] == ""
    found = aggregate(lacking, (family,), resamples=99).iloc[0]
    assert found.floor_gaps == "no frame in e2" and found.n == 12
    assert found.reference == pytest.approx((0.1 + 11 * 0.2) / 12, abs=0.02)
    every = Family("prompt", "h2_1", ("relative_l2",), test="floor")
    found = aggregate(lacking, (every,), resamples=99).iloc[0]
    assert found.floor_gaps == "no frame in e2; no paraphrase in any episode"
    # A kind without a number is no floor either.
    unknown = data.assign(value=data.value.where((data.episode != "e2") | (data.kind != "frame")))
    assert aggregate(unknown, (family,), resamples=99).floor_gaps[0] == "no frame in e2"
    # Rows that come part by part.
    reduced = Reduced((family,))
    for _, part in lacking.groupby("episode", observed=True):
        reduced.add(part)
    assert reduced.table(resamples=99).floor_gaps[0] == "no frame in e2"


def test_a_measure_stands_beside_the_tests():
    data = rows()
    family = Family("f", "h1_1", ("lift",), test="above", beside="overlap")
    table = aggregate(data, (family,), resamples=99)
    means = data[data.metric == "overlap"].groupby("episode", observed=True).value.mean()
    np.testing.assert_allclose(table.null_floor, means.mean())
    assert set(table.metric) == {"lift"} and set(table.family_size) == {3}
    assert aggregate(data, (OUTCOME,), resamples=9).null_floor.isna().all()


def test_a_single_outcome_is_said():
    data = rows(good=0)
    found = aggregate(data, (OUTCOME,), resamples=99)
    assert found.p.isna().all() and set(found.reason) == {"fewer than 2 episodes in a group"}
    assert found.p_holm.isna().all()


def test_results_repeat_and_do_not_depend_on_other_families():
    other = Family("focus", "h1_1", ("lift",), test="above", reference=1.0)
    one = aggregate(rows(), (OUTCOME,), seed=3, resamples=99)
    two = aggregate(rows(), (other, OUTCOME), seed=3, resamples=99)
    pd.testing.assert_frame_equal(
        one, two[two.family == "differ"].reset_index(drop=True)[[*COLUMNS]], check_dtype=False
    )
    three = aggregate(rows(), (OUTCOME,), seed=4, resamples=99)
    assert (one.permutation_p != three.permutation_p).any()
    assert (one.p == three.p).all()


def test_bad_families():
    with pytest.raises(ConfigError, match="unknown test"):
        Family("a", "h1_1", ("lift",), test="bayes")
    with pytest.raises(ConfigError, match="no column 'colour'"):
        Family("a", "h1_1", ("lift",), by=("colour",))
    with pytest.raises(ConfigError, match="alternative"):
        Family("a", "h1_1", ("lift",), alternative="more")
    with pytest.raises(ConfigError, match="names repeat"):
        aggregate(rows(), (OUTCOME, OUTCOME))
    with pytest.raises(ConfigError, match="finds no rows"):
        aggregate(rows(), (Family("a", "h1_1", ("nss",)),))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hypothesis": "h9"}, "a: unknown hypothesis 'h9'"),
        ({"metrics": ("lift", "lfit")}, "a: h1_1 gives no metric 'lfit'"),
        ({"metrics": ()}, r"a: metrics is \(\)"),
        ({"where": {"role": "target"}}, r"a: where\.role is 'target'"),
        ({"primary": "wilcoxn"}, r"unknown primary test 'wilcoxn'\. Use welch, mann_whitney"),
        ({"primary": "welch", "test": "above"}, "unknown primary test 'welch'"),
        ({"alternative": "grater"}, "unknown alternative 'grater'. Use two-sided, greater, less"),
        ({"reference": float("nan")}, "a: reference is nan, no finite number"),
        ({"floor": ("nose",)}, "unknown floor 'nose'. Use noise, frame"),
    ],
)
def test_families_are_checked_when_they_are_made(changes, said):
    with pytest.raises(ConfigError, match=said):
        Family(**({"name": "a", "hypothesis": "h1_1", "metrics": ("lift",)} | changes))


@pytest.mark.slow
def test_family_wise_error_rate_under_the_null():
    """A family of 18 layers x 3 metrics, labels shuffled: Holm finds anything in at most 5 %."""
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 1, (40, 1))
    values = 0.7 * shared + rng.normal(0, 1, (40, 54))
    hits = []
    for trial in range(1000):
        order = rng.permutation(40)
        good, bad = values[order[:17]], values[order[17:]]
        p = scipy.stats.ttest_ind(good, bad, equal_var=False).pvalue  # 54 tests at once
        if trial < 3:
            one_by_one = [stats.welch(good[:, i], bad[:, i]).p for i in range(54)]
            np.testing.assert_allclose(p, one_by_one, atol=1e-12)
        hits.append(stats.adjust(p)[0].min() <= 0.05)
    assert np.mean(hits) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 1000)


if __name__ == "__main__":
    testing.main()
