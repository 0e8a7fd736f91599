"""Tests of attn_jax.analysis.stats: equal to scipy and statsmodels, valid under the null."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestIndPower

from attn_jax.analysis import stats
from attn_jax.core.errors import ConfigError
from tests import testing

seeds = st.integers(0, 10_000)
EXACT = {"abs": 1e-12, "rel": 1e-12}


def groups(seed, n=12, m=17, shift=0.5):
    rng = np.random.default_rng(seed)
    return rng.normal(shift, 1.0, n), rng.normal(0.0, 2.0, m)


@given(seeds, st.sampled_from(stats.ALTERNATIVES))
def test_two_sample_tests_equal_scipy(seed, alternative):
    x, y = groups(seed)
    t = scipy.stats.ttest_ind(x, y, equal_var=False, alternative=alternative)
    ours = stats.welch(x, y, alternative)
    assert (ours.statistic, ours.p) == pytest.approx((t.statistic, t.pvalue), **EXACT)
    assert ours.n == (12, 17) and ours.reason == ""
    u = scipy.stats.mannwhitneyu(x, y, alternative=alternative)
    ours = stats.mann_whitney(x, y, alternative)
    assert (ours.statistic, ours.p) == pytest.approx((u.statistic, u.pvalue), **EXACT)


@given(seeds, st.sampled_from(stats.ALTERNATIVES))
def test_paired_tests_equal_scipy(seed, alternative):
    x, y = (v[:12] for v in groups(seed))
    t = scipy.stats.ttest_rel(x, y, alternative=alternative)
    ours = stats.paired_t(x - y, alternative)
    assert (ours.statistic, ours.p) == pytest.approx((t.statistic, t.pvalue), **EXACT)
    w = scipy.stats.wilcoxon(x, y, alternative=alternative)
    ours = stats.wilcoxon(x - y, alternative)
    assert (ours.statistic, ours.p) == pytest.approx((w.statistic, w.pvalue), **EXACT)


@given(seeds)
def test_one_sided_p_is_half_or_its_complement(seed):
    x = groups(seed)[0]
    two, one = stats.paired_t(x), stats.paired_t(x, "greater")
    expected = two.p / 2 if two.statistic > 0 else 1 - two.p / 2
    assert one.p == pytest.approx(expected, **EXACT)


def test_permutation_is_exact_for_few_episodes():
    x, y = np.array([3.0, 4.0, 5.0]), np.array([0.0, 1.0, 2.0])
    # 20 labellings; two are as extreme as the observed one.
    assert stats.permutation(x, y, seed=0).p == pytest.approx(2 / 20)
    assert stats.permutation(x, y, "greater", seed=0).p == pytest.approx(1 / 20)
    assert stats.sign_flip(x, "greater", seed=0).p == pytest.approx(1 / 8)


def test_resampling_repeats_with_its_seed():
    x, y = groups(0)
    for test in (
        lambda s: stats.permutation(x, y, seed=s, resamples=500).p,
        lambda s: stats.sign_flip(x, seed=s, resamples=500).p,
    ):
        assert test(1) == test(1)
        assert len({test(s) for s in range(5)}) > 1


@given(seeds)
def test_effect_sizes_by_formula(seed):
    x, y = groups(seed)
    pooled = np.sqrt((11 * x.var(ddof=1) + 16 * y.var(ddof=1)) / 27)
    d = stats.cohens_d(x, y)
    assert d == pytest.approx((x.mean() - y.mean()) / pooled, **EXACT)
    assert stats.hedges_g(d, 29) == pytest.approx(d * (1 - 3 / (4 * 29 - 9)), **EXACT)
    # The pooled t statistic is d sqrt(nm / (n + m)).
    t = scipy.stats.ttest_ind(x, y).statistic
    assert d * np.sqrt(12 * 17 / 29) == pytest.approx(t, **EXACT)
    paired = stats.cohens_d_paired(x)
    assert paired * np.sqrt(12) == pytest.approx(scipy.stats.ttest_1samp(x, 0).statistic, **EXACT)
    assert np.isnan(stats.hedges_g(d, 2))


@pytest.mark.parametrize("method", ["BCa", "percentile"])
def test_intervals_equal_scipy(method):
    x, y = groups(3)
    ours = stats.bca_interval((x, y), seed=5, resamples=2000, method=method)
    found = scipy.stats.bootstrap(
        (x, y),
        lambda a, b, axis: a.mean(axis) - b.mean(axis),
        n_resamples=2000,
        method=method,
        rng=np.random.default_rng(5),
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((found.low, found.high), **EXACT)
    assert ours.estimate == pytest.approx(x.mean() - y.mean())
    again = stats.bca_interval((x, y), seed=5, resamples=2000, method=method)
    assert ours == again


@pytest.mark.parametrize("count", [1, 2, 7, 54])
def test_adjusted_p_equal_statsmodels(count):
    p = np.random.default_rng(count).random(count) ** 3
    p[count // 2] = p[0]  # a tie
    holm, bh = stats.adjust(p)
    np.testing.assert_allclose(holm, multipletests(p, method="holm")[1], atol=1e-12)
    np.testing.assert_allclose(bh, multipletests(p, method="fdr_bh")[1], atol=1e-12)
    assert np.all(holm >= bh - 1e-12)


def test_adjusting_by_hand_and_around_missing_values():
    holm, bh = stats.adjust([0.01, np.nan, 0.04, 0.03])
    np.testing.assert_allclose(holm, [0.04, np.nan, 0.09, 0.09])  # 4, 3 and 2 times, then stepped
    np.testing.assert_allclose(bh, [0.04, np.nan, 0.04 * 4 / 3, 0.04 * 4 / 3])
    holm, bh = stats.adjust([np.nan])
    assert np.isnan(holm).all() and np.isnan(bh).all()


@pytest.mark.parametrize("seed", range(20))
def test_undefined_tests_stay_in_the_family(seed):
    """statsmodels with p = 1 in the place of what is undefined is the reference."""
    rng = np.random.default_rng(seed)
    p = rng.random(rng.integers(2, 40)) ** rng.integers(1, 6)
    p[rng.random(len(p)) < rng.random()] = np.nan
    known = np.isfinite(p)
    whole = np.where(known, p, 1.0)
    for found, method in zip(stats.adjust(p), ("holm", "fdr_bh"), strict=True):
        expected = multipletests(whole, method=method)[1]
        np.testing.assert_allclose(found[known], expected[known], atol=1e-12)
        assert np.isnan(found[~known]).all()


def test_power_equals_statsmodels():
    assert stats.power_of(0.8, 26, 26) == pytest.approx(TTestIndPower().power(0.8, 26, 0.05))
    needed = TTestIndPower().solve_power(0.8, None, 0.05, 0.8)
    assert np.ceil(needed) == stats.MIN_PER_GROUP and needed == pytest.approx(25.52, abs=0.01)
    for n, m in [(2, 2), (11, 35), (26, 26)]:
        smallest = stats.minimal_detectable_d(n, m)
        assert stats.power_of(smallest, n, m) == pytest.approx(0.8, abs=1e-6)
    assert stats.power_of(stats.minimal_detectable_d(10), 10) == pytest.approx(0.8, abs=1e-6)


def test_power_note():
    assert stats.power_note(26, 30) == ""
    assert "d >= 0.99" in stats.power_note(11, 35)
    assert "nothing would be found" in stats.power_note(1, 40)


@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        ([1.0], [1.0, 2.0], "fewer than 2 episodes in a group"),
        ([], [1.0, 2.0], "fewer than 2 episodes in a group"),
        ([1.0, np.nan], [1.0, 2.0], "fewer than 2 episodes in a group"),
        ([0.0, 0.0], [0.0, 0.0], "no spread"),
    ],
)
def test_two_samples_without_an_answer(x, y, reason):
    x, y = np.array(x), np.array(y)
    for result in (
        stats.welch(x, y),
        stats.mann_whitney(x, y),
        stats.permutation(x, y, seed=0, resamples=10),
    ):
        assert np.isnan(result.p) and np.isnan(result.statistic) and result.reason == reason
    interval = stats.bca_interval((x, y), seed=0, resamples=10)
    assert np.isnan(interval.low) and interval.reason == reason
    assert np.isnan(stats.cohens_d(x, y))


def test_groups_without_spread_can_be_told_apart():
    """Every success has 1 and every failure 0; and every answer is right."""
    x, y = np.ones(4), np.zeros(4)
    assert stats.permutation(x, y, seed=0).p == pytest.approx(2 / 70)  # of 70 labellings
    expected = scipy.stats.mannwhitneyu(x, y).pvalue
    assert stats.mann_whitney(x, y).p == pytest.approx(expected, **EXACT) and expected < 0.05
    score = np.full(6, 0.5)
    assert stats.sign_flip(score, "greater", seed=0).p == pytest.approx(1 / 64)
    expected = scipy.stats.wilcoxon(score).pvalue
    assert stats.wilcoxon(score).p == pytest.approx(expected, **EXACT) and expected < 0.05
    for result in (stats.welch(x, y), stats.paired_t(score)):  # infinite
        assert np.isnan(result.p) and result.reason == "no spread"
    assert np.isnan(stats.cohens_d(x, y)) and np.isnan(stats.cohens_d_paired(score))
    assert np.isnan(stats.bca_interval((x, y), seed=0, resamples=10).low)


def test_one_sample_without_an_answer():
    for x in (np.array([1.0]), np.zeros(4), np.array([])):
        for result in (
            stats.paired_t(x),
            stats.wilcoxon(x),
            stats.sign_flip(x, seed=0, resamples=10),
        ):
            assert np.isnan(result.p) and result.reason
        assert np.isnan(stats.cohens_d_paired(x))
        assert np.isnan(stats.bca_interval((x,), seed=0, resamples=10).low)


def test_one_group_without_spread_has_an_answer():
    result = stats.welch(np.ones(5), np.array([1.0, 2.0, 3.0, 2.5]))
    assert 0 < result.p < 0.2
    assert np.isfinite(stats.bca_interval((np.ones(5), np.arange(4.0)), seed=0).low)


def test_missing_values_are_left_out_and_counted():
    x, y = groups(0)
    holes = np.concatenate([x, [np.nan, np.inf]])
    assert stats.welch(holes, y) == stats.welch(x, y)


def test_bad_arguments():
    with pytest.raises(ConfigError, match="alternative"):
        stats.welch(np.arange(3.0), np.arange(3.0), "larger")
    with pytest.raises(ConfigError, match="one or two samples"):
        stats.bca_interval((np.ones(3),) * 3, seed=0)


# --- Validity. 1,000 data sets; a rate of 5 % has a standard error of 0.7 %. ---

TRIALS = 1000


def rejects(test):
    """Share of trials with p <= 5 %, for data sets that share one pool of values."""
    pool = np.random.default_rng(7).gamma(2.0, 1.0, 40)  # skewed, as overlap and lift are
    rng = np.random.default_rng(8)
    return np.mean([test(rng.permutation(pool), number) <= 0.05 for number in range(TRIALS)])


@pytest.mark.slow
@pytest.mark.parametrize(
    "test",
    [
        lambda v, _: stats.welch(v[:18], v[18:]).p,
        lambda v, _: stats.mann_whitney(v[:18], v[18:]).p,
        lambda v, s: stats.permutation(v[:18], v[18:], seed=s, resamples=199).p,
    ],
    ids=["welch", "mann_whitney", "permutation"],
)
def test_shuffled_labels_are_rejected_at_five_percent(test):
    assert rejects(test) == pytest.approx(0.05, abs=0.015)


@pytest.mark.slow
@pytest.mark.parametrize(
    "test",
    [
        lambda x, _: stats.paired_t(x).p,
        lambda x, _: stats.wilcoxon(x).p,
        lambda x, s: stats.sign_flip(x, seed=s, resamples=199).p,
    ],
    ids=["paired_t", "wilcoxon", "sign_flip"],
)
def test_random_signs_are_rejected_at_five_percent(test):
    size = np.random.default_rng(3).gamma(2.0, 1.0, 24)
    rng = np.random.default_rng(4)
    hits = [test(size * rng.choice((-1.0, 1.0), 24), n) <= 0.05 for n in range(TRIALS)]
    assert np.mean(hits) == pytest.approx(0.05, abs=0.015)


@pytest.mark.slow
def test_power_under_a_planted_difference_matches_statsmodels():
    rng = np.random.default_rng(0)
    for d, n, m in [(0.8, 26, 26), (0.6, 15, 40)]:
        hits = [
            stats.welch(rng.normal(d, 1, n), rng.normal(0, 1, m)).p <= 0.05 for _ in range(TRIALS)
        ]
        assert np.mean(hits) == pytest.approx(stats.power_of(d, n, m), abs=0.05)


@pytest.mark.slow
def test_intervals_cover_the_mean():
    """Nominal 95 %; with 30 skewed episodes a bootstrap interval covers a little less."""
    rng = np.random.default_rng(1)
    covered = []
    for number in range(400):
        x = rng.gamma(2.0, 1.0, 30)
        found = stats.bca_interval((x,), seed=number, resamples=999)
        covered.append(found.low <= 2.0 <= found.high)
    assert 0.90 <= np.mean(covered) <= 0.98


if __name__ == "__main__":
    testing.main()
