"""A few rows of a large set, evenly spread: enough to see whether an attack broke the model."""

from __future__ import annotations

from efface.data.rows import Rows

RETAIN_ROWS = 24


def evenly(rows: Rows, most: int) -> Rows:
    """At most ``most`` rows, evenly spread over the set, in its order."""
    return rows if len(rows) <= most else [rows[i * len(rows) // most] for i in range(most)]  # type: ignore[return-value]


def with_some_retain(sets: dict[str, Rows], most: int) -> dict[str, Rows]:
    """``sets`` with the retain rows cut to ``most``."""
    return {name: evenly(rows, most) if name == "retain" else rows for name, rows in sets.items()}
