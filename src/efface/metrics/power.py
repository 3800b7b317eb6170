"""Power: the smallest residue that a score would have shown, from the spread of its rows against the control's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from efface.metrics.base import Score
from efface.metrics.stats import detectable


def with_power(score: Score, control: Score | None, *, seed: int = 0, resamples: int = 1000) -> Score:
    """``score`` with ``extra["detectable"]``: with these rows, a difference to ``control`` (the same metric on the
    reference) under this size would be missed one time in five or more. Unchanged where a metric gave its own figure,
    or where the two have no two rows in common."""
    if control is None or "detectable" in score.extra or not score.per_row or not control.per_row:
        return score
    rows = [row for row in score.per_row if row in control.per_row]
    gaps = np.array([_number(score.per_row[row]) - _number(control.per_row[row]) for row in rows], dtype=np.float64)
    size = detectable(gaps, [score.entities.get(row) or row for row in rows], seed=seed, resamples=resamples)
    return replace(score, extra={**score.extra, "detectable": size}) if np.isfinite(size) else score


def _number(value: float | None) -> float:
    return np.nan if value is None else value
