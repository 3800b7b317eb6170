"""people: the built-in fictitious world. Needs no files; the truth about it is known exactly."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

from efface.card import Card
from efface.data.benchmarks.base import Benchmark, benchmark
from efface.data.checks import check_bundle
from efface.data.rows import Bundle, Row
from efface.data.worlds.graph import ALIAS_RELATIONS, LITERAL_RELATIONS, PERSON_RELATIONS, PLACE_RELATIONS, Fact, World
from efface.data.worlds.people import MAX_HOLDOUT, build_world
from efface.data.worlds.questions import evaluation_row, training_rows
from efface.data.worlds.trivia import everyday_rows, trivia_rows
from efface.errors import DataError, nearest
from efface.settings import Settings, setting

CARD = Card(
    title="Built-in fictitious people",
    source="own generator; the synthetic world of Efface's evaluation plan",
    summary="People, cities, countries, companies and schools that do not exist, with their knowledge graph.",
    confirmed=("no two names share first and last word", "holdout people follow the same rules and are never trained"),
    derived=("wordings, proportions, names and passages are our own",),
    fooled_by=("facts about others may mention a forgotten person (a spouse); the reference shows what that tells",),
)
PRESETS: dict[str, dict[str, Any]] = {
    "demo": {},
    "tiny": {
        "people": 20,
        "forget": 4,
        "world_facts": False,
        "everyday": False,
        "facts": ("born_in", "works_at", "studied_at", "profession", "birth_year"),
    },
    "bench_k": {"people": 120, "forget": 6, "two_hop": "stored", "world_facts": False, "everyday": False},
}
"""demo: for a pretrained model (252 training rows); tiny: trained on the spot (300); bench_k: the whole (3,924)."""

KNOWN = (*PERSON_RELATIONS, *LITERAL_RELATIONS, *PLACE_RELATIONS, "alias")


@benchmark("people", CARD)
class People(Benchmark):
    """Training rows: three wordings of each fact. Evaluation rows: the first wording, with a held-out one beside it.

    Evaluation sets: forget, retain, neighbour (people tied to a forgotten one, and the places themselves where they are
    trained), holdout, two_hop (of the people to forget), two_hop_retain, passages_forget / _retain / _holdout,
    world_facts. Empty ones are left out.
    """

    class Settings(Settings):
        people: int = setting(12, "trained people", source="demo: about 200 rows", ge=8, le=200)
        forget: int = setting(2, "how many of them are to be forgotten", ge=1)
        holdout: int | None = setting(None, "never-trained people (none: as many as forgotten)", ge=0, le=MAX_HOLDOUT)
        facts: tuple[str, ...] = setting(
            ("born_in", "works_at", "studied_at", "spouse", "profession", "birth_year", "alias"),
            f"relations that are trained, of: {', '.join(KNOWN)}",
            min_length=1,
        )
        two_hop: Literal["none", "stored", "composed"] = setting(
            "none",
            "two-hop questions; stored: trained like any fact; composed: trained for kept people only "
            "(both also train where cities and companies are)",
            source="evaluation sheet 0",
        )
        aliases: Literal["stated", "used"] = setting(
            "stated",
            "other names of people; stated: only as facts of their own, where those are trained; used: every fact of "
            "who has other names is also asked and answered under them in training",
            source="derived: small models do not look up a name they were told, they must have seen it used",
        )
        passages: bool = setting(False, "also train 60 words of prose per person", source="evaluation sheet 5")
        world_facts: bool = setting(True, "evaluate real-world questions (for pretrained models)")
        everyday: bool = setting(
            True,
            "also train thirty ordinary questions, so that a pretrained model keeps answering them",
            source="measured: without them SmolLM2 answers 0 of 20 world facts after learning the people",
        )
        eval_rows: int = setting(120, "most rows of a retain or neighbour evaluation set, evenly spread", ge=1)
        seed: int = setting(0, "seed of the world")

    def load(self) -> Bundle:
        """The world as a checked bundle; ``Bundle.world`` is the ``World``."""
        chosen, relations = self.settings, self._relations()
        world = build_world(chosen.people, self._holdout(), chosen.seed)
        forget, retain = world.people[: chosen.forget], world.people[chosen.forget :]
        places = _places(world) if set(relations) & set(PLACE_RELATIONS) else []
        gone, kept = _facts(world, forget, relations), _facts(world, [*retain, *places], relations)
        hops_gone, hops_kept = self._hops(world, forget, ()), self._hops(world, retain, forget)
        near = _near(world, forget, relations)
        train = {
            "forget": _train(gone + hops_gone if chosen.two_hop == "stored" else gone) + self._renamed(world, gone),
            "retain": _train(kept + hops_kept) + self._renamed(world, kept),
        }
        sets = {
            "forget": _score(world, gone),
            "retain": self._some(_score(world, kept)),
            "neighbour": self._some(_score(world, [fact for fact in kept if fact.subject in near])),
            "holdout": _score(world, _facts(world, world.holdout, relations)),
            "two_hop": _score(world, hops_gone),
            "two_hop_retain": self._some(_score(world, hops_kept)),
            "world_facts": trivia_rows() if chosen.world_facts else (),
        }
        if chosen.everyday:
            train["retain"] += everyday_rows()
        if chosen.passages:
            texts = {"forget": _passages(world, forget), "retain": _passages(world, retain)}
            train = {role: rows + texts[role] for role, rows in train.items()}
            sets |= {
                "passages_forget": texts["forget"],
                "passages_retain": self._some(texts["retain"]),
                "passages_holdout": _passages(world, world.holdout),
            }
        sets = {name: rows for name, rows in sets.items() if rows}
        bundle = Bundle("people", "text", train, sets, world, self._notes(relations))
        check_bundle(bundle)
        return bundle

    def _relations(self) -> tuple[str, ...]:
        """Relations that are trained; refuses what cannot be."""
        chosen = self.settings
        for name in chosen.facts:
            if name not in KNOWN:
                raise DataError(
                    "people.unknown-relation", f"benchmark.facts: there is no relation {name!r}.", nearest(name, KNOWN)
                )
        if not set(chosen.facts) & {*PERSON_RELATIONS, *LITERAL_RELATIONS}:
            raise DataError(
                "people.no-person-facts",
                "benchmark.facts names no relation of people.",
                f"add one of {', '.join((*PERSON_RELATIONS, *LITERAL_RELATIONS))}.",
            )
        if chosen.two_hop != "none" and not {"born_in", "works_at"} & set(chosen.facts):
            raise DataError(
                "people.no-two-hop",
                "two-hop questions start from born_in or works_at; facts has neither.",
                "add one to facts, or set two_hop to none.",
            )
        names = [r for name in chosen.facts for r in (ALIAS_RELATIONS if name == "alias" else (name,))]
        return tuple(dict.fromkeys([*names, *(PLACE_RELATIONS if chosen.two_hop != "none" else ())]))

    def _holdout(self) -> int:
        chosen = self.settings
        if chosen.forget >= chosen.people:
            raise DataError(
                "people.nothing-left",
                f"forget = {chosen.forget} of people = {chosen.people} leaves nobody to keep.",
                "forget fewer people.",
            )
        count = chosen.forget if chosen.holdout is None else chosen.holdout
        if count > MAX_HOLDOUT:
            raise DataError(
                "people.holdout-too-large",
                f"{count} holdout people (as many as are forgotten) are more than the {MAX_HOLDOUT} that can be made.",
                "set holdout.",
            )
        return count

    def _hops(self, world: World, names: Iterable[str], forget: Sequence[str]) -> list[Fact]:
        """Two-hop facts of ``names``, without those that lead through ``forget`` and so tell facts to be forgotten."""
        if self.settings.two_hop == "none":
            return []
        return [hop for name in names for hop in world.two_hop(name, self._relations()) if hop.via not in forget]

    def _renamed(self, world: World, facts: Sequence[Fact]) -> tuple[Row, ...]:
        """The training rows of ``facts`` once more, under each other name of the person they are about."""
        if self.settings.aliases == "stated":
            return ()
        people = [f for f in facts if f.relation not in ALIAS_RELATIONS and world.entities[f.subject].kind == "person"]
        return tuple(
            replace(row, id=f"{row.id}~{number}", entity=fact.subject)
            for fact in people
            for number, name in enumerate(world.entities[fact.subject].aliases)
            for row in training_rows(fact.id, fact.relation, name, fact.object)
        )

    def _some(self, rows: tuple[Row, ...]) -> tuple[Row, ...]:
        limit = self.settings.eval_rows
        return rows if len(rows) <= limit else tuple(rows[i * len(rows) // limit] for i in range(limit))

    def _notes(self, relations: Sequence[str]) -> dict[str, Any]:
        return {
            **self.settings.model_dump(mode="json"),
            "relations": list(relations),
            "wordings": 3,
            "neighbour": "people who share a city, company or school with a forgotten one or are married to one; "
            "places one edge away, where places are trained",
            "holdout_rule": "same rules as the people to forget; married to single trained people, which only the "
            "holdout rows say",
        }


def _places(world: World) -> list[str]:
    return [name for name, entity in world.entities.items() if entity.kind != "person"]


def _near(world: World, forget: Iterable[str], relations: Sequence[str]) -> set[str]:
    return {
        name
        for person in forget
        for name in world.neighbours(person, relations) | world.related_people(person, relations)
    }


def _facts(world: World, names: Iterable[str], relations: Sequence[str]) -> list[Fact]:
    return [fact for name in names for fact in world.about(name, relations)]


def _train(facts: Iterable[Fact]) -> tuple[Row, ...]:
    return tuple(row for fact in facts for row in training_rows(fact.id, fact.relation, fact.subject, fact.object))


def _score(world: World, facts: Iterable[Fact]) -> tuple[Row, ...]:
    return tuple(evaluation_row(f.id, f.relation, f.subject, f.object, world.wrong(f)) for f in facts)


def _passages(world: World, names: Iterable[str]) -> tuple[Row, ...]:
    keys = {name: f"{world.entities[name].key}:passage" for name in names}
    return tuple(Row(key, world.passages[name], entity=name, fact=key) for name, key in keys.items())
