"""Statistics: hand arithmetic, and independent implementations (scipy, scikit-learn)."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats as scipy_stats
from sklearn.metrics import roc_auc_score, roc_curve

from efface.metrics.kolmogorov import EXACT_CELLS
from efface.metrics.resampling import draw, expanded_tail, fewest, standard_error
from efface.metrics.stats import (
    auc,
    auc_draws,
    auc_interval,
    bootstrap_difference,
    bootstrap_mean,
    detectable,
    group,
    harmonic_mean,
    holm,
    ks_floor,
    ks_two_sample,
    mean_draws,
    percentile,
    placements,
    smallest_seen,
    tpr_at_fpr,
    tpr_interval,
    unit,
    unseen_share,
)


def expanded(draws, n: int) -> tuple[float, ...]:
    """Expanded percentile interval of draws of n groups, by scipy.stats: quantiles at Phi(-+ t_.975 sqrt(n / (n - 1)))
    of Student's t with n - 1 degrees of freedom."""
    tail = scipy_stats.norm.cdf(scipy_stats.t.ppf([0.025, 0.975], n - 1) * math.sqrt(n / (n - 1)))
    return tuple(np.quantile(draws, tail))


def mean_by_hand(values, seed: int, resamples: int) -> np.ndarray:
    """Bootstrap means of rows that are each a group of their own."""
    n = len(values)
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples) @ values / n


# -- intervals
# -----------------------------------------------------------------------------------------------------------
def test_bootstrap_resamples_entities_not_rows():
    """10 entities, 10 equal rows each: entity means are the only spread, and the interval is about as wide as that of
    the t test over 10 means, 2 * 2.262 * .3367 / sqrt(10) = .482. Over 100 rows it is 2 * 1.984 * .3209 / 10 = .127."""
    means = np.linspace(0, 1, 10)
    values, entities = np.repeat(means, 10), [f"e{i}" for i in range(10) for _ in range(10)]
    for names, n in ((entities, 10), ([str(i) for i in range(100)], 100)):
        low, high = bootstrap_mean(values, names, seed=1, resamples=4000)
        spread = values[:: 100 // n].std(ddof=1)
        assert high - low == pytest.approx(2 * scipy_stats.t.ppf(0.975, n - 1) * spread / math.sqrt(n), rel=0.05)


def test_unequal_entities_weigh_by_their_rows():
    """5 entities; a resample of entities e0 (3 rows of 1) twice and others (1 row of 0) gives row-weighted means, so
    every draw is 3k / (3k + 5 - k) with k copies of e0."""
    values, entities = np.array([1.0, 1, 1, 0, 0, 0, 0]), ["a", "a", "a", "b", "c", "d", "e"]
    low, high = bootstrap_mean(values, entities, seed=0, resamples=4000)
    possible = [3 * k / (3 * k + 5 - k) for k in range(6)]
    assert min(abs(low - p) for p in possible) < 1e-12 and min(abs(high - p) for p in possible) < 1e-12


def test_few_entities_fall_back_to_rows_and_say_so():
    values = np.array([0.0, 1, 0, 1, 1, 1])
    assert unit(["a"] * 6) == "rows" and unit(["a", "a", "b", "b", "c", "d"]) == "rows"
    assert unit(["a", "b", "c", "d", "e", "e"]) == "entities" and unit(["a", "b"]) == "entities"
    assert unit(list("abcdef"), ["a"] * 6) == "rows"
    one, rows = bootstrap_mean(values, ["a"] * 6, seed=3), bootstrap_mean(values, list("abcdef"), seed=3)
    assert one == rows and one[0] < values.mean() < one[1]


def test_too_little_to_resample_has_no_interval():
    assert bootstrap_mean(np.array([0.5]), ["a"]) == (None, None)
    assert bootstrap_mean(np.array([0.5, np.nan]), ["a", "b"]) == (None, None)


def test_nan_rows_are_left_out_of_the_interval():
    values, entities = np.random.default_rng(0).normal(size=40), [str(i) for i in range(40)]
    padded = np.concatenate([values, [np.nan] * 5])
    assert bootstrap_mean(padded, [*entities, *"abcde"], seed=4) == bootstrap_mean(values, entities, seed=4)


def test_columns_with_gaps_divide_by_what_they_have():
    """Two columns over six entities, one with three NaN: its draws are means of the scored rows drawn, never diluted by
    the others. All scored rows are 1, so every draw is 1 (or NaN where none was drawn)."""
    values = np.stack([np.ones(6), np.array([1, np.nan, 1, np.nan, 1, np.nan])], axis=1)
    draws = mean_draws(values, group(list("abcdef")), 0, 200)
    assert (draws[:, 0] == 1).all() and set(draws[~np.isnan(draws[:, 1]), 1]) == {1.0}


def test_same_seed_same_bits_other_seed_other_draws():
    assert np.array_equal(draw(7, 5, 50), draw(7, 5, 50)) and not np.array_equal(draw(7, 5, 50), draw(7, 6, 50))
    assert (draw(7, 5, 50).sum(axis=1) == 7).all()


def test_coverage_of_the_interval():
    """200 data sets of 25 entities x 4 correlated rows with mean 0: the interval over 25 entities covers about 95%
    (+-1.5% by chance); resampling rows would cover about 70%."""
    rng, hits = np.random.default_rng(7), 0
    entities = [f"e{i}" for i in range(25) for _ in range(4)]
    for trial in range(200):
        values = np.repeat(rng.normal(size=25), 4) + 0.3 * rng.normal(size=100)
        low, high = bootstrap_mean(values, entities, seed=trial, resamples=300)
        hits += low <= 0 <= high
    assert 0.91 <= hits / 200 <= 0.985


def test_the_tail_is_that_of_student():
    """Five groups: Phi(-sqrt(5/4) t_.975(4)) = Phi(-3.104) = .00095. One group has nothing to expand; more groups cut
    off more, up to the plain .025."""
    for n in (2, 3, 5, 8, 25, 400):
        for tail in (0.005, 0.025, 0.05):
            by_scipy = scipy_stats.norm.cdf(-math.sqrt(n / (n - 1)) * scipy_stats.t.ppf(1 - tail, n - 1))
            assert expanded_tail(n, tail) == pytest.approx(by_scipy, rel=1e-6)
    five = scipy_stats.norm.cdf(-math.sqrt(5 / 4) * scipy_stats.t.ppf(0.975, 4))
    assert expanded_tail(5, 0.025) == pytest.approx(five, rel=1e-9) and five == pytest.approx(0.00095, abs=1e-5)
    assert expanded_tail(1, 0.025) == 0.0
    tails = [expanded_tail(n, 0.025) for n in range(2, 60)]
    assert tails == sorted(tails) and tails[-1] < 0.025 < 1.0001 * expanded_tail(10**6, 0.025)


def test_the_interval_reads_draws_at_these_tails():
    """Draws 0, .0001 ... 1 are their own levels; draws without a value are left out; 90% cuts off .05 at each end."""
    draws = np.linspace(0, 1, 10001)
    for n in (2, 5, 8, 100):
        assert percentile(draws, n) == pytest.approx(expanded(draws, n), abs=1e-9)
    tail = scipy_stats.norm.cdf(-math.sqrt(5 / 4) * scipy_stats.t.ppf(0.95, 4))
    assert percentile(draws, 5, 0.9) == pytest.approx((tail, 1 - tail), abs=1e-9)
    gaps = np.concatenate([[np.nan, np.inf, -np.inf], draws, [np.nan] * 5000])
    assert percentile(gaps, 8) == percentile(draws, 8) and percentile(np.array([np.nan]), 8) == (None, None)
    assert percentile(np.array([]), 8) == (None, None)


def test_few_groups_are_covered_as_often_as_said():
    """1,000 samples of eight normal values with mean 0: 95% of intervals hold 0, but only 90% of plain percentile
    intervals of the same draws."""
    samples = np.random.default_rng(0).normal(size=(8, 1000))
    draws = mean_draws(samples, group(list("abcdefgh")), 1, 2000)
    low, high = np.array([percentile(column, 8) for column in draws.T]).T
    plain_low, plain_high = np.quantile(draws, [0.025, 0.975], axis=0)
    assert 0.92 <= np.mean((low <= 0) & (0 <= high)) <= 0.98
    assert np.mean((plain_low <= 0) & (0 <= plain_high)) < 0.92
    assert ((low <= plain_low) & (plain_high <= high)).all()
    assert bootstrap_mean(samples[:, 0], list("abcdefgh"), seed=1, resamples=2000) == pytest.approx((low[0], high[0]))


def test_many_groups_change_nothing():
    """400 groups: the levels are .0245 and .9755, and each end moves by less than 2% of the width. The first eight of
    them: levels .0057 and .9943, and each end moves by more than a tenth of it."""
    values = np.random.default_rng(0).normal(size=400)
    for n, least, most in ((400, 0, 0.02), (8, 0.1, 1)):
        found = np.array(bootstrap_mean(values[:n], [str(i) for i in range(n)], seed=3, resamples=4000))
        plain = np.quantile(mean_by_hand(values[:n], 3, 4000), [0.025, 0.975])
        assert (least <= np.abs(found - plain) / np.ptp(plain)).all()
        assert (np.abs(found - plain) / np.ptp(plain) <= most).all()


def test_the_side_with_fewest_groups_counts():
    """40 rows of 8 entities, 30 rows of their own, 6 rows of 3 entities (fewer than five: the rows)."""
    eight, thirty, three = [f"e{i // 5}" for i in range(40)], [f"r{i}" for i in range(30)], list("aabbcc")
    assert (fewest(eight), fewest(thirty), fewest(three)) == (8, 30, 6)
    assert fewest(eight, thirty) == fewest(thirty, eight) == 8 and fewest(eight, thirty, three) == 6


def test_the_standard_error_makes_up_for_n():
    """Draws 0, 1, 2, 3 have spread sqrt(1.25); of five groups sqrt(1.25 * 5/4) = 1.25. One group or one draw: none."""
    draws = np.array([0.0, 1, np.nan, 2, 3])
    assert standard_error(draws, 5) == pytest.approx(1.25) and standard_error(draws, 2) == pytest.approx(math.sqrt(2.5))
    assert math.isnan(standard_error(draws, 1)) and math.isnan(standard_error(draws[:1], 5))
    values = np.random.default_rng(0).normal(size=6)
    assert standard_error(mean_by_hand(values, 0, 20000), 6) == pytest.approx(scipy_stats.sem(values), rel=0.03)


def test_paired_difference_uses_rows_scored_on_both_sides():
    """Rows 0..5 differ by .2 exactly; row 6 is unscored on one side: mean .2, interval [.2, .2], n 6."""
    b = np.array([0.1, 0.9, 0.4, 0.3, 0.8, 0.2, 0.5])
    a = b + 0.2
    a[6] = np.nan
    found = bootstrap_difference(a, b, list("abcdefg"), seed=0, resamples=200)
    assert (found.n, found.unit) == (6, "entities")
    assert [found.value, found.low, found.high] == pytest.approx([0.2] * 3) and found.p == pytest.approx(1 / 201)
    assert bootstrap_difference(np.array([np.nan]), np.array([1.0]), ["a"]) is None


@pytest.mark.parametrize(("shift", "resamples", "larger"), [(0.8, 4000, "t test"), (2.5, 50, "bootstrap")])
def test_p_is_the_larger_of_bootstrap_and_t_test(shift, resamples, larger):
    """Six rows of their own. Many resamples: next to no bootstrap mean lies below 0, and the t test with the
    bootstrap's standard error is the more careful; 50 resamples cannot say less than 1/51."""
    values = np.random.default_rng(4).normal(shift, 1, 6)
    draws = mean_by_hand(values, 2, resamples)
    error = draws.std() * math.sqrt(6 / 5)
    by = {
        "bootstrap": (1 + (draws <= 0).sum()) / (1 + resamples),
        "t test": scipy_stats.t.sf(values.mean() / error, 5),
    }
    assert max(by, key=by.get) == larger and max(by.values()) > 1.5 * min(by.values())
    found = bootstrap_difference(values, np.zeros(6), list("abcdef"), seed=2, resamples=resamples)
    assert found.p == pytest.approx(by[larger], rel=1e-9)
    assert (found.low, found.high) == pytest.approx(expanded(draws, 6), abs=1e-12)


def test_p_counts_entities_not_rows():
    """Six entities of five equal rows: p and interval are those of the six means, not of 30 rows."""
    means = np.random.default_rng(4).normal(0.8, 1, 6)
    names = [f"e{i}" for i in range(6) for _ in range(5)]
    whole = bootstrap_difference(np.repeat(means, 5), np.zeros(30), names, seed=2, resamples=500)
    alone = bootstrap_difference(means, np.zeros(6), list("abcdef"), seed=2, resamples=500)
    assert (whole.p, whole.low, whole.high) == pytest.approx((alone.p, alone.low, alone.high), abs=1e-12)
    assert (whole.n, alone.n) == (30, 6)


def test_p_near_the_t_test_of_the_rows():
    """The same six rows by scipy's one-sided paired t test, within what 20,000 resamples allow; the other way round it
    is what is left to 1."""
    a, b = np.random.default_rng(4).normal(0.8, 1, 6), np.random.default_rng(5).normal(0, 0.5, 6)
    there, back = (bootstrap_difference(*pair, list("abcdef"), resamples=20000) for pair in ((a, b), (b, a)))
    expected = scipy_stats.ttest_rel(a, b, alternative="greater").pvalue
    assert 0.001 < expected < 0.2 and there.p == pytest.approx(expected, rel=0.06)
    assert back.p > 0.9 and back.value == pytest.approx(-there.value)


def test_p_of_few_groups_is_below_five_percent_in_five_of_a_hundred():
    """1,000 samples of five values with mean 0: 5% have p <= .05 (+-.7% by chance), where shares of bootstrap means
    alone say so of more than 8%."""
    samples = np.random.default_rng(3).normal(size=(1000, 5))
    ps = np.array(
        [bootstrap_difference(x, x * 0, list("abcde"), seed=i, resamples=200).p for i, x in enumerate(samples)]
    )
    plain = np.array([(1 + (mean_by_hand(x, i, 200) <= 0).sum()) / 201 for i, x in enumerate(samples)])
    assert 0.03 <= np.mean(ps <= 0.05) <= 0.07 and np.mean(plain <= 0.05) > 0.08 and (ps >= plain - 1e-12).all()


# -- separation
# ----------------------------------------------------------------------------------------------------------
def test_auc_by_hand_and_ties_count_half():
    """Pairs of {3, 2} over {2, 1}: 3>2, 3>1, 2=2, 2>1 -> (1 + 1 + .5 + 1) / 4 = .875; placements 1 and .75."""
    assert auc(np.array([3, 2]), np.array([2, 1])) == 0.875
    assert placements(np.array([3, 2]), np.array([2, 1])).tolist() == [1.0, 0.75]
    assert auc(np.array([1.0]), np.array([1.0])) == 0.5 and math.isnan(auc(np.array([]), np.array([1.0])))


@pytest.mark.parametrize("decimals", [0, 1, 6])
def test_auc_equals_sklearn(decimals):
    rng = np.random.default_rng(decimals)
    p, n = np.round(rng.normal(0.4, 1, 83), decimals), np.round(rng.normal(0, 1, 61), decimals)
    expected = roc_auc_score(np.r_[np.ones(83), np.zeros(61)], np.r_[p, n])
    assert auc(p, n) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("fpr", [0.01, 0.1, 0.3])
def test_tpr_at_fpr_equals_the_roc_curve(fpr):
    rng = np.random.default_rng(5)
    p, n = np.round(rng.normal(1, 1, 90), 1), np.round(rng.normal(0, 1, 70), 1)
    fprs, tprs, _ = roc_curve(np.r_[np.ones(90), np.zeros(70)], np.r_[p, n], drop_intermediate=False)
    assert tpr_at_fpr(p, n, fpr) == pytest.approx(tprs[fprs <= fpr].max(), abs=1e-12)


def test_tpr_allows_no_false_positive_below_one_over_m():
    """5 negatives, 1% allows none: only positives above the largest negative count; 20% allows one."""
    p, n = np.array([0.5, 4.5, 6.0, 7.0]), np.arange(1.0, 6.0)
    assert tpr_at_fpr(p, n, 0.01) == 0.5 and tpr_at_fpr(p, n, 0.2) == 0.75 and tpr_at_fpr(p, n, 1.0) == 1.0


def test_auc_interval_has_the_known_width():
    """Under no separation with 40 a side, the standard error is sqrt((n + m + 1) / (12 n m)) = .065, so about +-.127
    (2.02 instead of 1.96 with 40, and the spread is that of n - 1: +-.133)."""
    rng = np.random.default_rng(0)
    names = [str(i) for i in range(40)]
    low, high = auc_interval(rng.normal(size=40), rng.normal(size=40), names, names, seed=0, resamples=1000)
    assert (high - low) / 2 == pytest.approx(0.133, rel=0.15)
    assert auc_interval(np.array([1.0]), np.array([0.0, 1.0]), ["a"], ["b", "c"]) == (None, None)


def test_auc_interval_resamples_entities():
    """8 entities of 10 equal rows carry 8 values, not 80: the interval is about sqrt(10) times wider than by rows."""
    rng = np.random.default_rng(2)
    p, n = np.repeat(rng.normal(size=8), 10), np.repeat(rng.normal(size=8), 10)
    by_entity = auc_interval(p, n, *[[f"e{i}" for i in range(8) for _ in range(10)]] * 2, resamples=2000)
    by_row = auc_interval(p, n, *[[str(i) for i in range(80)]] * 2, resamples=2000)
    assert (by_entity[1] - by_entity[0]) / (by_row[1] - by_row[0]) > 2


def test_auc_draws_equal_a_plain_loop():
    """Every bootstrap AUC equals the AUC of the rows the draw picked, entities whole."""
    rng = np.random.default_rng(3)
    p, n = np.round(rng.normal(0.5, 1, 14), 1), np.round(rng.normal(0, 1, 12), 1)
    mine, theirs = group([f"p{i // 2}" for i in range(14)]), group([f"n{i // 2}" for i in range(12)])
    fast = auc_draws(p, n, mine, theirs, seed=9, resamples=20)
    for value, a, b in zip(fast, draw(7, [9, 0], 20), draw(6, [9, 1], 20), strict=True):
        assert value == pytest.approx(auc(np.repeat(p, a[mine.place]), np.repeat(n, b[theirs.place])), abs=1e-12)


def test_tpr_interval_equals_a_plain_loop():
    rng = np.random.default_rng(3)
    p, n = np.round(rng.normal(1, 1, 30), 1), np.round(rng.normal(0, 1, 25), 1)
    names = [str(i) for i in range(30)], [str(i) for i in range(25)]
    plain = [
        tpr_at_fpr(np.repeat(p, a), np.repeat(n, b), 0.1)
        for a, b in zip(draw(30, [4, 0], 300), draw(25, [4, 1], 300), strict=True)
    ]
    found = tpr_interval(p, n, *names, 0.1, seed=4, resamples=300)
    assert found == pytest.approx(expanded(plain, 25), abs=1e-12)


def test_rank_intervals_are_as_wide_as_the_smaller_side_asks_for():
    """30 rows against 6: the levels are those of six groups, on whichever side these are."""
    rng = np.random.default_rng(3)
    p, n = rng.normal(1, 1, 30), rng.normal(0, 1, 6)
    names, few = [str(i) for i in range(30)], list("abcdef")
    draws = auc_draws(p, n, group(names), group(few), seed=4, resamples=400)
    there = auc_interval(p, n, names, few, seed=4, resamples=400)
    assert there == pytest.approx(expanded(draws, 6), abs=1e-12) and there[0] < np.quantile(draws, 0.025) - 0.01
    back = auc_draws(n, p, group(few), group(names), seed=4, resamples=400)
    assert auc_interval(n, p, few, names, seed=4, resamples=400) == pytest.approx(expanded(back, 6), abs=1e-12)
    above = np.array([9.0, 8, 7, 6, 5, -9])
    drawn = zip(draw(6, [4, 0], 2000), draw(30, [4, 1], 2000), strict=True)
    plain = [tpr_at_fpr(np.repeat(above, a), np.repeat(p, b), 0.1) for a, b in drawn]
    assert expanded(plain, 6)[0] < expanded(plain, 30)[0]
    assert tpr_interval(above, p, few, names, 0.1, seed=4, resamples=2000) == pytest.approx(expanded(plain, 6))


def test_permuted_labels_have_the_known_spread():
    """Standard error of the AUC without separation: about 1 / sqrt(6 m) for m a side; .0645 for m = 40."""
    rng = np.random.default_rng(1)
    values = rng.normal(size=80)
    draws = [auc(shuffled[:40], shuffled[40:]) for shuffled in (rng.permutation(values) for _ in range(400))]
    assert np.mean(draws) == pytest.approx(0.5, abs=0.01) and np.std(draws) == pytest.approx(
        1 / math.sqrt(240), rel=0.15
    )


# -- Kolmogorov-Smirnov
# --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("n", "floor"), [(20, 1.5e-11), (40, 1.9e-23), (200, 1.9e-119), (300, 1.5e-179), (400, 1.1e-239)]
)
def test_ks_floor(n, floor):
    """Complete separation: 2 orders out of C(2n, n). The published tables' 1.94e-119 and 1.06e-239 are these floors."""
    assert ks_floor(n, n) == pytest.approx(math.log10(floor), abs=0.02)
    found = ks_two_sample(np.arange(n), np.arange(n) + 10.0 * n)
    assert found.log10_p == pytest.approx(ks_floor(n, n), abs=1e-9) and found.statistic == 1.0
    assert found.p == pytest.approx(10 ** ks_floor(n, n), rel=1e-9)


def test_ks_does_not_underflow():
    """2,000 against 2,000 apart: p near 10^-1202, 0.0 as a float, its log still exact: log10 2 - log10 C(4000,
    2000)."""
    found = ks_two_sample(np.arange(2000.0), np.arange(2000.0) + 1e6)
    expected = math.log10(2) - (math.lgamma(4001) - 2 * math.lgamma(2001)) / math.log(10)
    assert found.p == 0.0 and found.log10_p == pytest.approx(expected, abs=1e-6) and found.log10_p < -1200


@pytest.mark.parametrize(("n", "m"), [(40, 40), (40, 37), (25, 60), (7, 3)])
@pytest.mark.parametrize("shift", [0.0, 0.5, 2.0])
def test_ks_equals_scipy_exact(n, m, shift):
    rng = np.random.default_rng(n + m)
    a, b = rng.normal(size=n), rng.normal(shift, 1.3, size=m)
    ours, theirs = ks_two_sample(a, b), scipy_stats.ks_2samp(a, b, method="exact")
    assert ours.statistic == pytest.approx(theirs.statistic, abs=1e-12)
    assert ours.p == pytest.approx(theirs.pvalue, rel=1e-7) and ours.method == "exact"


def test_ks_by_counting_all_orders():
    """3 against 2: all C(5, 3) = 10 orders of the pooled sample; p is the share at least as far apart as observed."""
    a, b = np.array([1.0, 2.0, 5.0]), np.array([3.0, 4.0])
    observed = ks_two_sample(a, b).statistic
    apart = [
        ks_two_sample(np.array(c), np.array([v for v in range(5) if v not in c])).statistic
        for c in itertools.combinations(range(5), 3)
    ]
    assert ks_two_sample(a, b).p == pytest.approx(np.mean([d >= observed - 1e-12 for d in apart]))


def test_ks_of_equal_samples_and_direction():
    same = ks_two_sample(np.arange(9.0), np.arange(9.0))
    assert (same.p, same.log10_p, same.above, same.below) == (1.0, 0.0, 0.0, 0.0)
    up = ks_two_sample(np.arange(9.0) + 4, np.arange(9.0))
    assert up.above > up.below == 0.0


def test_ks_asymptotic_above_the_exact_limit():
    """1,500 against 1,400 is beyond 1e6 cells: Kolmogorov's limit, within a few percent of scipy's own
    approximation."""
    assert 1500 * 1400 > EXACT_CELLS
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=1500), rng.normal(0.08, 1, 1400)
    ours, theirs = ks_two_sample(a, b), scipy_stats.ks_2samp(a, b, method="asymp")
    assert ours.method == "asymptotic" and ours.p == pytest.approx(theirs.pvalue, rel=0.1)
    apart = ks_two_sample(a, b + 100)
    assert apart.log10_p == pytest.approx((math.log(2) - 2 * 1500 * 1400 / 2900) / math.log(10), abs=1e-6)


# -- means, multiplicity, power
# ------------------------------------------------------------------------------------------
def test_harmonic_mean():
    """3 / (1/.5 + 1/.25 + 1/1) = 3/7; one zero makes it 0, one NaN makes it unknown."""
    assert harmonic_mean([0.5, 0.25, 1.0]) == pytest.approx(3 / 7)
    assert harmonic_mean([0.5] * 12) == 0.5 and harmonic_mean([0.9, 0.0]) == 0.0
    assert math.isnan(harmonic_mean([0.5, math.nan])) and math.isnan(harmonic_mean([0.0, math.nan]))
    assert math.isnan(harmonic_mean([])) and harmonic_mean([0.2, 0.7]) == pytest.approx(scipy_stats.hmean([0.2, 0.7]))


def test_holm_by_hand():
    """Sorted .01, .03, .04 times 3, 2, 1: .03, .06, .06 (made monotone), in the order given."""
    assert holm([0.03, 0.01, 0.04]).tolist() == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]).tolist() == [1.0, 1.0] and holm([]).size == 0


def test_detectable_difference_is_what_four_in_five_intervals_show():
    """Differences of spread 1 over 40 entities: (2.023 + .851) / sqrt(40) = .454. At that true size about 80% of
    intervals lie above 0; at half of it far fewer."""
    rng = np.random.default_rng(0)
    names = [str(i) for i in range(40)]
    size = float(np.mean([detectable(rng.normal(size=40), names, seed=i, resamples=300) for i in range(20)]))
    assert size == pytest.approx(sum(scipy_stats.t.ppf([0.975, 0.8], 39)) / math.sqrt(40), rel=0.08)
    shown = [
        np.mean([bootstrap_mean(rng.normal(true, 1, 40), names, seed=i, resamples=300)[0] > 0 for i in range(150)])
        for true in (size, size / 2)
    ]
    assert 0.7 < shown[0] < 0.9 and shown[1] < 0.5


def test_few_entities_show_only_large_differences():
    """Eight entities: (2.365 + .896) / sqrt(8) = 1.153 spreads, not 2.80 / sqrt(8) = .991. At 1.153 four in five of 400
    intervals lie above 0 (+-2% by chance, and a little less than normal theory says)."""
    rng, names = np.random.default_rng(1), list("abcdefgh")
    values = rng.normal(size=8)
    expected = sum(scipy_stats.t.ppf([0.975, 0.8], 7)) * values.std(ddof=1) / math.sqrt(8)
    assert detectable(values, names, resamples=20000) == pytest.approx(expected, rel=0.03)
    size = sum(scipy_stats.t.ppf([0.975, 0.8], 7)) / math.sqrt(8)
    shown = [bootstrap_mean(rng.normal(size, 1, 8), names, seed=i, resamples=300)[0] > 0 for i in range(400)]
    assert 0.72 <= np.mean(shown) <= 0.88


def test_smallest_seen_by_hand():
    """Draws 0 and 1 of five groups: spread .5, standard error .5 sqrt(5/4) = .5590, times t_.975(4) + t_.8(4) = 2.7764
    + .9410 = 3.7174: 2.0781. Many groups: 2.80 * .5. Draws without a value are left out; no spread: no figure."""
    two = np.array([0.0, 1.0])
    assert smallest_seen(two, 5) == pytest.approx(3.7174 * 0.5590, rel=1e-4)
    assert smallest_seen(np.array([np.nan, 0.0, np.inf, 1.0]), 5) == smallest_seen(two, 5)
    for n in (2, 5, 40):
        by_scipy = sum(scipy_stats.t.ppf([0.975, 0.8], n - 1)) * 0.5 * math.sqrt(n / (n - 1))
        assert smallest_seen(two, n) == pytest.approx(by_scipy, rel=1e-9)
    assert smallest_seen(two, 10**6) == pytest.approx(2.8016 * 0.5, rel=1e-4)
    assert smallest_seen(np.full(100, 0.3), 5) is None and smallest_seen(two, 1) is None
    assert smallest_seen(np.array([]), 5) is None and smallest_seen(two[:1], 5) is None


def test_no_spread_is_not_certainty():
    """40 questions, no difference anywhere: a residue in up to 1 - .05^(1/40) = 7.2% of questions would be missed."""
    assert detectable(np.zeros(40), [str(i) for i in range(40)]) == pytest.approx(1 - 0.05 ** (1 / 40))
    assert unseen_share(40) == pytest.approx(0.0722, abs=1e-4) and (1 - unseen_share(40)) ** 40 == pytest.approx(0.05)
    assert math.isnan(detectable(np.array([1.0]), ["a"]))


def test_one_group_says_nothing_of_others():
    """A single row, or the rows of one entity that are resampled as one: no evidence, whatever the difference."""
    assert bootstrap_difference(np.array([0.5]), np.array([0.1]), ["a"]).p == 1.0
