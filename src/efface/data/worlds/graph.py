"""The knowledge graph of a fictitious world: what is true, who is near whom, what follows in two steps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from random import Random

from efface.data.worlds.literals import LITERALS
from efface.data.worlds.questions import FRAMES, PATHS

PERSON_RELATIONS = ("born_in", "works_at", "studied_at", "spouse")
PLACE_RELATIONS = ("located_in", "based_in")
LITERAL_RELATIONS = {"profession": "profession", "birth_year": "year", "dish": "dish"}
ALIAS_RELATIONS = ("alias", "former_name")
WRONG = 3


@dataclass(frozen=True, slots=True)
class Entity:
    """One node. ``kind``: person, city, country, company or school. ``key``: a short id that does not tell the name."""

    name: str
    kind: str
    key: str
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fact:
    """(subject, relation, object); the object is an entity, an alias or a literal. ``via``: the middle of two hops."""

    id: str
    subject: str
    relation: str
    object: str
    via: str = ""


@dataclass(frozen=True)
class World:
    """The world as it is. ``people``: trained, the ones to forget first; ``holdout``: never trained."""

    seed: int
    people: tuple[str, ...]
    holdout: tuple[str, ...]
    entities: dict[str, Entity]
    facts: tuple[Fact, ...]
    passages: dict[str, str] = field(default_factory=dict)

    @cached_property
    def edges(self) -> tuple[tuple[str, str, str], ...]:
        """(subject, relation, object) between entities; ``spouse`` of trained people stands in both directions."""
        wanted = PERSON_RELATIONS + PLACE_RELATIONS
        return tuple((f.subject, f.relation, f.object) for f in self.facts if f.relation in wanted)

    @cached_property
    def literals(self) -> tuple[tuple[str, str, str], ...]:
        """Every (subject, relation, value) whose value is no entity."""
        return tuple((f.subject, f.relation, f.object) for f in self.facts if f.relation in LITERAL_RELATIONS)

    @cached_property
    def _by_subject(self) -> dict[str, dict[str, Fact]]:
        found: dict[str, dict[str, Fact]] = {name: {} for name in self.entities}
        for fact in self.facts:
            found[fact.subject][fact.relation] = fact
        return found

    def about(self, name: str, relations: Iterable[str] | None = None) -> list[Fact]:
        """Facts whose subject is ``name``, optionally of some relations only."""
        wanted = set(FRAMES if relations is None else relations)
        return [fact for relation, fact in self._by_subject[name].items() if relation in wanted]

    def neighbours(self, name: str, relations: Iterable[str] | None = None) -> set[str]:
        """Entities one edge away from ``name``, in either direction."""
        wanted = set(PERSON_RELATIONS + PLACE_RELATIONS if relations is None else relations)
        return {o if s == name else s for s, relation, o in self.edges if relation in wanted and name in (s, o)}

    def related_people(self, name: str, relations: Iterable[str] | None = None) -> set[str]:
        """People tied to the person ``name`` by a relation: the spouse, and who shares the city, company or school."""
        wanted = set(PERSON_RELATIONS if relations is None else relations) & set(PERSON_RELATIONS)
        mine = {(fact.relation, fact.object) for fact in self.about(name, wanted)}
        shared = {f.subject for f in self.facts if f.relation != "spouse" and (f.relation, f.object) in mine}
        return (shared | {o for relation, o in mine if relation == "spouse"}) - {name}

    def two_hop(self, name: str, relations: Iterable[str] | None = None) -> list[Fact]:
        """Two-hop facts of a person with both hops among ``relations``; relation ``born_in+located_in`` and so on."""
        wanted = set(FRAMES if relations is None else relations)
        found = []
        for first, second in PATHS:
            step = self._by_subject[name].get(first)
            end = self._by_subject[step.object].get(second) if step and {first, second} <= wanted else None
            if step and end:
                path = f"{first}+{second}"
                found.append(Fact(f"{self.entities[name].key}:{path}", name, path, end.object, step.object))
        return found

    def wrong(self, fact: Fact, count: int = WRONG) -> list[str]:
        """``count`` other objects of the same type, drawn by seed: names of trained entities, or other literals."""
        subject, kind = self.entities[fact.subject], FRAMES[fact.relation].kind
        if kind == "alias":
            others = self._of_kind(subject.kind, (subject.name,))
            pool = list(chain.from_iterable(e.aliases for e in others))
            pool += [e.name for e in others][: max(0, count - len(pool))]
        else:
            pool = list(LITERALS.get(kind, ())) or [e.name for e in self._of_kind(kind)]
        usable = [item for item in pool if item not in (fact.object, fact.subject)]
        return Random(f"{self.seed}:wrong:{fact.id}").sample(usable, count)

    def _of_kind(self, kind: str, without: tuple[str, ...] = ()) -> list[Entity]:
        return [e for e in self.entities.values() if e.kind == kind and e.name not in (*without, *self.holdout)]
