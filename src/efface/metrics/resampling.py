"""Resampling of entities: rows of one person or thing are correlated, so they enter or leave a resample together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FEW_ENTITIES = 5
CHUNK = 1 << 22


@dataclass(frozen=True)
class Groups:
    """What is resampled. ``place`` Int64[rows]: group of each row. ``unit``: "entities", or "rows" when the rows belong
    to fewer than ``FEW_ENTITIES`` entities: resampling two or three of them says next to nothing, and rows are then the
    better of two poor choices (their interval is too narrow)."""

    place: np.ndarray
    count: int
    unit: str


def unit(*sides: Sequence[str]) -> str:
    """What an interval over rows of these entities resamples: "entities", or "rows" if one of the sides has fewer than
    ``FEW_ENTITIES`` of them (and more rows than entities)."""
    return "entities" if all(len(set(side)) >= min(FEW_ENTITIES, len(side)) for side in sides) else "rows"


def group(entities: Sequence[str]) -> Groups:
    """Group rows by entity, in order of first appearance; fewer than ``FEW_ENTITIES`` entities: each row by itself."""
    if unit(entities) == "rows":
        return Groups(np.arange(len(entities)), len(entities), "rows")
    number = {name: i for i, name in enumerate(dict.fromkeys(entities))}
    return Groups(np.array([number[e] for e in entities], dtype=np.int64), len(number), "entities")


def draw(count: int, seed: int | Sequence[int], resamples: int) -> np.ndarray:
    """Int64[resamples, count]: how often each of ``count`` groups enters each bootstrap resample.

    The same seed and count give the same draws, so two statistics of the same rows can be compared resample by
    resample.
    """
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)


def mean_draws(values: np.ndarray, groups: Groups, seed: int | Sequence[int], resamples: int) -> np.ndarray:
    """Float64[resamples, columns]: bootstrap means of ``values`` Float64[rows, columns]; NaN entries are left out.

    A resample in which a column has no scored row is NaN there.
    """
    ok = ~np.isnan(values)
    sums, seen = np.zeros((groups.count, values.shape[1])), np.zeros((groups.count, values.shape[1]))
    np.add.at(sums, groups.place, np.where(ok, values, 0.0))
    np.add.at(seen, groups.place, ok)
    totals, counts = np.empty((resamples, values.shape[1])), np.empty((resamples, values.shape[1]))
    rng, step = np.random.default_rng(seed), max(1, CHUNK // groups.count)
    for start in range(0, resamples, step):
        take = slice(start, min(start + step, resamples))
        weights = rng.multinomial(groups.count, np.full(groups.count, 1 / groups.count), size=take.stop - start)
        totals[take], counts[take] = weights @ sums, weights @ seen
    with np.errstate(invalid="ignore", divide="ignore"):
        return totals / counts


def percentile(draws: np.ndarray, level: float = 0.95) -> tuple[float | None, float | None]:
    """Percentile interval of bootstrap draws, NaN draws left out; (None, None) when none is left."""
    kept = draws[np.isfinite(draws)]
    if not kept.size:
        return None, None
    low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
