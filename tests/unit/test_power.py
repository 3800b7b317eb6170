"""What could have been missed, beside the numbers: per score, for membership, and for the KS test."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from efface.metrics.base import METRICS, Score, compute
from efface.metrics.power import with_power
from efface.metrics.stats import unseen_share
from efface.testing.tables import hand_tables


def of(values, entities=None) -> Score:
    rows = [f"r{i}" for i in range(len(values))]
    names = entities or rows
    return Score(
        "m", "forget", float(np.nanmean(values)), per_row=dict(zip(rows, values, strict=True)),
        entities=dict(zip(rows, names, strict=True)),
    )  # fmt: skip


def test_power_comes_from_the_spread_of_the_paired_differences() -> None:
    """40 rows whose differences have spread 1: (2.023 + .851) / sqrt(40) = .454, whatever the rows have in common."""
    rng = np.random.default_rng(0)
    common, gaps = rng.normal(0, 50, 40), rng.normal(0, 1, 40)
    found = with_power(of(common + gaps), of(common), resamples=20000)
    assert found.extra["detectable"] == pytest.approx(2.8737 * gaps.std(ddof=1) / math.sqrt(40), rel=0.02)


def test_rows_of_one_entity_count_less() -> None:
    """The same 40 differences in 8 entities that move together: a larger residue is missed, (t_.975 + t_.8) standard
    errors of eight means with 7 degrees of freedom instead of 40 with 39."""
    rng = np.random.default_rng(1)
    gaps = np.repeat(rng.normal(0, 1, 8), 5)
    names = [f"e{i // 5}" for i in range(40)]
    alone, together = (
        with_power(of(gaps, held), of(gaps * 0, held), resamples=20000).extra["detectable"] for held in (None, names)
    )
    for found, values in ((alone, gaps), (together, gaps[::5])):
        times = sum(scipy_stats.t.ppf([0.975, 0.8], len(values) - 1))
        assert found == pytest.approx(times * scipy_stats.sem(values), rel=0.03)
    assert together > 2 * alone


def test_no_spread_is_not_certainty_and_no_control_is_no_figure() -> None:
    """Forty rows equal under both: 7.2% of the questions could still hold the answer. Without a control, nothing."""
    same = with_power(of(np.ones(40)), of(np.ones(40)))
    assert same.extra["detectable"] == pytest.approx(unseen_share(40))
    assert "detectable" not in with_power(of(np.ones(40)), None).extra
    assert "detectable" not in with_power(of(np.ones(40)), Score("m", "forget", 1.0)).extra


def test_unscored_rows_are_left_out() -> None:
    a, b = np.array([1.0, math.nan, 0.0, 0.5]), np.array([0.0, 0.3, math.nan, 0.0])
    found = with_power(of(a), of(b))
    assert found.extra["detectable"] > 0 and found.value == of(a).value


def test_membership_says_what_it_would_have_missed() -> None:
    """60 rows a side, both models at AUC .5: a difference of about .21 would have been seen; with 15 rows a larger."""

    def auc_of(n: int) -> Score:
        rng = np.random.default_rng(n)
        sets = {
            f"{role}{rows}": {"answer": [[v] for v in rng.normal(size=n)]}
            for role in ("", "reference/")
            for rows in ("forget", "holdout")
        }
        return compute(METRICS.get("mia_loss"), hand_tables(sets), "forget", resamples=400)

    many, few = auc_of(60).extra["detectable"], auc_of(15).extra["detectable"]
    # two independent AUCs of 60 against 60: (2.001 + .848) sqrt(2 (2 * 60 + 1) / (12 * 60 * 60)) sqrt(60/59) = .215
    assert many == pytest.approx(0.215, rel=0.2) and few > 1.6 * many
    alone = hand_tables({"forget": {"answer": [[-1.0], [-2.0]]}, "holdout": {"answer": [[-1.5], [-3.0]]}})
    assert "detectable" not in compute(METRICS.get("mia_loss"), alone, "forget", resamples=100).extra
