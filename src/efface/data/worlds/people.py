"""A fictitious world of people, cities, countries, companies and schools, with its knowledge graph. Seeded, invented, exact.

The first people of the list are meant to be forgotten, the holdout people to be never trained on: both are built by the
same rules at the same positions, so that they have the same distribution.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from random import Random

from efface.data.worlds.literals import LITERALS, passage
from efface.data.worlds.names import Namer
from efface.data.worlds.questions import FRAMES, PATHS

PERSON_RELATIONS = ("born_in", "works_at", "studied_at", "spouse")
PLACE_RELATIONS = ("located_in", "based_in")
LITERAL_RELATIONS = {"profession": "profession", "birth_year": "year", "dish": "dish"}
ALIAS_RELATIONS = ("alias", "former_name")
MAX_HOLDOUT = 40
WRONG = 3


@dataclass(frozen=True, slots=True)
class Entity:
    """One node. ``kind``: person, city, country, company or school. ``key``: short id that tells nothing of the name."""

    name: str
    kind: str
    key: str
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fact:
    """(subject, relation, object); the object is an entity's name, an alias or a literal. ``via``: middle of two hops."""

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
        """Every (subject, relation, object) between two entities; ``spouse`` of trained people stands in both directions."""
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
        """Two-hop facts of a person whose hops are both among ``relations``; relation ``born_in+located_in`` and so on."""
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


def build_world(people: int, holdout: int, seed: int) -> World:
    """The world of ``people`` trained and ``holdout`` never-trained persons. Trained persons do not depend on ``holdout``.

    For 120 people: 40 cities, 12 countries, 30 companies, 20 schools; smaller worlds in proportion, with at least enough
    of each kind for three wrong answers. Two of three people are married; 30% of each kind have an alias.
    """
    namer, random = Namer(f"{seed}:names:{people}"), Random(f"{seed}:world:{people}")
    reserve = people + MAX_HOLDOUT
    names = namer.people(reserve, reserve if people <= 40 else reserve // 2)
    random.shuffle(names)
    persons = names[: people + holdout]
    sizes = {"city": max(6, people // 3), "country": max(4, people // 10), "company": max(5, people // 4),
             "school": max(4, people // 6)}
    places = {kind: namer.places(kind, count) for kind, count in sizes.items()}
    entities = _entities(namer, persons[:people], "person", "p")
    for kind, found in places.items():
        entities |= _entities(namer, found, kind, kind)
    entities |= _entities(namer, persons[people:], "person", "h")
    triples = chain(_person_facts(persons, people, places, seed), _place_facts(places, seed), _alias_facts(entities.values()))
    facts = tuple(Fact(f"{entities[s].key}:{relation}", s, relation, o) for s, relation, o in triples)
    passages = {name: passage(f"{seed}:passage:{name}", name) for name in persons}
    return World(seed, tuple(persons[:people]), tuple(persons[people:]), entities, facts, passages)


def _entities(namer: Namer, names: list[str], kind: str, prefix: str) -> dict[str, Entity]:
    """Entities by name; of every ten, the first carries two aliases, the fourth and the seventh one."""
    counts = [{0: 2, 3: 1, 6: 1}.get(i % 10, 0) for i in range(len(names))]
    total = sum(counts)
    spare = iter(namer.people(total, max(1, total)) if kind == "person" else namer.places(kind, total))
    return {name: Entity(name, kind, f"{prefix}{i:03d}", tuple(next(spare) for _ in range(counts[i])))
            for i, name in enumerate(names)}


def _dealt(items: Iterable[str], seed: str) -> Iterator[str]:
    """Endless, balanced: every item once in random order, then again."""
    random, deck = Random(seed), list(items)
    while True:
        random.shuffle(deck)
        yield from deck


def _person_facts(persons: list[str], people: int, places: dict[str, list[str]], seed: int,
                  ) -> Iterator[tuple[str, str, str]]:
    decks = {"born_in": places["city"], "works_at": places["company"], "studied_at": places["school"]}
    decks |= {relation: LITERALS[kind] for relation, kind in LITERAL_RELATIONS.items()}
    dealt = {relation: _dealt(items, f"{seed}:{relation}") for relation, items in decks.items()}
    spouse = _couples(persons, people)
    for name in persons:
        for relation, deck in dealt.items():
            yield name, relation, next(deck)
        if name in spouse:
            yield name, "spouse", spouse[name]


def _couples(persons: list[str], people: int) -> dict[str, str]:
    """Two of three are married, the first with the last.

    Holdout people marry the singles, so that their answers, like those of the people to forget, are names of trained
    people; of such a couple only the holdout side is stated.
    """
    trained, holdout = persons[:people], persons[people:]
    married = [name for i, name in enumerate(trained) if i % 3 != 2]
    half = len(married) // 2
    pairs = dict(zip(married[:half], reversed(married[-half:]), strict=True))
    singles = (name for name in trained if name not in married)
    hidden = dict(zip((name for i, name in enumerate(holdout) if i % 3 != 2), singles, strict=False))
    return pairs | {b: a for a, b in pairs.items()} | hidden


def _place_facts(places: dict[str, list[str]], seed: int) -> Iterator[tuple[str, str, str]]:
    for relation, subjects, objects in (("located_in", "city", "country"), ("based_in", "company", "city")):
        deck = _dealt(places[objects], f"{seed}:{relation}")
        for subject in places[subjects]:
            yield subject, relation, next(deck)


def _alias_facts(entities: Iterable[Entity]) -> Iterator[tuple[str, str, str]]:
    for entity in entities:
        for relation, alias in zip(ALIAS_RELATIONS, entity.aliases, strict=False):
            yield entity.name, relation, alias
