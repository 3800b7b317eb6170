"""A metric over the steps of a schedule: its values, slope and worst value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def slope(sizes: Sequence[float], values: Sequence[float | None]) -> float | None:
    """Least-squares slope of the values that are there; None with fewer than two different sizes."""
    pairs = [(x, y) for x, y in zip(sizes, values, strict=True) if y is not None]
    if len({x for x, _ in pairs}) < 2:
        return None
    x, y = np.array(pairs, dtype=np.float64).T
    return float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())


def worst(values: Sequence[float | None], direction: str, targets: Sequence[float | None]) -> float | None:
    """The value that is worst by ``direction``: the lowest of ``higher``, the highest of ``lower``, the farthest from
    its target of ``match`` (the highest where there is none: what is forgotten should be low)."""
    there = [(value, target) for value, target in zip(values, targets, strict=True) if value is not None]
    if not there:
        return None
    if direction == "higher":
        return min(value for value, _ in there)
    if direction == "lower" or any(target is None for _, target in there):
        return max(value for value, _ in there)
    return max(there, key=lambda pair: abs(pair[0] - pair[1]))[0]


def curves(rows: Sequence[Mapping[str, Any]], role: str = "unlearned") -> dict[str, dict[str, Any]]:
    """{"<metric>.<set>": {values, direction, slope, worst}} over the steps; None where a step has no value."""
    names = dict.fromkeys(name for row in rows for name in row["scores"].get(role, {}))
    sizes = [row["size"] for row in rows]
    found = {}
    for name in names:
        scores = [row["scores"].get(role, {}).get(name) for row in rows]
        values = [score and score["value"] for score in scores]
        direction = next(score["direction"] for score in scores if score)
        targets = [score and score["target"] for score in scores]
        found[name] = {
            "values": values,
            "direction": direction,
            "slope": slope(sizes, values),
            "worst": worst(values, direction, targets),
        }
    return found
