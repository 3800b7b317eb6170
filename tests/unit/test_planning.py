"""Which attacks run under a threat model and a time budget."""

from __future__ import annotations

from dataclasses import replace

import pytest

from efface.audit import planning
from efface.suites import AttackEntry
from efface.testing.bench import bench


@pytest.fixture(scope="module")
def b():
    return bench("causal_lm")


ENTRIES = [AttackEntry(name=name) for name in ("relearn", "round_weights", "paraphrase")]


def test_threat_and_names() -> None:
    kept, left_out = planning.allowed(ENTRIES, "black-box", None)
    assert [e.name for e in kept] == ["paraphrase"] and len(left_out) == 2 and "white-box" in left_out[0]
    kept, left_out = planning.allowed(ENTRIES, "white-box", ["relearn"])
    assert [e.name for e in kept] == ["relearn"] and "not asked for" in left_out[0]


def test_cheapest_first_and_controls_cost(b) -> None:
    """Rounding has two controls here and one there."""
    both = planning.by_price(ENTRIES, b.data, ["unlearned", "reference", "target"])
    assert [p.forwards for p in both] == sorted(p.forwards for p in both)
    entry = ENTRIES[1]
    assert planning.price(entry, b.data, ["reference", "target"]) == 1.5 * planning.price(entry, b.data, ["reference"])


def test_a_curve_may_take_its_part_of_what_is_left(b) -> None:
    """Six minutes: two controls that are there leave the curve of the unlearned model two of them, one leaves three,
    none all six."""
    entry = ENTRIES[1]
    for roles, minutes in ((["reference", "target"], 2), (["reference"], 3), ([], 6)):
        (one,) = planning.by_price([entry], b.data, ["unlearned", *roles])
        (given,) = planning.Budget(6.0).fitting([replace(one, forwards=0.0)], [])
        assert given.curves == 6 / minutes and given.seconds == pytest.approx(60 * minutes, abs=1)


def test_what_does_not_fit_is_named(b) -> None:
    """A budget of nothing leaves out everything that costs something, with what it would have needed."""
    planned, left_out = planning.by_price(ENTRIES, b.data, ["reference"]), []
    budget = planning.Budget(1e-9, b.model("target"), b.data)
    assert list(budget.fitting(planned, left_out)) == [] and len(left_out) == 3
    assert all("minutes" in text for text in left_out)


def test_without_a_budget_all_run_to_their_end(b) -> None:
    planned = planning.by_price(ENTRIES, b.data, ["reference"])
    assert [p.seconds for p in planning.Budget(None).fitting(planned, [])] == [None] * 3
