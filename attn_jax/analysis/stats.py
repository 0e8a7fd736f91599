"""Tests, effect sizes and intervals over episodes, from scipy and statsmodels.

The unit is the episode: every value given here is one episode's mean, never a frame's. Values that
are not finite are left out and `n` counts the rest. What cannot be computed (too few episodes, no
spread) is NaN with a reason instead of a number that looks like one.

Every sample is one axis: episodes of one group, or pairs.

    result = welch(success, failure)              # .statistic .p .n .reason
    low, high = bca_interval((success, failure), seed=0).interval
    holm, bh = adjust([0.01, 0.04, 0.2])
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import scipy

from attn_jax.core.errors import ConfigError
from attn_jax.core.typing import Float, NumpyArray

RESAMPLES = 10_000
ALPHA = 0.05
POWER = 0.8
LARGE_EFFECT = 0.8
MIN_PER_GROUP = 26  # the smallest n with 80 % power for d = 0.8 at two-sided 5 %
ALTERNATIVES = ("two-sided", "greater", "less")

Sample = Float[NumpyArray, "_"]


@dataclasses.dataclass(frozen=True)
class Result:
    """One test.

    Attributes:
      test: its name.
      n: episodes in each group (two), or pairs (one).
      statistic: of the test; NaN when it is undefined.
      p: p-value, not adjusted; NaN when it is undefined.
      alternative: one of `ALTERNATIVES`; "greater" means the first group, or the mean.
      reason: why there is no number; empty when there is one.
    """

    test: str
    n: tuple[int, ...]
    statistic: float
    p: float
    alternative: str = "two-sided"
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class Interval:
    """A bootstrap interval.

    Attributes:
      method: `BCa` or `percentile`.
      estimate: of the sample.
      low, high: bounds; NaN when they are undefined.
      confidence: nominal coverage.
      reason: why there are no bounds; empty when there are.
    """

    method: str
    estimate: float
    low: float
    high: float
    confidence: float
    reason: str = ""


def finite(x: Sample) -> Sample:
    """The finite values, float64."""
    exact = np.asarray(x, np.float64)
    return exact[np.isfinite(exact)]


def _flat(x: Sample) -> bool:
    """Whether there is no spread beyond rounding."""
    return bool(np.ptp(x) <= 1e-12 * np.abs(x).max())


def _few(*samples: Sample) -> str:
    if min(len(x) for x in samples) < 2:
        return "fewer than 2 episodes" + (" in a group" if len(samples) > 1 else "")
    return ""


def _problem(*samples: Sample) -> str:
    """Why nothing that divides by the spread within the groups is defined; empty if it is."""
    return _few(*samples) or ("no spread" if all(_flat(x) for x in samples) else "")


def _rank_problem(*samples: Sample) -> str:
    """The same of ranks and permutations, which groups without spread have: see a perfect score.

    They need values that differ between groups or, of one sample, from 0.
    """
    values = np.concatenate(samples if len(samples) > 1 else (*samples, np.zeros(1)))
    return _few(*samples) or ("no spread" if _flat(values) else "")


@contextlib.contextmanager
def _one_flat_group() -> Iterator[None]:
    """Silences scipy where one of two groups does not vary: its variance of 0 is then exact."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Precision loss", category=RuntimeWarning)
        yield


def _checked(alternative: str) -> None:
    if alternative not in ALTERNATIVES:
        raise ConfigError(f"unknown alternative {alternative!r}", fix=f"Use one of {ALTERNATIVES}")


def _two(
    name: str,
    x: Sample,
    y: Sample,
    alternative: str,
    run: Callable[[Sample, Sample], tuple],
    problem: Callable[..., str] = _rank_problem,
) -> Result:
    _checked(alternative)
    x, y = finite(x), finite(y)
    n = (len(x), len(y))
    if reason := problem(x, y):
        return Result(name, n, np.nan, np.nan, alternative, reason)
    with _one_flat_group():
        statistic, p = run(x, y)
    return Result(name, n, float(statistic), float(p), alternative)


def _one(
    name: str,
    x: Sample,
    alternative: str,
    run: Callable[[Sample], tuple],
    problem: Callable[..., str] = _rank_problem,
) -> Result:
    _checked(alternative)
    x = finite(x)
    if reason := problem(x):
        return Result(name, (len(x),), np.nan, np.nan, alternative, reason)
    statistic, p = run(x)
    return Result(name, (len(x),), float(statistic), float(p), alternative)


def welch(x: Sample, y: Sample, alternative: str = "two-sided") -> Result:
    """Welch's t test of two means, unequal variances and sizes."""

    def run(x: Sample, y: Sample) -> tuple:
        found: Any = scipy.stats.ttest_ind(x, y, equal_var=False, alternative=alternative)
        return found.statistic, found.pvalue

    return _two("welch", x, y, alternative, run, _problem)


def mann_whitney(x: Sample, y: Sample, alternative: str = "two-sided") -> Result:
    """Mann-Whitney U test; exact for small samples without ties."""

    def run(x: Sample, y: Sample) -> tuple:
        found: Any = scipy.stats.mannwhitneyu(x, y, alternative=alternative)
        return found.statistic, found.pvalue

    return _two("mann_whitney", x, y, alternative, run)


def _mean_difference(x: NumpyArray, y: NumpyArray, axis: int) -> Any:
    return np.mean(x, axis=axis) - np.mean(y, axis=axis)


def permutation(
    x: Sample,
    y: Sample,
    alternative: str = "two-sided",
    *,
    seed: int,
    resamples: int = RESAMPLES,
) -> Result:
    """Permutation of labels, statistic difference of means; exact when there are fewer labellings.

    Args:
      x: first group.
      y: second group.
      alternative: one of `ALTERNATIVES`.
      seed: seed of the permutations.
      resamples: how many are drawn.
    """

    def run(x: Sample, y: Sample) -> tuple:
        found: Any = scipy.stats.permutation_test(
            (x, y),
            _mean_difference,
            permutation_type="independent",
            vectorized=True,
            n_resamples=resamples,
            alternative=alternative,
            rng=np.random.default_rng(seed),
        )
        return found.statistic, found.pvalue

    return _two("permutation", x, y, alternative, run)


def paired_t(difference: Sample, alternative: str = "two-sided") -> Result:
    """Student's t test that the mean of within-episode differences is 0.

    One-sided "greater": half the two-sided p when t > 0, else one minus half.
    """

    def run(x: Sample) -> tuple:
        found: Any = scipy.stats.ttest_1samp(x, 0.0, alternative=alternative)
        return found.statistic, found.pvalue

    return _one("paired_t", difference, alternative, run, _problem)


def wilcoxon(difference: Sample, alternative: str = "two-sided") -> Result:
    """Wilcoxon signed-rank test of within-episode differences; zeros are dropped."""

    def run(x: Sample) -> tuple:
        found: Any = scipy.stats.wilcoxon(x, alternative=alternative)
        return found.statistic, found.pvalue

    return _one("wilcoxon", difference, alternative, run)


def sign_flip(
    difference: Sample, alternative: str = "two-sided", *, seed: int, resamples: int = RESAMPLES
) -> Result:
    """Permutation of the signs of within-episode differences, statistic mean; exact if few."""

    def run(x: Sample) -> tuple:
        found: Any = scipy.stats.permutation_test(
            (x,),
            np.mean,
            permutation_type="samples",
            vectorized=True,
            n_resamples=resamples,
            alternative=alternative,
            rng=np.random.default_rng(seed),
        )
        return found.statistic, found.pvalue

    return _one("sign_flip", difference, alternative, run)


def cohens_d(x: Sample, y: Sample) -> float:
    """Mean difference over the pooled standard deviation (ddof 1, weighted by n - 1)."""
    x, y = finite(x), finite(y)
    if _problem(x, y):
        return float("nan")
    n, m = len(x), len(y)
    pooled = ((n - 1) * x.var(ddof=1) + (m - 1) * y.var(ddof=1)) / (n + m - 2)
    return float((x.mean() - y.mean()) / np.sqrt(pooled))


def cohens_d_paired(difference: Sample) -> float:
    """Mean of within-episode differences over their standard deviation (ddof 1)."""
    x = finite(difference)
    return float("nan") if _problem(x) else float(x.mean() / x.std(ddof=1))


def hedges_g(d: float, total: int, *, groups: int = 2) -> float:
    """Cohen's d without its bias in small samples: d (1 - 3 / (4 (n - groups) - 1)).

    Args:
      d: Cohen's d of two groups, or of pairs with `groups=1`.
      total: episodes in all, n.
      groups: 2, or 1 for paired differences.
    """
    freedom = total - groups
    return float("nan") if freedom < 1 else d * (1.0 - 3.0 / (4.0 * freedom - 1.0))


def bca_interval(
    samples: Sequence[Sample],
    *,
    seed: int,
    resamples: int = RESAMPLES,
    confidence: float = 1 - ALPHA,
    method: str = "BCa",
) -> Interval:
    """Bootstrap interval over episodes, of one mean or of the difference of two.

    Args:
      samples: one or two samples; two are resampled independently.
      seed: seed of the resampling.
      resamples: how many.
      confidence: nominal coverage.
      method: `BCa` (bias-corrected and accelerated) or `percentile`.
    """
    exact = [finite(x) for x in samples]
    if len(exact) not in (1, 2):
        raise ConfigError(f"an interval takes one or two samples, got {len(exact)}")
    estimate = float("nan")
    if all(len(x) for x in exact):
        estimate = float(exact[0].mean() - (exact[1].mean() if len(exact) > 1 else 0.0))
    nothing = functools.partial(Interval, method, estimate, np.nan, np.nan, confidence)
    if reason := _problem(*exact):
        return nothing(reason)
    with warnings.catch_warnings():
        warnings.simplefilter("error", scipy.stats.DegenerateDataWarning)
        try:
            found: Any = scipy.stats.bootstrap(
                tuple(exact),
                np.mean if len(exact) == 1 else _mean_difference,
                n_resamples=resamples,
                batch=max(1, min(resamples, 4_000_000 // max(len(x) for x in exact))),
                confidence_level=confidence,
                method=method,
                vectorized=True,
                rng=np.random.default_rng(seed),
            ).confidence_interval
        except scipy.stats.DegenerateDataWarning:
            return nothing("the resampled means do not spread")
    return Interval(method, estimate, float(found.low), float(found.high), confidence)


def adjust(p: Sequence[float] | Sample) -> tuple[Sample, Sample]:
    """p-values adjusted over one family: (Holm, Benjamini-Hochberg), NaN where p is NaN.

    The family is what was declared, so a test without a p-value counts as one that found nothing
    (p = 1): were it left out, the others would be adjusted over a number that the data chose.
    """
    exact = np.asarray(p, np.float64)
    holm, bh = np.full(exact.shape, np.nan), np.full(exact.shape, np.nan)
    known = np.isfinite(exact)
    if known.any():
        counted = np.where(known, exact, 1.0)
        holm[known] = _holm(counted)[known]
        bh[known] = scipy.stats.false_discovery_control(counted, method="bh")[known]
    return holm, bh


def _holm(p: Sample) -> Sample:
    """Holm's step-down adjustment; statsmodels has it too, but collects garbage on every call."""
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    out = np.empty_like(stepped)
    out[order] = np.minimum(stepped, 1.0)
    return out


@functools.cache
def power_of(d: float, n: int, m: int | None = None, alpha: float = ALPHA) -> float:
    """Power of the two-sided t test for an effect d, with n and m episodes or (m None) n pairs."""
    test = _t_test_power(paired=m is None)
    if m is None:
        return float(test.power(d, n, alpha))
    return float(test.power(d, n, alpha, ratio=m / n))


@functools.cache
def minimal_detectable_d(
    n: int, m: int | None = None, alpha: float = ALPHA, power: float = POWER
) -> float:
    """Smallest d found with the given power; NaN with fewer than 2 episodes in a group."""
    if min(n, n if m is None else m) < 2:
        return float("nan")
    test = _t_test_power(paired=m is None)
    if m is None:
        return float(test.solve_power(None, n, alpha, power))
    return float(test.solve_power(None, n, alpha, power, ratio=m / n))


def _t_test_power(*, paired: bool) -> Any:
    from statsmodels.stats import power  # a second to import, and most commands do not need it

    return power.TTestPower() if paired else power.TTestIndPower()


def power_note(n: int, m: int) -> str:
    """A sentence when a group is too small to see a large effect; empty otherwise."""
    if min(n, m) >= MIN_PER_GROUP:
        return ""
    smallest = minimal_detectable_d(n, m)
    found = f"only effects of d >= {smallest:.2f}" if np.isfinite(smallest) else "nothing"
    return (
        f"{n} and {m} episodes: {found} would be found with {POWER:.0%} power at two-sided"
        f" {ALPHA:.0%}; d = {LARGE_EFFECT} needs {MIN_PER_GROUP} per group"
    )
