"""Paired differences: two models (or runs) on the same rows, with an interval from resampling entities."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from efface.runs.loading import LoadedRun


@dataclass(frozen=True)
class Values:
    """Values of one metric by row id (None: could not be scored), and the entity of each row."""

    values: Mapping[str, float | None]
    entities: Mapping[str, str]


@dataclass(frozen=True)
class Difference:
    """Mean of b - a over the rows that both have, 95% bootstrap interval; ``unit``: what was resampled. ``p``:
    two-sided p-value of no difference; ``adjusted``: after Holm's correction for all lines compared."""

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
    import numpy as np

    from efface.metrics.stats import bootstrap_difference

    rows = [row for row, value in a.values.items() if _number(value) and _number(b.values.get(row))]
    if not rows:
        return None
    before, after = (np.array([side.values[row] for row in rows], dtype=float) for side in (a, b))
    entities = [a.entities.get(row) or row for row in rows]
    options: dict[str, Any] = {"seed": seed, "resamples": resamples}
    found = bootstrap_difference(after, before, entities, **options)
    other = bootstrap_difference(before, after, entities, **options)
    assert found is not None and other is not None
    low, high = (found.value if end is None else end for end in (found.low, found.high))
    return Difference(found.value, low, high, found.n, found.unit, min(1.0, 2 * min(found.p, other.p)))


def _number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
