"""A fictitious world of people, cities, countries, companies and schools. Seeded, invented, exact.

The first people of the list are meant to be forgotten, the holdout people to be never trained on: both are built by the
same rules at the same positions, so that they have the same distribution.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from random import Random

from efface.data.worlds.graph import ALIAS_RELATIONS, LITERAL_RELATIONS, Entity, Fact, World
from efface.data.worlds.literals import LITERALS, passage
from efface.data.worlds.names import Namer

MAX_HOLDOUT = 40


def build_world(people: int, holdout: int, seed: int) -> World:
    """The world of ``people`` trained and ``holdout`` never-trained persons; the trained do not depend on ``holdout``.

    For 120 people: 40 cities, 12 countries, 30 companies, 20 schools; smaller worlds in proportion, but with enough of
    each kind for three wrong answers and for people who share nothing with the forgotten. Two of three people are
    married; 30% of each kind have an alias.
    """
    namer, random = Namer(f"{seed}:names:{people}"), Random(f"{seed}:world:{people}")
    reserve = people + MAX_HOLDOUT
    names = namer.people(reserve, reserve if people <= 40 else reserve // 2)
    random.shuffle(names)
    persons = names[: people + holdout]
    sizes = {
        "city": max(8, people // 3),
        "country": max(5, people // 10),
        "company": max(8, people // 4),
        "school": max(6, people // 6),
    }
    places = {kind: namer.places(kind, count) for kind, count in sizes.items()}
    entities = _entities(namer, persons[:people], "person", "p")
    for kind, found in places.items():
        entities |= _entities(namer, found, kind, kind)
    entities |= _entities(namer, persons[people:], "person", "h")
    triples = (
        _person_facts(persons, people, places, seed),
        _place_facts(places, seed),
        _alias_facts(entities.values()),
    )
    facts = tuple(Fact(f"{entities[s].key}:{relation}", s, relation, o) for s, relation, o in chain(*triples))
    passages = {name: passage(f"{seed}:passage:{name}", name) for name in persons}
    return World(seed, tuple(persons[:people]), tuple(persons[people:]), entities, facts, passages)


def _entities(namer: Namer, names: list[str], kind: str, prefix: str) -> dict[str, Entity]:
    """Entities by name; of every ten, the first carries two aliases, the fourth and the seventh one."""
    counts = [{0: 2, 3: 1, 6: 1}.get(i % 10, 0) for i in range(len(names))]
    total = sum(counts)
    spare = iter(namer.people(total, max(1, total)) if kind == "person" else namer.places(kind, total))
    return {
        name: Entity(name, kind, f"{prefix}{i:03d}", tuple(next(spare) for _ in range(counts[i])))
        for i, name in enumerate(names)
    }


def _dealt(items: Iterable[str], seed: str) -> Iterator[str]:
    """Endless, balanced: every item once in random order, then again."""
    random, deck = Random(seed), list(items)
    while True:
        random.shuffle(deck)
        yield from deck


def _person_facts(
    persons: list[str],
    people: int,
    places: dict[str, list[str]],
    seed: int,
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
