"""Plans: a benchmark as a row of requests, each a change of its settings. ``efface.schedule`` runs them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from efface.errors import SpecError, nearest


@dataclass(frozen=True)
class Plan:
    """``steps``: settings that each step adds to the benchmark's own. ``sequential``: each step starts from the result
    of the one before; otherwise all start from the same target. ``sizes``: what each step is plotted against, named by
    ``axis``. ``line``: sides whose PCH score is judged by a straight reference line over the whole plan."""

    steps: tuple[Mapping[str, Any], ...]
    sequential: bool
    sizes: tuple[float, ...]
    axis: str
    line: tuple[str, ...] = ()


def plan_of(benchmark: Any, kind: str) -> Plan:
    """The plan ``kind`` of a benchmark; schedule.unknown-plan names those it has."""
    plans = benchmark.plans() if hasattr(benchmark, "plans") else {}
    if kind not in plans:
        raise SpecError("schedule.unknown-plan", f"{benchmark.name} has no plan {kind!r}.", nearest(kind, plans))
    return plans[kind]
