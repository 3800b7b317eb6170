"""What axes are built from: the world, who is forgotten, and rows of the kinds that several axes use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from efface.data.rows import Row
from efface.data.worlds.graph import Fact, World
from efface.data.worlds.questions import FRAMES, evaluation_row, training_rows

OPENING = 20  # words of a passage that are given
LEADS = ("", "As far as you know: ", "Please go on: ")


@dataclass(frozen=True)
class Parts:
    """``train`` and ``eval`` of a bundle, and what its facts should say."""

    train: Mapping[str, Iterable[Row]]
    eval: Mapping[str, Iterable[Row]]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Ground:
    """The world with its people by fate, the relations that are trained, and the benchmark's settings."""

    world: World
    forget: tuple[str, ...]
    retain: tuple[str, ...]
    holdout: tuple[str, ...]
    relations: tuple[str, ...]
    settings: Any

    def facts(self, names: Iterable[str], relations: Iterable[str] | None = None) -> list[Fact]:
        """Facts of ``names``, of the trained relations unless others are named."""
        chosen = self.relations if relations is None else tuple(relations)
        return [fact for name in names for fact in self.world.about(name, chosen)]

    def taught(self, names: Iterable[str], relations: Iterable[str] | None = None) -> list[Row]:
        """Three training wordings of every fact."""
        return [
            row for f in self.facts(names, relations) for row in training_rows(f.id, f.relation, f.subject, f.object)
        ]

    def asked(self, names: Iterable[str], relations: Iterable[str] | None = None) -> list[Row]:
        """The evaluation row of every fact."""
        return [
            evaluation_row(f.id, f.relation, f.subject, f.object, self.world.wrong(f))
            for f in self.facts(names, relations)
        ]

    def documents(self, names: Iterable[str]) -> list[Row]:
        """Passages as plain documents."""
        keys = {name: f"{self.key(name)}:passage" for name in names}
        return [Row(key, self.world.passages[name], entity=name, fact=key) for name, key in keys.items()]

    def continuations(self, names: Iterable[str]) -> list[Row]:
        """Passages as an opening of ``OPENING`` words and what comes after it."""
        return [continuation(f"{self.key(name)}:verbatim", self.world.passages[name], name) for name in names]

    def near(self) -> set[str]:
        """Kept people who are tied to a forgotten one."""
        return {other for name in self.forget for other in self.world.related_people(name, self.relations)} & {
            *self.retain
        }

    def key(self, name: str) -> str:
        """Short id of an entity."""
        return self.world.entities[name].key


def in_other_words(rows: Iterable[Row]) -> list[Row]:
    """Training rows of forms that have one wording only: the prompt as it is, and behind two lead-ins."""
    return [
        Row(f"{row.id}:{k}", row.answer, f"{lead}{row.prompt}", row.entity, fact=row.fact)
        for row in rows
        for k, lead in enumerate(LEADS)
    ]


def continuation(key: str, text: str, entity: str, opening: int = OPENING) -> Row:
    """A text as its first ``opening`` words and the rest."""
    words = text.split()
    opening = min(opening, len(words) // 2)
    return Row(key, " ".join(words[opening:]), " ".join(words[:opening]), entity, fact=key)


def sentence(fact: Fact, obj: str | None = None) -> str:
    """A fact as the sentence that answers its question."""
    return FRAMES[fact.relation].answer.format(s=fact.subject, o=fact.object if obj is None else obj)


def biography(facts: Iterable[Fact]) -> str:
    """The sentences of several facts, one after the other."""
    return " ".join(map(sentence, facts))
