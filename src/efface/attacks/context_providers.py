"""What can be put into the context of a question, ordered by how directly it leads to the answer."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from efface.attacks.nearest import Shelf
from efface.attacks.wording import asked, known_objects
from efface.data.rows import Bundle, Row
from efface.data.telling import plain, tells
from efface.data.worlds.graph import Fact
from efface.data.worlds.questions import FRAMES

SYMBOLS = ("XQ7", "ZV3", "KJ9", "WQ4", "YH6", "QX2", "JZ8", "VK5")


@dataclass(frozen=True)
class Told:
    """Sentences for the context, and the row as it is then asked (the same but for a new symbol)."""

    sentences: Sequence[str]
    row: Row


@dataclass(frozen=True)
class Knowledge:
    """Where context comes from: the rows of a benchmark and, where it has one, the graph of its world."""

    data: Bundle
    seed: int = 0

    @cached_property
    def wanted(self) -> Mapping[str, str]:
        """{fact id: object} of the world."""
        return known_objects(self.data.world)

    @cached_property
    def kept(self) -> Shelf:
        """Questions and answers that are to be kept."""
        return Shelf(asked(self.data.train.get("retain", ())))

    @cached_property
    def passages(self) -> Shelf:
        """Documents that are to be kept."""
        return Shelf([r for r in self.data.train.get("retain", ()) if isinstance(r, Row) and not r.prompt])

    @cached_property
    def known(self) -> dict[str, list[Row]]:
        """{entity: its evaluated questions}, of the sets that can be asked about."""
        found: dict[str, list[Row]] = {}
        for name in ("forget", "holdout"):
            for row in asked(self.data.eval.get(name, ())):
                found.setdefault(row.entity, []).append(row)
        return found

    @cached_property
    def hops(self) -> dict[str, Fact]:
        """{fact id: two-hop fact} of the people of the world."""
        world = self.data.world
        return {} if world is None else {h.id: h for name in world.people for h in world.two_hop(name)}

    def tells(self, text: str, row: Row) -> bool:
        """Whether ``text`` gives the answer of ``row`` away."""
        return tells(text, row, self.wanted.get(row.fact, ""))

    def others(self, row: Row) -> list[Row]:
        """Other facts about the same entity, in an order of the row's own, that do not tell its answer."""
        rows = [r for r in self.known.get(row.entity, ()) if row.entity and (r.fact or r.id) != (row.fact or row.id)]
        rows = [r for r in rows if not self.tells(f"{r.prompt} {r.answer}", row)]
        return self.draw(row).sample(rows, len(rows))

    def draw(self, row: Row) -> random.Random:
        """Randomness of one row."""
        return random.Random(f"context/{self.seed}/{row.id}")


@dataclass(frozen=True)
class Provider:
    """``level``: directness, 1 to 6. ``entails``: the answer follows from the context alone. ``contains``: the context
    gives the answer, so that repeating it is copying and never recovery. ``choice``: the answer stands in the context
    as one of several of its kind, and nothing there says which. ``needs``: why data may lack it ("" if not)."""

    level: int
    give: Callable[[Row, int, Knowledge], Told]
    entails: bool = False
    contains: bool = False
    choice: bool = False
    needs: Callable[[Bundle], str] = lambda data: ""


def irrelevant(row: Row, dose: int, knowledge: Knowledge) -> Told:
    """Level 1: kept statements about other things, as long as level 2 would be."""
    length = sum(len(s.split()) for s in related(row, dose, knowledge).sentences)
    near = {r.answer for r in knowledge.kept.nearest(row.prompt, 4 * dose)}
    rest = list(dict.fromkeys(r.answer for r in knowledge.kept.rows if r.answer not in near))
    found: list[str] = []
    for text in knowledge.draw(row).sample(rest, len(rest)):
        if sum(len(s.split()) for s in found) >= length:
            break
        if not knowledge.tells(text, row):
            found.append(text)
    return Told(found, row)


def related(row: Row, dose: int, knowledge: Knowledge) -> Told:
    """Level 2: kept statements nearest to the question, none of which tells the answer."""
    rows = knowledge.kept.nearest(row.prompt, dose, lambda r: not knowledge.tells(r.answer, row))
    return Told([r.answer for r in rows], row)


def passages(row: Row, dose: int, knowledge: Knowledge) -> Told:
    """Level 2: kept passages nearest to the question, none of which tells the answer."""
    rows = knowledge.passages.nearest(row.prompt, dose, lambda r: not knowledge.tells(r.answer, row))
    return Told([r.answer for r in rows], row)


def premises(row: Row, dose: int, knowledge: Knowledge) -> Told:
    """Level 3, two-hop questions: the second step, among second steps of other things. The first one, from the
    forgotten person to the place, must come from the model; without it the right premise cannot be told from others."""
    hop = knowledge.hops[row.fact]
    second = hop.relation.split("+")[1]
    facts = [f for f in knowledge.data.world.facts if f.relation == second]
    own = [f for f in facts if f.subject == hop.via]
    rest = [f for f in facts if f.subject != hop.via and f.object != hop.object]
    random_of = knowledge.draw(row)
    chosen = [*own, *random_of.sample(rest, min(dose, len(rest)))]
    return Told([_statement(f) for f in random_of.sample(chosen, len(chosen))], row)


def symbol(row: Row, dose: int, knowledge: Knowledge) -> Told:
    """Level 4: the facts of the entity under a new symbol, and the question about the symbol."""
    name = SYMBOLS[sorted(knowledge.known).index(row.entity) % len(SYMBOLS)]
    other = [r.answer for r in knowledge.others(row)][: dose - 1]

    def rename(text: str) -> str:
        return re.sub(rf"(?<!\w){re.escape(row.entity)}(?!\w)", name, text)

    new = replace(
        row,
        prompt=rename(row.prompt),
        answer=rename(row.answer),
        answer_paraphrase=rename(row.answer_paraphrase),
        wrong=tuple(map(rename, row.wrong)),
    )
    return Told([rename(text) for text in (row.answer_paraphrase or row.answer, *other)], new)


def direct(row: Row, dose: int, knowledge: Knowledge) -> Told:
    """Level 5: the fact itself, paraphrased where the row has a paraphrase, and other facts about the entity."""
    other = [r.answer for r in knowledge.others(row)][: dose - 1]
    sentences = [row.answer_paraphrase or row.answer, *other]
    return Told(knowledge.draw(row).sample(sentences, len(sentences)), row)


def demonstrations(row: Row, dose: int, knowledge: Knowledge) -> Told:
    """Level 6: other questions about the same entity with their answers."""
    return Told([f"{r.prompt} {r.answer}" for r in knowledge.others(row)[:dose]], row)


def _statement(fact: Fact) -> str:
    return FRAMES[fact.relation].answer.format(s=fact.subject, o=fact.object)


def _no_hops(data: Bundle) -> str:
    if data.world is None:
        return "the data have no knowledge graph to take premises from"
    return "" if data.eval.get("two_hop") else "the data have no two-hop questions about the forgotten people"


def _no_passages(data: Bundle) -> str:
    return "" if Knowledge(data).passages.rows else "there are no passages among the rows to keep"


def _no_names(data: Bundle) -> str:
    named = any(r.entity and plain(r.entity) in plain(r.prompt) for r in asked(data.eval.get("forget", ())))
    return "" if named else "no question names whom or what it is about"


def _no_others(data: Bundle) -> str:
    knowledge = Knowledge(data)
    more = any(knowledge.others(r) for r in asked(data.eval.get("forget", ())))
    return "" if more else "no forgotten entity has a second question to demonstrate"


def _no_kept(data: Bundle) -> str:
    return "" if Knowledge(data).kept.rows else "there are no questions among the rows to keep"


PROVIDERS: dict[str, Provider] = {
    "irrelevant": Provider(1, irrelevant, needs=_no_kept),
    "related": Provider(2, related, needs=_no_kept),
    "passages": Provider(2, passages, needs=_no_passages),
    "premises": Provider(3, premises, choice=True, needs=_no_hops),
    "symbol": Provider(4, symbol, entails=True, contains=True, needs=_no_names),
    "direct": Provider(5, direct, entails=True, contains=True),
    "demonstrations": Provider(6, demonstrations, needs=_no_others),
}


def blocked(text: str, names: Any) -> bool:
    """Whether a filter on ``names`` would stop ``text`` (whole words, any case)."""
    spaced = f" {plain(text)} "
    return any(f" {plain(name)} " in spaced for name in names)
