"""``bench``: comparisons that take many runs. One entry of ``BENCHES`` for each thing that can be compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from efface.bench import confusion, ladder, separation
from efface.bench.methods import methods
from efface.errors import SpecError, nearest
from efface.report.leaderboard import as_markdown


@dataclass(frozen=True)
class Bench:
    """``run(specs, board, progress=..., **options)`` does the comparison, writes to the folder ``board`` and returns a
    table (plain JSON); ``text(table)`` is the table for a person."""

    run: Callable[..., dict[str, Any]]
    text: Callable[[dict[str, Any]], str]


BENCHES: dict[str, Bench] = {
    "methods": Bench(methods, as_markdown),
    "metrics": Bench(ladder.metrics, separation.markdown),
    "attacks": Bench(ladder.attacks, confusion.markdown),
}


def bench_named(what: str) -> Bench:
    """The comparison of that name. Raises ``SpecError`` "bench.unknown"."""
    if what not in BENCHES:
        raise SpecError("bench.unknown", f"There is no bench {what!r}.", nearest(what, BENCHES))
    return BENCHES[what]
