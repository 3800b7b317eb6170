"""Mixing an unlearned model back into its target, and the search for the largest weight that keeps enough."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from efface.artifact import Artifact
from efface.data.rows import Rows

if TYPE_CHECKING:
    from efface.models.base import ModelAdapter


def search(passes: Callable[[float], bool], grid: int = 11, resolution: float = 0.005) -> float:
    """The largest alpha in [0, 1] found to pass. 0 passes by definition, and is left where nothing else does.

    A grid from above first, because retention need not fall evenly; then bisection between the last grid point that
    passes and the next one, until they are ``resolution`` apart.
    """
    steps = grid - 1
    last = next((k for k in range(steps, 0, -1) if passes(k / steps)), 0)
    low, high = last / steps, (last + 1) / steps
    while last < steps and high - low > resolution:
        middle = (low + high) / 2
        low, high = (middle, high) if passes(middle) else (low, middle)
    return low


def mixed(artifact: Artifact, target: ModelAdapter, alpha: float) -> ModelAdapter:
    """(1 - alpha) target + alpha unlearned, in float32; of a low-rank adapter the delta is scaled. 0 is the target and
    1 the unlearned model, bit for bit."""
    return artifact.attach(target, alpha)


def split(rows: Rows, seed: int, most: int) -> tuple[Rows, Rows]:
    """Two halves that share no entity (a row without one stands for itself), each with at most ``most`` rows."""
    entities = sorted({entity(row) for row in rows})
    order = random.Random(f"uwc/{seed}").sample(entities, len(entities))
    first = set(order[: len(order) // 2])
    halves = [row for row in rows if entity(row) in first], [row for row in rows if entity(row) not in first]
    return _some(halves[0], most), _some(halves[1], most)


def entity(row: Any) -> str:
    """Whom a row is about; a row that names nobody stands for itself."""
    return row.entity or row.id


def _some(rows: Sequence[Any], most: int) -> Sequence[Any]:
    return rows if len(rows) <= most else [rows[k * len(rows) // most] for k in range(most)]
