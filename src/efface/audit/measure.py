"""Measure: every metric of a suite on every role, from shared tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from efface.audit.store import Store
from efface.metrics.base import METRICS, Metric, Score, Tables, compute
from efface.metrics.power import with_power
from efface.suites import Suite


def pairs(suite: Suite) -> Iterator[tuple[Metric, str]]:
    """(metric, evaluation set) in the suite's order; metrics that name their own sets come with set ""."""
    for rows, names in suite.metrics.items():
        for name in names:
            metric = METRICS.get(name)
            yield metric, metric.fixed_rows or "forget" if rows == "all" else rows


def plan(store: Store, suite: Suite) -> None:
    """Announce all needs of the suite, so that each evaluation set costs one pass per model."""
    for metric, rows in pairs(suite):
        store.plan(metric.bound_needs(rows))


def measure(store: Store, suite: Suite, role: str, *, seed: int, resamples: int) -> list[Score]:
    """All scores of one role."""

    def fetch(asked, need):
        return store.fetch(role if asked == "subject" else asked, need)

    return [
        compute(metric, Tables(fetch, rows, role), rows, seed=seed, resamples=resamples)
        for metric, rows in pairs(suite)
    ]


def with_targets(
    scores: Sequence[Score], reference: Sequence[Score] | None, *, seed: int = 0, resamples: int = 1000
) -> list[Score]:
    """Scores of direction ``match`` get the reference's value as their target; every score with values per row gets the
    smallest difference to the reference that these rows would show (``extra["detectable"]``)."""
    wanted = {(s.name, s.rows): s for s in reference or ()}
    out = []
    for score in scores:
        control = wanted.get((score.name, score.rows))
        if score.direction == "match" and score.target is None:
            score = replace(score, target=control.value if control else None)
        out.append(with_power(score, control, seed=seed, resamples=resamples))
    return out
