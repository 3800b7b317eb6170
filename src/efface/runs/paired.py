"""Paired differences: two models (or runs) on the same rows, with an interval from resampling entities."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from efface.runs.loading import LoadedRun

FEW = 5  # with fewer entities than this rows are resampled, and the result says so


@dataclass(frozen=True)
class Values:
    """Values of one metric by row id (None: could not be scored), and the entity of each row."""

    values: Mapping[str, float | None]
    entities: Mapping[str, str]


@dataclass(frozen=True)
class Difference:
    """Mean of b - a over the rows that both have, 95% bootstrap interval; ``unit``: what was resampled. ``p``:
    two-sided bootstrap p-value of no difference; ``adjusted``: after Holm's correction for all lines compared."""

    value: float
    low: float
    high: float
    n: int
    unit: str
    p: float = 1.0
    adjusted: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary."""
        return asdict(self)


def row_values(run: LoadedRun, role: str, rows: str, name: str) -> Values | None:
    """Per-row values of a metric: from ``rows.json``, else from the samples; None if neither has them."""
    for stored in run.row_values.rows:
        if (stored.role, stored.rows, stored.name) == (role, rows, name):
            return Values(stored.values, stored.entities)
    found = [s for s in run.samples(role) if s.set == rows and name in s.scores]
    return Values({s.row: s.scores[name] for s in found}, {s.row: s.entity for s in found}) if found else None


def paired(a: Values, b: Values, *, seed: int = 0, resamples: int = 1000) -> Difference | None:
    """b - a, row by row. None when no row is scored under both."""
    gaps = {
        row: b.values[row] - value
        for row, value in a.values.items()  # type: ignore[operator]
        if _number(value) and _number(b.values.get(row))
    }
    if not gaps:
        return None
    groups: dict[str, list[float]] = {}
    for row, gap in gaps.items():
        groups.setdefault(a.entities.get(row) or row, []).append(gap)
    unit = "entities"
    if len(groups) < FEW:
        groups, unit = {row: [gap] for row, gap in gaps.items()}, "rows"
    means = _means([(sum(g), len(g)) for g in groups.values()], seed, resamples)
    low, high = _quantile(means, 0.025), _quantile(means, 0.975)
    return Difference(sum(gaps.values()) / len(gaps), low, high, len(gaps), unit, _two_sided(means))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm-adjusted p-values in the order given (``metrics.stats.holm`` without numpy)."""
    order, worst = sorted(range(len(p_values)), key=lambda i: p_values[i]), 0.0
    out = [0.0] * len(p_values)
    for rank, i in enumerate(order):
        worst = max(worst, min(1.0, p_values[i] * (len(p_values) - rank)))
        out[i] = worst
    return out


def _number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _two_sided(means: list[float]) -> float:
    """Twice the smaller share of resampled means on either side of 0, which counts for both."""
    below, above = (1 + sum(m <= 0 for m in means), 1 + sum(m >= 0 for m in means))
    return min(1.0, 2 * min(below, above) / (1 + len(means)))


def _means(groups: list[tuple[float, int]], seed: int, resamples: int) -> list[float]:
    """Means over resampled groups of (sum, count), rising."""
    draw = random.Random(seed)
    means = []
    for _ in range(resamples):
        picked = draw.choices(groups, k=len(groups))
        means.append(sum(total for total, _ in picked) / sum(count for _, count in picked))
    return sorted(means)


def _quantile(ordered: list[float], share: float) -> float:
    """Linear interpolation between the two nearest values."""
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
