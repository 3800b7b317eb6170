"""One hop against two: do both kinds of question run through the same parts of the model, and which did unlearning
touch?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from efface.attacks.anonymise import placeholders, renamed, subject
from efface.attacks.lead_in import LeadIn
from efface.data.rows import Bundle, Row
from efface.passes.pathways import (
    Component,
    Query,
    disruption,
    dominance,
    importance,
    mean_over,
    overlap,
    weighted,
)

if TYPE_CHECKING:
    from efface.models.causal_lm import CausalLM

STAND_INS = 12  # kept entities tried for one whose name has as many tokens


@dataclass(frozen=True)
class Pathways:
    """Importance of every component for one kind of question, mean over ``queries`` of ``rows`` questions, and the
    share
    ``dominance`` of its top ``k``. ``disrupted``: sum I D / sum I against the model after unlearning, None without
    one."""

    importance: dict[Component, float]
    queries: int
    rows: int
    k: int
    dominance: float
    disrupted: float | None

    def overlap(self, other: Pathways) -> float:
        """Jaccard index of the top components of both."""
        return overlap(self.importance, other.importance, self.k)


def pathways(
    original: CausalLM, rows: Sequence[Row], data: Bundle, *, k: int = 5, unlearned: CausalLM | None = None
) -> Pathways:
    """Analyse the questions ``rows`` on ``original``, each with its subject swapped for a kept one of as many tokens.
    Answers start with their words before what is asked for, where a world tells them. Questions without a stand-in, and
    those whose answer does not hang on the subject, are left out."""
    found, moved = [], []
    for row in rows:
        pair = corrupted(original, row, data)
        if pair is None:
            continue
        query, lead = pair
        found.append(importance(lead.put_on(original), query))
        if unlearned is not None and found[-1]:
            moved.append(disruption(lead.put_on(original), lead.put_on(unlearned), query))
    values = mean_over(found)
    disrupted = weighted(values, mean_over(moved)) if moved else None
    share = dominance(values, k) if values else float("nan")
    return Pathways(values, sum(map(bool, found)), len(rows), k, share, disrupted)


def corrupted(model: CausalLM, row: Row, data: Bundle) -> tuple[Query, LeadIn] | None:
    """The question with the first stand-in whose prompt has as many tokens, and the lead-ins of both; None without
    one."""
    name = subject(row)
    for other in placeholders(row, data, STAND_INS) if name else ():
        swapped = replace(renamed(row, name, other), id=f"{row.id}~other")
        lead = LeadIn.of([row, swapped], data, True)
        begun = lead.put_on(model)
        a, b = (begun.encode(r, answers=()).payload.prompt for r in (row, swapped))
        if len(a) == len(b):
            named = [i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y]
            last = len(a) - 1
            rest = [i for i in range(1, last) if i not in named]
            clean, corrupt = lead.cut("", [row, swapped])
            return Query(clean, corrupt, {"subject": named, "relation": rest, "last": [last]}), lead
    return None
