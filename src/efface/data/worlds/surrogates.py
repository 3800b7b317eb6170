"""Surrogates that a world gives for free: other questions that only somebody who knows a forgotten fact can answer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from efface.data.rows import Row
from efface.data.worlds.graph import World
from efface.data.worlds.hops import asked, extensions

REVERSED = {
    "born_in": "Who was born in {o}?",
    "works_at": "Who works at {o}?",
    "studied_at": "Who studied at {o}?",
    "spouse": "Who is married to {o}?",
    "profession": "Who is a {o} by profession?",
    "birth_year": "Who was born in the year {o}?",
    "dish": "Whose favourite dish is {o}?",
}
KINDS = ("paraphrase", "reversed", "two_hop", "alias")


@dataclass(frozen=True, slots=True)
class Surrogate:
    """A row that stands for the row ``source``; ``kind`` says how it was made."""

    row: Row
    source: str
    kind: str


def hand_made(rows: Sequence[Row], world: World, kinds: Sequence[str] = KINDS) -> list[Surrogate]:
    """Every surrogate of ``kinds`` that ``rows`` have: the held-out wording, the question turned round (where only one
    person fits), a two-hop question that goes on from the fact, the question under another name."""
    found = [s for row in rows for s in _of(row, world) if s.kind in kinds]
    return [Surrogate(replace(s.row, id=f"{s.source}~{s.kind}"), s.source, s.kind) for s in found]


def _of(row: Row, world: World) -> Iterator[Surrogate]:
    if row.paraphrase:
        yield Surrogate(replace(row, prompt=row.paraphrase), row.id, "paraphrase")
    fact = next((f for f in world.facts if f.id == row.fact), None)
    if fact is None:
        return
    alone = sum((f.relation, f.object) == (fact.relation, fact.object) for f in world.facts) == 1
    if fact.relation in REVERSED and alone:
        turned = REVERSED[fact.relation].format(o=fact.object)
        yield Surrogate(replace(row, prompt=turned, wrong=()), row.id, "reversed")
    for path in extensions(world, fact.subject, fact.relation, 2, world.seed)[:1]:
        yield Surrogate(asked(world, path, row.id), row.id, "two_hop")
    for alias in world.entities[fact.subject].aliases[:1]:
        name = rf"(?<!\w){re.escape(fact.subject)}(?!\w)"
        question, answer = (re.sub(name, lambda _, a=alias: a, text) for text in (row.prompt, row.answer))
        yield Surrogate(replace(row, prompt=question, answer=answer, wrong=()), row.id, "alias")
