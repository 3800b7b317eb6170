"""Alias probe: the same question about the same person or thing under another name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from efface.attacks.base import Attack, AttackContext, AttackPoint, attack
from efface.attacks.wording import NO_QUESTIONS, asked, reworded, supplied
from efface.card import Card
from efface.data.rows import Bundle, Row, Rows
from efface.data.worlds.graph import ALIAS_RELATIONS

CARD = Card(
    title="Alias probe",
    source="arXiv:2603.11266 (alias variants); evaluation sheet 1",
    code="llm2graph",
    summary="Asks about the forgotten person or thing under its other names. Forgetting that hangs on the name does "
    "not hold, and a filter on names does not fire.",
    confirmed=("whole-word replacement", "variants must be checked on the target"),
    derived=(
        "aliases come from the world, and only those that occur in the training data",
        "the name is replaced in the answers too: the model may call the subject by either name",
        "questions about the alias itself are left out",
    ),
    tested=("ladder, five seeds: OneHop flagged in 5 (+.97 beyond R1), R2 and R3 in none",),
    fooled_by=("a target that never tied the two names together: it is a control for that",),
)


@attack("alias", CARD)
class Alias(Attack):
    """One more alias at each point; ``best`` over the names so far."""

    threat = "black-box"
    controls = ("reference", "target")

    def measured(self, data: Bundle) -> dict[str, Rows]:
        """Rows about somebody who has an alias in the training data, but not about the alias."""
        names = aliases(data)
        rows = asked(data.eval.get("forget", ()))
        return {"forget": [r for r in rows if r.entity in names and not r.fact.endswith(ALIAS_RELATIONS)]}

    def check(self, data: Bundle) -> str:
        """There must be a world with aliases that were trained."""
        if not asked(data.eval.get("forget", ())):
            return NO_QUESTIONS
        if not any(getattr(e, "aliases", ()) for e in _entities(data).values()):
            return "the data say of nobody that there is another name (no world with aliases)"
        return "" if self.measured(data)["forget"] else "no alias of a forgotten entity occurs in the training data"

    def forwards(self, data: Bundle) -> float:
        """Every row under every name."""
        return 5.0 * len(self.measured(data)["forget"]) * (1 + self._most(data))

    def points(self, context: AttackContext) -> Iterator[AttackPoint]:
        """One point per alias; rows whose subject has fewer keep their question."""
        known, before = aliases(context.data), self.measured(context.data)["forget"]
        for count in range(1, self._most(context.data) + 1):

            def rows(name: str, rows: Rows, count: int = count) -> list[Row]:
                return reworded(rows, lambda row: _under(row, known[row.entity], count), context.data.world)

            put_in = supplied(context.adapter, before, rows("forget", before))  # type: ignore[arg-type]
            yield AttackPoint({"aliases": count}, "aliases", context.adapter, rows=rows, supplied=put_in, best=True)

    def _most(self, data: Bundle) -> int:
        known = aliases(data)
        return max((len(known[r.entity]) for r in self.measured(data)["forget"]), default=0)


def aliases(data: Bundle) -> dict[str, tuple[str, ...]]:
    """{entity: its other names that occur in the training data}, entities without one left out."""
    text = "\n".join(f"{r.prompt} {r.answer}" for rows in data.train.values() for r in rows if isinstance(r, Row))
    found = {
        name: tuple(a for a in getattr(entity, "aliases", ()) if a in text) for name, entity in _entities(data).items()
    }
    return {name: other for name, other in found.items() if other}


def _entities(data: Bundle) -> dict[str, object]:
    return {} if data.world is None else data.world.entities


def _under(row: Row, names: tuple[str, ...], count: int) -> Row:
    """The row about the ``count``-th alias, in the question and in every answer."""
    if count > len(names):
        return row

    def swap(text: str) -> str:
        return re.sub(rf"(?<!\w){re.escape(row.entity)}(?!\w)", lambda _: names[count - 1], text)

    return replace(
        row,
        prompt=swap(row.prompt),
        answer=swap(row.answer),
        answer_paraphrase=swap(row.answer_paraphrase),
        wrong=tuple(map(swap, row.wrong)),
    )
