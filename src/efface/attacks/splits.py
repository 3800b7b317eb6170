"""Which forgotten questions an input attack is trained on, and which are kept back to be tested."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal

from efface.attacks.base import Attack
from efface.attacks.held_out import fact, overlap, split
from efface.attacks.some_rows import evenly
from efface.attacks.wording import NO_QUESTIONS, asked
from efface.data.rows import Bundle, Row, Rows
from efface.models.base import ModelAdapter
from efface.settings import Settings, setting

By = Literal["fact", "entity"]


class SplitSettings(Settings):
    """Settings of an attack that trains on some forgotten facts and is tested on others."""

    rows: int = setting(32, "most training questions, evenly spread", source="derived", ge=1)
    split: By = setting(
        "fact", "fact: test other facts of the same entities; entity: test other entities", source="RTT"
    )
    test_share: float = setting(0.5, "share of facts or entities that is tested", source="RTT", gt=0, lt=1)


class SplitAttack(Attack):
    """Base of attacks that train on some forgotten facts and are tested on others."""

    class Settings(SplitSettings):
        """What every such attack lets you set."""

    def measured(self, data: Bundle) -> dict[str, Rows]:
        """Only facts that are not trained."""
        return {"forget": tested_rows(data, self.settings.split, self.settings.test_share)}

    def check(self, data: Bundle) -> str:
        """There must be facts on both sides of the split."""
        chosen = self.settings
        if not asked(data.eval.get("forget", ())):
            return NO_QUESTIONS
        if not trained_rows(data, chosen.split, chosen.test_share):
            return f"no training question is left on the other side of a split by {chosen.split}"
        return "" if self.measured(data)["forget"] else "no fact is left to be tested"

    def training(self, data: Bundle) -> list[Row]:
        """The questions that are trained on."""
        chosen = self.settings
        return list(evenly(trained_rows(data, chosen.split, chosen.test_share), chosen.rows))  # type: ignore[arg-type]


def label_tokens(adapter: ModelAdapter, rows: Sequence[Row]) -> int:
    """Answer tokens of ``rows``: what an attacker who trains on them tells."""
    return sum(adapter.encode(row).labels for row in rows)


def tested_rows(data: Bundle, by: By, share: float) -> list[Row]:
    """The forget questions that are tested. ``fact``: ``share`` of each entity's facts (at least one, if it has two);
    ``entity``: all facts of ``share`` of the entities."""
    rows = asked(data.eval.get("forget", ()))
    trained = _trained(rows, by, share)
    return [r for r in rows if fact(r) not in trained]


def trained_rows(data: Bundle, by: By, share: float) -> list[Row]:
    """Training questions about the other facts, without any that gives away what is tested."""
    trained = _trained(asked(data.eval.get("forget", ())), by, share)
    rows = [r for r in asked(data.train.get("forget", ())) if fact(r) in trained]
    given_away = set(overlap(rows, tested_rows(data, by, share)))
    return [r for r in rows if r.id not in given_away]


def _trained(rows: list[Row], by: By, share: float) -> frozenset[str]:
    """Facts that are trained, drawn by name, so that every model gets the same."""
    if by == "fact":
        return split(rows, test_share=share, validation_share=0.0).train
    entities = sorted({r.entity or r.id for r in rows})
    order = random.Random("split/entity").sample(entities, len(entities))
    chosen = set(order[max(1, round(share * len(order))) :])
    return frozenset(fact(r) for r in rows if (r.entity or r.id) in chosen)
