"""Which facts an attacker trains on, which choose settings, which are tested; when a row gives a tested one away."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from efface.data.rows import Row
from efface.data.telling import plain, telling

NGRAM = 8
MIN_ENTITIES = 4  # with fewer, a whole entity is too much of the test to give to validation


@dataclass(frozen=True)
class Split:
    """Facts in three parts that share none. ``by_entity``: no validation entity is tested."""

    train: frozenset[str]
    validation: frozenset[str]
    test: frozenset[str]
    by_entity: bool

    def rows(self, part: str, rows: Sequence[Row]) -> list[Row]:
        """The rows of one part (``train``, ``validation`` or ``test``), in order."""
        return [row for row in rows if fact(row) in getattr(self, part)]


def split(rows: Sequence[Row], *, test_share: float, validation_share: float) -> Split:
    """Divide the facts of ``rows`` (the evaluation set). ``test_share`` of each entity's facts is held out, at least
    one (1: all); ``validation_share`` of what is held out goes to validation (0: none): whole entities where there are
    ``MIN_ENTITIES`` of them, else a share of each entity's held-out facts. The same rows always give the same parts."""
    held, trained = _held_out(rows, test_share)
    entities = sorted(held)
    by_entity = validation_share > 0 and len(entities) >= MIN_ENTITIES
    if by_entity:
        count = min(len(entities) - 1, max(1, round(validation_share * len(entities))))
        chosen = set(random.Random("validation").sample(entities, count))
        validation = {f for e in chosen for f in held[e]}
    else:
        validation = {f for e in entities for f in held[e][: _share(held[e], validation_share)]}
    test = {f for facts in held.values() for f in facts} - validation
    return Split(frozenset(trained), frozenset(validation), frozenset(test), by_entity)


def _held_out(rows: Sequence[Row], test_share: float) -> tuple[dict[str, list[str]], set[str]]:
    """(held-out facts by entity, trained facts)."""
    by_entity: dict[str, list[str]] = {}
    for row in rows:
        facts = by_entity.setdefault(row.entity, [])
        if fact(row) not in facts:
            facts.append(fact(row))
    held, trained = {}, set()
    for entity, facts in by_entity.items():
        order = random.Random(f"relearn/{entity}").sample(facts, len(facts))
        cut = max(1, round(test_share * len(order)))
        held[entity] = order[:cut]
        trained.update(order[cut:])
    return held, trained


def _share(facts: Sequence[str], share: float) -> int:
    """How many of an entity's held-out facts go to validation: some, but never all."""
    return min(len(facts) - 1, max(1, round(share * len(facts)))) if share else 0


def fact(row: Row) -> str:
    """What ties the wordings of one fact together."""
    return row.fact or row.id


def overlap(rows: Sequence[Row], tested: Sequence[Row]) -> list[str]:
    """Ids of rows that give a tested row away. Such a row asks its question, holds its whole answer, shares a run of
    ``NGRAM`` words with the answer (one of them not from the question), or is about its entity and holds every telling
    word of the answer (``data.telling``)."""
    secrets = Secrets.of(tested)
    return [row.id for row in rows if secrets.given_away_by(row)]


@dataclass(frozen=True)
class Secrets:
    """The tested rows in the terms of the check; answers of ``NGRAM`` words and more are known by their runs."""

    names: frozenset[str]
    questions: frozenset[str]
    answers: frozenset[str]
    runs: frozenset[tuple[str, ...]]
    told: Mapping[str, list[frozenset[str]]]  # {entity: telling words of each answer}

    @classmethod
    def of(cls, tested: Sequence[Row]) -> Secrets:
        runs: set[tuple[str, ...]] = set()
        told: dict[str, list[frozenset[str]]] = defaultdict(list)
        for row in tested:
            added = set(plain(row.answer).split()) - set(plain(row.prompt).split())
            runs.update(run for run in _runs(plain(row.answer)) if added & set(run))
            words = frozenset(part for word in telling(row) for part in plain(word.text).split())
            if row.entity and words:
                told[row.entity].append(words)
        answers = {a for a in (plain(t.answer) for t in tested) if a and len(a.split()) < NGRAM}
        questions = {plain(t.prompt) for t in tested} - {""}
        names = frozenset(plain(t.entity) for t in tested if t.entity)
        return cls(names, frozenset(questions), frozenset(answers), frozenset(runs), told)

    def named_by(self, row: Row) -> bool:
        """Whether ``row`` names one of their entities."""
        text = _padded(row)
        return any(_holds(text, name) for name in self.names)

    def given_away_by(self, row: Row) -> bool:
        """Whether ``row`` gives one of them away (``overlap``)."""
        text = _padded(row)
        return (
            plain(row.prompt) in self.questions
            or not self.runs.isdisjoint(_runs(text))
            or any(_holds(text, answer) for answer in self.answers)
            or self._tells(row, text)
        )

    def _tells(self, row: Row, text: str) -> bool:
        words = set(text.split())
        about = (e for e in self.told if e == row.entity or _holds(text, plain(e)))
        return any(told <= words for entity in about for told in self.told[entity])


def _holds(text: str, phrase: str) -> bool:
    """Whether ``phrase`` stands in padded ``text`` as whole words; some scripts put no borders between words."""
    return f" {phrase} " in text or (not phrase.isascii() and phrase in text)


def _padded(row: Row) -> str:
    return f" {plain(f'{row.prompt} {row.answer}')} "


def _runs(text: str) -> Iterator[tuple[str, ...]]:
    words = text.split()
    return (tuple(words[i : i + NGRAM]) for i in range(len(words) - NGRAM + 1))
