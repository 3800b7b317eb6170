"""Statistics behind every number: intervals over entities, paired differences, separation, multiplicity and power.

The rank and Kolmogorov-Smirnov statistics live in ``ranks`` and ``kolmogorov`` and are offered here as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from efface.metrics.kolmogorov import KS, ks_critical, ks_floor, ks_two_sample
from efface.metrics.ranks import auc, auc_draws, auc_interval, placements, tpr_at_fpr, tpr_interval
from efface.metrics.resampling import FEW_ENTITIES, Groups, fewest, group, mean_draws, percentile, standard_error, unit

__all__ = [
    "FEW_ENTITIES",
    "KS",
    "Difference",
    "Groups",
    "auc",
    "auc_draws",
    "auc_interval",
    "bootstrap_difference",
    "bootstrap_mean",
    "detectable",
    "fewest",
    "group",
    "harmonic_mean",
    "holm",
    "ks_critical",
    "ks_floor",
    "ks_two_sample",
    "mean_draws",
    "percentile",
    "placements",
    "smallest_seen",
    "standard_error",
    "tpr_at_fpr",
    "tpr_interval",
    "unit",
    "unseen_share",
]


def bootstrap_mean(
    values: np.ndarray, entities: Sequence[str], *, seed: int = 0, resamples: int = 1000
) -> tuple[float | None, float | None]:
    """95% expanded percentile interval of the mean of ``values`` Float[rows] (NaN left out), resampling entities.

    Rows of fewer than ``FEW_ENTITIES`` entities are resampled one by one; ``unit`` says which it was, and ``compute``
    stores it with the score (``extra["interval_over"]``). (None, None) with fewer than two scored rows.
    """
    values = np.asarray(values, dtype=np.float64)
    kept = ~np.isnan(values)
    if kept.sum() < 2:
        return None, None
    groups = group([e for e, ok in zip(entities, kept, strict=True) if ok])
    return percentile(mean_draws(values[kept][:, None], groups, seed, resamples)[:, 0], groups.count)


@dataclass(frozen=True)
class Difference:
    """Paired difference: mean over rows scored on both sides, 95% interval (None below two rows), one-sided p that it
    is not above zero (the larger of the bootstrap's and of the t test over the resampled groups), rows used, and what
    was resampled."""

    value: float
    low: float | None
    high: float | None
    p: float
    n: int
    unit: str


def bootstrap_difference(
    a: np.ndarray, b: np.ndarray, entities: Sequence[str], *, seed: int = 0, resamples: int = 1000
) -> Difference | None:
    """``a - b`` row by row (Float[rows] each, same rows), resampling entities. None if no row is scored on both
    sides."""
    gaps = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    kept = np.isfinite(gaps)
    if not kept.any():
        return None
    groups = group([e for e, ok in zip(entities, kept, strict=True) if ok])
    draws = mean_draws(gaps[kept][:, None], groups, seed, resamples)[:, 0]
    value = float(gaps[kept].mean())
    low, high = percentile(draws, groups.count) if kept.sum() > 1 else (None, None)
    p = max((1 + (draws <= 0).sum()) / (1 + resamples), _t_test(value, draws, groups.count))
    return Difference(value, low, high, float(p), int(kept.sum()), groups.unit)


def _t_test(value: float, draws: np.ndarray, groups: int) -> float:
    """One-sided p of a statistic not above zero, by Student's distribution; 0 where the groups do not differ, and 1
    where there is but one, which says nothing of how others would."""
    if groups < 2:
        return 1.0
    error = standard_error(draws, groups)
    if not error > 1e-12:
        return 0.0
    from scipy.special import stdtr

    return float(stdtr(groups - 1, -value / error))


def harmonic_mean(values: Sequence[float] | np.ndarray) -> float:
    """Harmonic mean of values >= 0: 0 if one of them is 0, NaN if one is NaN or there is none."""
    numbers = np.asarray(values, dtype=np.float64)
    if not numbers.size or np.isnan(numbers).any():
        return float("nan")
    return 0.0 if (numbers <= 0).any() else float(numbers.size / np.sum(1 / numbers))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm-adjusted p-values, in the order given: step-down Bonferroni, made monotone, at most 1 (Holm 1979)."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.minimum(np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1)), 1.0)
    adjusted = np.empty_like(stepped)
    adjusted[order] = stepped
    return adjusted


def detectable(differences: np.ndarray, entities: Sequence[str], *, seed: int = 0, resamples: int = 1000) -> float:
    """Smallest mean difference that a 95% interval over these rows would show to be above zero four times in five.

    ``differences`` Float[rows]: per-row values of one model minus those of its control, for their spread. "With these
    questions a residue under x would be missed." Where no row differs from another the spread says nothing, and the
    answer is ``unseen_share`` (of a difference of 1 per row). NaN with fewer than two scored rows.
    """
    values = np.asarray(differences, dtype=np.float64)
    kept = np.isfinite(values)
    if kept.sum() < 2:
        return float("nan")
    groups = group([e for e, ok in zip(entities, kept, strict=True) if ok])
    size = smallest_seen(mean_draws(values[kept][:, None], groups, seed, resamples)[:, 0], groups.count)
    return unseen_share(groups.count) if size is None else size


def smallest_seen(draws: np.ndarray, groups: int) -> float | None:
    """The same from bootstrap draws: (t_.975 + t_.8) standard errors with ``groups`` - 1 degrees of freedom, 2.80 of
    them for many groups; None without any spread."""
    error = standard_error(draws, groups)
    if not error > 1e-12:
        return None
    from scipy.special import stdtrit

    return float((stdtrit(groups - 1, 0.975) + stdtrit(groups - 1, 0.8)) * error)


def unseen_share(n: int, level: float = 0.95) -> float:
    """Largest share of questions still answered that ``n`` independent questions, none of them answered, leave possible
    at ``level``: 1 - (1 - level)^(1/n), near 3/n (.072 for 40)."""
    return -math.expm1(math.log1p(-level) / n)
