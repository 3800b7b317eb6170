"""Ends and round marks of a chart's axis."""

from __future__ import annotations

import math
from collections.abc import Sequence


def span(values: Sequence[float]) -> tuple[float, float]:
    """Ends of an axis: 0 to 1 for shares, otherwise the values with a little room."""
    finite = [v for v in values if abs(v) != float("inf")] or [0.0, 1.0]
    if min(finite) >= 0 and max(finite) <= 1:
        return 0.0, 1.0
    room = (max(finite) - min(finite)) * 0.06 or 1.0
    return min(finite) - room if min(finite) < 0 or min(finite) > room else 0.0, max(finite) + room


def scale(low: float, high: float) -> list[float]:
    """Round numbers from ``low`` or below to ``high`` or above, three to seven of them."""
    rough = (high - low) / 4
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(m * unit for m in (1, 2, 2.5, 5, 10) if m * unit >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [k * step for k in range(first, last + 1)]
