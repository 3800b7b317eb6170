"""Rank statistics: separation of two groups (AUC, TPR at a low FPR), each with an interval over entities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from efface.metrics.resampling import Groups, draw, group, percentile


def placements(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Float64[positives]: share of negatives each positive lies above, ties counted half. Their mean is the AUC."""
    order = np.sort(negative)
    below, upto = np.searchsorted(order, positive, "left"), np.searchsorted(order, positive, "right")
    return (below + upto) / (2 * len(order))


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """P(positive > negative) + P(tie) / 2, exactly (Mann-Whitney). NaN if a side is empty; NaN scores are not
    allowed."""
    if not len(positive) or not len(negative):
        return float("nan")
    return float(placements(np.asarray(positive), np.asarray(negative)).mean())


def auc_draws(
    positive: np.ndarray,
    negative: np.ndarray,
    positive_groups: Groups,
    negative_groups: Groups,
    *,
    seed: int,
    resamples: int,
) -> np.ndarray:
    """Float64[resamples]: bootstrap AUCs, both sides resampled by entity and independently of each other.

    The same seed and groups give the same resamples, so AUCs of two models on the same rows are paired.
    """
    wins = _wins(np.asarray(positive), np.asarray(negative), positive_groups, negative_groups)
    a, b = draw(positive_groups.count, [seed, 0], resamples), draw(negative_groups.count, [seed, 1], resamples)
    pairs = (a @ np.bincount(positive_groups.place)) * (b @ np.bincount(negative_groups.place))
    return np.einsum("rp,rp->r", a @ wins, b) / pairs


def _wins(positive: np.ndarray, negative: np.ndarray, rows: Groups, columns: Groups) -> np.ndarray:
    """Float64[positive groups, negative groups]: pairs won by the positive, ties half. One positive row at a time."""
    wins = np.zeros((rows.count, columns.count))
    for value, place in zip(positive, rows.place, strict=True):
        won = (value > negative) + 0.5 * (value == negative)
        wins[place] += np.bincount(columns.place, won, columns.count)
    return wins


def auc_interval(
    positive: np.ndarray,
    negative: np.ndarray,
    positive_entities: Sequence[str],
    negative_entities: Sequence[str],
    *,
    seed: int = 0,
    resamples: int = 1000,
) -> tuple[float | None, float | None]:
    """95% expanded percentile interval of the AUC over entities (rows below ``FEW_ENTITIES`` of them); (None, None) if
    a side has fewer than two rows."""
    if min(len(positive), len(negative)) < 2:
        return None, None
    sides = group(positive_entities), group(negative_entities)
    draws = auc_draws(positive, negative, *sides, seed=seed, resamples=resamples)
    return percentile(draws, min(side.count for side in sides))


def tpr_at_fpr(positive: np.ndarray, negative: np.ndarray, fpr: float) -> float:
    """Largest share of positives that a threshold accepts while it accepts at most the share ``fpr`` of negatives.

    With m negatives an ``fpr`` below 1/m allows none at all. NaN if a side is empty.
    """
    if not len(positive) or not len(negative):
        return float("nan")
    ranked = np.sort(negative)[::-1]
    allowed = int(np.floor(fpr * len(ranked) + 1e-9))
    return float(np.mean(positive > ranked[allowed])) if allowed < len(ranked) else 1.0


def tpr_interval(
    positive: np.ndarray,
    negative: np.ndarray,
    positive_entities: Sequence[str],
    negative_entities: Sequence[str],
    fpr: float,
    *,
    seed: int = 0,
    resamples: int = 1000,
) -> tuple[float | None, float | None]:
    """95% expanded percentile interval of ``tpr_at_fpr``; the threshold is found anew in each resample."""
    if min(len(positive), len(negative)) < 2:
        return None, None
    mine, theirs = group(positive_entities), group(negative_entities)
    order = np.argsort(-np.asarray(negative), kind="stable")
    ranked, place = np.asarray(negative)[order], theirs.place[order]
    draws = np.empty(resamples)
    both = zip(draw(mine.count, [seed, 0], resamples), draw(theirs.count, [seed, 1], resamples), strict=True)
    for i, (a, b) in enumerate(both):
        spent = np.cumsum(b[place])
        first = np.searchsorted(spent, fpr * spent[-1] + 1e-9, "right")
        weight = a[mine.place]
        draws[i] = weight[positive > ranked[first]].sum() / weight.sum() if first < len(ranked) else 1.0
    return percentile(draws, min(mine.count, theirs.count))
