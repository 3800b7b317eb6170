"""Which attacks run under a threat model and a time budget."""

from __future__ import annotations

from dataclasses import replace

import pytest

from efface.audit import planning
from efface.errors import SpecError
from efface.suites import AttackEntry, Suite
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


SUITE = Suite(
    name="s",
    metrics={"forget": ["probability"]},
    attacks=[AttackEntry(name="relearn", label="a"), AttackEntry(name="relearn", label="b"), ENTRIES[1]],
)


def labels(asked) -> list[str]:
    kept, _ = planning.allowed(planning.with_asked(SUITE, asked).attacks, "white-box", asked)
    return [planning.label_of(entry) for entry in kept]


def test_what_the_suite_does_not_hold_is_added_once() -> None:
    """By name; a name that only stands behind labels means all of them; `all` adds every other one. Adding again, as
    ``verify`` may, changes nothing."""
    assert labels(None) == ["a", "b", "round_weights"] and labels(["a", "gcg"]) == ["a", "gcg"]
    assert labels(["relearn"]) == ["a", "b"] and labels([]) == []
    every = labels(["all"])
    assert every[:3] == ["a", "b", "round_weights"] and {"gcg", "paraphrase"} <= set(every)
    assert len(set(every)) == len(every) and "relearn" not in every
    once = planning.with_asked(SUITE, ["all"])
    assert planning.with_asked(once, ["all"]) == once
    with pytest.raises(SpecError, match=r"audit\.unknown-attack.*'relearn'"):
        planning.with_asked(SUITE, ["relern"])


def test_a_label_that_is_the_name_of_another_attack_keeps_its_folder() -> None:
    suite = SUITE.model_copy(update={"attacks": [AttackEntry(name="relearn", label="gcg")]})
    added = planning.with_asked(suite, ["all"]).attacks
    assert [planning.label_of(e) for e in added if e.name == "gcg"] == ["gcg_default"]
    assert planning.with_asked(suite, ["gcg"]) == suite


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
