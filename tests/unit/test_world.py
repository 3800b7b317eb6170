"""The fictitious world: structure by counting, no thresholds."""

from __future__ import annotations

import re

from efface.data.worlds.graph import PERSON_RELATIONS
from efface.data.worlds.names import REAL, Namer
from efface.data.worlds.people import build_world
from efface.data.worlds.questions import FRAMES

WORLD = build_world(120, 6, 0)


def test_full_size_world_has_the_specified_counts():
    kinds = [entity.kind for entity in WORLD.entities.values()]
    counts = {kind: kinds.count(kind) for kind in set(kinds)}
    assert counts == {"person": 126, "city": 40, "country": 12, "company": 30, "school": 20}
    people = [WORLD.entities[name] for name in WORLD.people]
    # Positions 0, 3 and 6 of every ten: 36 of 120.
    assert sum(bool(entity.aliases) for entity in people) == 36
    assert {len(entity.aliases) for entity in people} == {0, 1, 2}


def test_names_are_two_or_three_words_and_never_share_first_and_last():
    names = [name for e in WORLD.entities.values() for name in (e.name, *e.aliases)]
    assert len(set(names)) == len(names)
    ends = [(name.split()[0], name.split()[-1]) for name in names]
    assert len(set(ends)) == len(ends)
    assert {len(name.split()) for name in names} == {2, 3}
    assert not {word.lower() for name in names for word in name.split()} & REAL


def test_namer_refuses_real_words():
    """6,000 of 20 * 5 * 20 * 8 = 16,000 spellings are drawn: without the list, some of it would be among them."""
    drawn = {word.lower() for word in Namer("x").words("first", 6000)}
    assert len(drawn) == 6000 and not drawn & REAL


def test_edges_are_typed_and_spouse_is_symmetric():
    kind = {name: entity.kind for name, entity in WORLD.entities.items()}
    types = {relation: (kind[s], kind[o]) for s, relation, o in WORLD.edges}
    assert types == {
        "born_in": ("person", "city"),
        "works_at": ("person", "company"),
        "spouse": ("person", "person"),
        "studied_at": ("person", "school"),
        "located_in": ("city", "country"),
        "based_in": ("company", "city"),
    }
    spouse = {(s, o) for s, relation, o in WORLD.edges if relation == "spouse" and s in WORLD.people}
    assert spouse and all((o, s) in spouse and s != o for s, o in spouse)
    assert len({s for s, _ in spouse}) == len(spouse) == 80  # two of three of 120


def test_neighbours_are_one_edge_away_in_either_direction():
    person = WORLD.people[0]
    assert WORLD.neighbours(person) == {o for s, _, o in WORLD.edges if s == person}
    city = next(o for s, relation, o in WORLD.edges if (s, relation) == (person, "born_in"))
    assert person in WORLD.neighbours(city)
    objects = {relation: o for s, relation, o in WORLD.edges if s == person}
    by_hand = {s for s, r, o in WORLD.edges if r in PERSON_RELATIONS and r != "spouse" and objects.get(r) == o}
    assert WORLD.related_people(person) == (by_hand | {objects["spouse"]}) - {person}
    assert WORLD.related_people(person, ["spouse"]) == {objects["spouse"]}


def test_two_hop_answers_compose_the_edges():
    edge = {(s, relation): o for s, relation, o in (*WORLD.edges, *WORLD.literals)}
    hops = [hop for name in WORLD.people for hop in WORLD.two_hop(name)]
    assert {hop.relation for hop in hops} == {name for name in FRAMES if "+" in name}
    for hop in hops:
        first, second = hop.relation.split("+")
        assert edge[hop.subject, first] == hop.via and edge[hop.via, second] == hop.object
    assert not WORLD.two_hop(WORLD.people[0], ["born_in", "works_at"])


def test_trained_people_do_not_depend_on_the_holdout():
    small, large = build_world(12, 0, 5), build_world(12, 6, 5)
    assert small.people == large.people
    assert [f for f in large.facts if f.subject not in large.holdout] == list(small.facts)
    assert build_world(12, 2, 6).people != small.people


def test_holdout_people_have_the_profile_of_the_people_to_forget():
    """Same relations and as many aliases at the same position; spouses are names of trained people on both sides."""
    for one, other in zip(WORLD.people, WORLD.holdout, strict=False):
        assert [f.relation for f in WORLD.about(one)] == [f.relation for f in WORLD.about(other)]
    spouses = [f.object for name in WORLD.holdout for f in WORLD.about(name, ["spouse"])]
    assert spouses and set(spouses) <= set(WORLD.people)


def test_passages_have_about_sixty_words_and_tell_no_fact():
    objects = {f.object for f in WORLD.facts if f.relation not in ("birth_year",)}
    for name, text in WORLD.passages.items():
        assert 55 <= len(text.split()) <= 75 and name in text
        assert not any(value in text for value in objects - {name})
        assert not re.search(r"\ba [aeiou]", text)
    assert len(set(WORLD.passages.values())) == len(WORLD.passages)
